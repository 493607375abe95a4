"""What tests need of the machine: programs, free ports, and what becomes of a test whose need is absent."""

from __future__ import annotations

import getpass
import importlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from simulator.broker import free_port
from simulator.children import end_with_parent

ROOT = Path(__file__).resolve().parent.parent
CLIENT = ROOT / "micropython_client"
PACKAGE = CLIENT / "tinyreptile"
# Its modules of integer arithmetic; each is there with an 8 at its end, too.
ARITHMETIC = ("kernels", "convolutions", "loops", "taps", "wire", "sparse", "noise")


def require(condition: object, what: str) -> None:
    """Go on if ``condition`` holds; else skip the test with ``what`` it needs, or fail it in continuous integration."""
    if condition:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"absent in CI: {what}")
    pytest.skip(what)


def need_module(name: str) -> Any:
    """The module ``name``; the test is skipped where it is not installed."""
    require(importlib.util.find_spec(name), f"needs the Python package {name}")
    return importlib.import_module(name)


def find_program(name: str) -> str | None:
    """Path of ``name``: beside the Python that runs, on PATH, or where systems keep their daemons."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]
    return shutil.which(name, path=os.pathsep.join(folders))


def need_program(name: str) -> str:
    """Path of ``name``; the test is skipped where there is none."""
    path = find_program(name)
    require(path, f"needs the program {name}")
    assert path
    return path


def run_micropython(
    script: str | Path, *arguments: object, heap: str = "8M", client: Path = CLIENT
) -> subprocess.CompletedProcess[str]:
    """Run the file ``script`` with the unix port of MicroPython, with the library of ``client`` on its path."""
    command = [need_program("micropython"), "-X", f"heapsize={heap}", str(script), *map(str, arguments)]
    environment = os.environ | {"MICROPYPATH": f"{client}:.frozen"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)


def with_hosts(folder: Path, *lines: str) -> list[str]:
    """What goes before a command to have it run with a table of hosts of its own, of ``lines``, kept in ``folder``."""
    hosts = folder / "hosts"
    hosts.write_text("\n".join(lines) + "\n")
    before = [need_program("unshare"), "--map-root-user", "--mount", "sh", "-c"]
    before += ['mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]
    require(
        subprocess.run([*before, "true"], capture_output=True, check=False).returncode == 0,
        "needs name spaces of mounts for users",
    )
    return before


class Mosquitto:
    """A Mosquitto of the test's own: loopback, a free port, nothing kept on disk but its configuration in ``folder``.

    ``lines`` are added to its configuration; without any it lets everybody in.
    """

    host = "127.0.0.1"

    def __init__(self, folder: Path, *lines: str) -> None:
        self.port = free_port()
        self.config = folder / f"mosquitto-{self.port}.conf"
        self.log = folder / f"mosquitto-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None
        settings = [
            f"user {getpass.getuser()}",
            f"listener {self.port} {self.host}",
            "persistence false",
            "set_tcp_nodelay true",
            "log_dest stderr",
            *(lines or ["allow_anonymous true"]),
        ]
        self.config.write_text("\n".join(settings) + "\n")

    def start(self) -> None:
        """Start it and return once it accepts connections."""
        with self.log.open("ab") as log:
            command = [need_program("mosquitto"), "-c", str(self.config)]
            self._process = subprocess.Popen(command, stderr=log, preexec_fn=end_with_parent())
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((self.host, self.port), 1).close()
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.stop()
                    pytest.fail(f"Mosquitto does not start: {self.log.read_text()}")
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """End the process, if it runs."""
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
