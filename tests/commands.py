"""The `tinyreptile` command as a user types it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

COMMAND = [sys.executable, "-c", "from command_line.main import main; main()"]

Popen = subprocess.Popen[str]


def tinyreptile(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command with ``arguments``, run to its end in ``cwd``."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.1)


def lines_until(process: Popen, enough: Callable[[list[str]], bool], seconds: float = 60) -> list[str]:
    """The lines that ``process`` prints until they are ``enough``; it is ended then, and after ``seconds`` anyway."""
    limit = threading.Timer(seconds, process.kill)
    limit.start()
    lines: list[str] = []
    assert process.stdout
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if enough(lines):
            break
    limit.cancel()
    process.terminate()
    assert enough(lines), lines
    return lines


def check_missing_data(module: str, folder: Path) -> None:
    """Check that the benchmark ``module`` says in one line that data are missing, where the home is ``folder``."""
    environment = {name: value for name, value in os.environ.items() if name != "TINYREPTILE_DATA"}
    done = subprocess.run(
        [sys.executable, "-m", module, "--task", "presence"],
        env=environment | {"HOME": str(folder), "XDG_CACHE_HOME": str(folder), "XDG_DATA_HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: data set occupancy")
    assert len(done.stderr.splitlines()) == 1
