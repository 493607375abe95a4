"""Processes under the bench's eye: each with a log and a group of its own, killed or started anew at will."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from simulator.children import end_with_parent

RESTART_SECONDS = 0.1  # as systemd waits by default
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """A command, started by `start`; what it prints goes to the end of ``log``.

    Attributes:
        environment: of its next start.
        groups: process groups of all its starts.
    """

    def __init__(self, command: Sequence[object], log: Path) -> None:
        self.command = [str(part) for part in command]
        self.log = log
        self.environment = os.environ | {"COLUMNS": "200"}
        self._process: asyncio.subprocess.Process | None = None
        self.groups: list[int] = []

    async def start(self) -> None:
        """Start it, in a group of its own with whatever it starts itself; it does not outlive the bench."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
                preexec_fn=end_with_parent(),
            )
        self.groups.append(self._process.pid)

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        assert self._process
        return await self._process.wait()

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self._process
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def kill(self) -> bool:
        """Kill -9 the whole group; whether there was anything to kill."""
        if not self.running:
            return False
        assert self._process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()
        return True

    def left(self) -> list[str]:
        """Command lines of processes that still live in any of its groups."""
        return [command for group, command in _living() if group in self.groups]

    def end(self) -> None:
        """Whatever is left of it."""
        for group in self.groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


class Service(Process):
    """A process that is started again whenever it ends, as systemd would, until it ends well.

    Attributes:
        starts: how often it was started.
        started_at: when it was started last, by the monotonic clock.
        gave_up: how often it ended by itself with an error, a missing broker for example.
    """

    def __init__(self, command: Sequence[object], log: Path) -> None:
        super().__init__(command, log)
        self.starts = 0
        self.started_at = 0.0
        self.gave_up = 0
        self._life: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._begin()
        self._life = asyncio.create_task(self._live())

    async def _begin(self) -> None:
        self.started_at = time.monotonic()
        await super().start()
        self.starts += 1

    async def _live(self) -> None:
        while (code := await super().wait()) != 0:
            self.gave_up += code > 0
            await asyncio.sleep(RESTART_SECONDS)
            await self._begin()

    async def wait(self) -> int:
        """Return 0 once it has ended well."""
        assert self._life
        await asyncio.shield(self._life)
        return 0

    @property
    def ended(self) -> bool:
        """Whether it has ended well."""
        return self._life is not None and self._life.done()

    def end(self) -> None:
        if self._life:
            self._life.cancel()
        super().end()


def _living() -> Iterator[tuple[int, str]]:
    """(process group, command line) of each process of the machine that has not ended."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            state, _, group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if state not in "ZX":  # a zombie has ended; who should take notice of it is not the bench's affair
                yield int(group), command


def memory(pid: int) -> int:
    """Bytes of RAM that process ``pid`` holds (RSS)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def seconds_of_work(pid: int) -> float:
    """Seconds of a processor that process ``pid`` has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def files(pid: int) -> int:
    """File descriptors that process ``pid`` has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def threads(pid: int) -> int:
    """Threads of process ``pid``."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
