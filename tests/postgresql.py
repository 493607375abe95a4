"""A PostgreSQL server of the tests' own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from .environment import find_program, free_port, require


class PostgreSQL:
    """A server on loopback, in a folder of its own; as root it runs as the system's user postgres."""

    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        program = found[-1] if found else find_program("initdb")
        require(program, "needs the program initdb of PostgreSQL")
        self._programs = Path(str(program)).parent
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        self._data = self._folder / "data"
        self._as: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        self._run("initdb", "-D", self._data, "-U", "tester", "-A", "trust", "-N", "-E", "UTF8")

    def start(self) -> None:
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1"
        self._run("pg_ctl", "-D", self._data, "-w", "-l", self._folder / "log", "-o", options, "start")

    def stop(self, *, mode: str = "immediate") -> None:
        """Stop it; "immediate" is what a crash leaves behind."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", mode, "stop")

    def url(self) -> str:
        return f"postgresql://tester@127.0.0.1:{self.port}/postgres"

    def remove(self) -> None:
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: object) -> None:
        command = [*self._as, str(self._programs / program), *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60, cwd="/")
