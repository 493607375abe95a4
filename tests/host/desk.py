"""A board on the desk: MicroPython's unix port behind a pseudo-terminal, with a prompt, a flash folder and a reset.

The interpreter is real, and so are its compiler, its files and its sockets; prompt and reset stand in for a board's.
To try `tinyreptile flash` without a board: ``python -m tests.host.desk FOLDER`` is one until Ctrl-C, its flash FOLDER.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import tty
from pathlib import Path
from typing import Self

from tests.environment import need_program

RESET = 99  # exit code of a process that has reset the board
_DEVICE = Path(__file__).parent / "device"
_CTRL_C = b"\x03"


class Desk:
    """A board whose flash is ``folder``, on the serial port `port`; a context manager.

    Attributes:
        starts: how often it has started.
    """

    def __init__(self, folder: Path, heap: str = "256K") -> None:
        self.folder = folder
        self.starts = 0
        self._heap = heap
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.port = os.ttyname(self._slave)
        self._ended = False
        self._process: subprocess.Popen[bytes] | None = None
        self._prompt = False
        self._lock = threading.Lock()
        self._life = threading.Thread(target=self._live)
        self._input = threading.Thread(target=self._take_input, daemon=True)

    def __enter__(self) -> Self:
        self._life.start()
        self._input.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended = True
        self.cut_power()
        self._life.join(10)
        self._input.join(10)
        os.close(self._slave)
        os.close(self._master)

    def cut_power(self) -> None:
        """End what runs, with no word; the board starts anew unless the context ends."""
        with self._lock:
            if self._process:
                self._process.kill()

    def _live(self) -> None:
        task = "run"
        while not self._ended:
            self.starts += task == "run"
            code = self._run(task)
            task = "run" if code in (RESET, -signal.SIGKILL) else "repl"

    def _run(self, task: str) -> int:
        with self._lock:
            command = [need_program("micropython"), "-X", f"heapsize={self._heap}", str(_DEVICE / "start.py")]
            process = self._process = subprocess.Popen(
                [*command, str(self.folder), task, str(_DEVICE)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
            self._prompt = task == "repl"
        with process:
            assert process.stdout
            while data := os.read(process.stdout.fileno(), 4096):
                self._print(data)
        return process.returncode

    def _print(self, data: bytes) -> None:
        """Write ``data`` to the port; as on a board, what nobody reads is lost."""
        while data and select.select([], [self._master], [], 1)[1]:
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self._master, data) :]

    def _take_input(self) -> None:
        """What the host writes: to the prompt; while a program runs, Ctrl-C interrupts it and the rest waits."""
        waiting = b""
        while not self._ended:
            if not select.select([self._master], [], [], 0.1)[0]:
                continue
            waiting += os.read(self._master, 4096)
            if not self._prompt:
                if _CTRL_C not in waiting:
                    waiting = b""  # nobody reads it
                    continue
                self._interrupt()
                waiting = waiting.rpartition(_CTRL_C)[2]
            with self._lock:
                assert self._process
                assert self._process.stdin
                try:
                    self._process.stdin.write(waiting)
                    self._process.stdin.flush()
                except (OSError, ValueError):
                    pass  # it has just ended
            waiting = b""

    def _interrupt(self) -> None:
        with self._lock:
            if self._process and not self._prompt:
                self._process.send_signal(signal.SIGINT)
        for _ in range(500):
            if self._prompt or self._ended:
                return
            threading.Event().wait(0.01)


def main(folder: Path) -> None:
    """A board whose flash is ``folder``, which is made if it is absent, until Ctrl-C."""
    folder.mkdir(parents=True, exist_ok=True)
    with Desk(folder.absolute()) as desk:
        print(f"a board is at {desk.port}; Ctrl-C takes it away", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
