"""A swarm spread over processes: each runs its part of the fleet and reports what it counts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from coordinator.errors import CoordinatorError
from coordinator.output import Unblocked

from .children import deaf_to_ctrl_c, ending
from .swarm import Counts, Swarm, SwarmSpec
from .tasks import TaskError

REPORT_SECONDS = 0.5
COMPILING_SECONDS = 0.1  # between two reports before the devices connect: somebody waits for them
COMPILING_SILENT_SECONDS = 180.0  # after the last report: a kernel that is compiled blocks a process for long
SILENT_SECONDS = 30.0  # when all kernels are there, on a busy machine, too
STOP_SECONDS = 15.0

# What the parent sends. A process reports again only when its last report has been read: so neither side ever waits
# for the other to empty the pipe.
_READ, _CONNECT, _STOP = "read", "connect", "stop"


@dataclass(frozen=True)
class Report:
    """What a part of a swarm reports, and with ``done`` at its end."""

    counts: Counts
    problem: str | None = None
    ready: bool = False
    compiling: tuple[int, int] | None = None
    done: bool = False


def _report(swarm: Swarm, *, done: bool = False) -> Report:
    return Report(swarm.counts(), swarm.problem, swarm.ready, swarm.compiling, done)


@dataclass
class _Part:
    """A process, as the parent sees it; ``heard`` is when it last reported, None if it never did."""

    spec: SwarmSpec
    process: BaseProcess
    pipe: Connection
    theirs: Connection
    report: Report = field(default_factory=lambda: Report(Counts()))
    heard: float | None = None

    def receive(self) -> None:
        """Take the reports that have come."""
        with contextlib.suppress(EOFError, OSError):
            while self.pipe.poll():
                self.report = self.pipe.recv()
                self.heard = time.monotonic()
                with contextlib.suppress(OSError):  # it is gone, and its last report may still be in the pipe
                    self.pipe.send(_READ)

    def counts(self) -> Counts:
        """What it has reported; of a process that is gone nothing is online."""
        self.receive()
        alive = self.process.is_alive()
        return self.report.counts if alive else replace(self.report.counts, online=0)

    def lost(self) -> str | None:
        """What became of it if it is gone or has fallen silent, in a sentence."""
        alive = self.process.is_alive()  # before the last report is taken: then none can be missed
        self.receive()
        devices = f"{self.spec.devices + self.spec.evaluators} simulated devices"
        if not alive and self.process.pid is not None:
            if self.report.done and self.report.problem:
                return self.report.problem
            return f"the process of {devices} has ended with {ending(self.process.exitcode)}"
        seconds = SILENT_SECONDS if self.report.ready else COMPILING_SILENT_SECONDS
        if self.heard is not None and time.monotonic() - self.heard > seconds:
            return f"the process of {devices} has not reported anything for {seconds:.0f} seconds"
        return None


class SwarmProcesses:
    """The fleet of ``spec`` in ``count`` processes of its own. Start, look at `counts` and `lost`, stop."""

    def __init__(self, spec: SwarmSpec, count: int = 1, *, report_seconds: float = REPORT_SECONDS) -> None:
        context = multiprocessing.get_context("spawn")
        self._parts: list[_Part] = []
        for part in spec.split(count):
            ours, theirs = context.Pipe()
            arguments = part, theirs, report_seconds, logging.getLogger().level
            child = context.Process(target=_child, args=arguments, daemon=True)
            self._parts.append(_Part(part, child, ours, theirs))

    def start(self, *, hold: bool = False) -> None:
        """Start the processes, whose devices connect once they are ready, with ``hold`` no sooner than `connect`.

        They never see Ctrl-C, not even while they import: `stop` ends them.
        """
        with deaf_to_ctrl_c():
            for part in self._parts:
                part.process.start()
                part.theirs.close()
        if not hold:
            self.connect()

    def connect(self) -> None:
        """Let the devices connect."""
        for part in self._parts:
            with contextlib.suppress(OSError):  # it is gone, as `lost` will say
                part.pipe.send(_CONNECT)

    def _receive(self) -> None:
        for part in self._parts:
            part.receive()

    def counts(self) -> Counts:
        """Totals over the processes, half a second old at most."""
        return sum((part.counts() for part in self._parts), Counts())

    @property
    def problem(self) -> str | None:
        """Why devices could not take part, if some could not."""
        self._receive()
        return next((part.report.problem for part in self._parts if part.report.problem), None)

    @property
    def lost(self) -> str | None:
        """What became of a part of the fleet that is gone though nobody has stopped it, in a sentence; else None."""
        return next((lost for part in self._parts if (lost := part.lost())), None)

    @property
    def ready(self) -> bool:
        """Whether the kernels are compiled in all processes, so that their devices connect."""
        self._receive()
        return all(part.report.ready for part in self._parts)

    @property
    def compiling(self) -> tuple[int, int] | None:
        """How many kernels there are of how many, while a process compiles them."""
        self._receive()
        return max((part.report.compiling for part in self._parts if part.report.compiling), default=None)

    @property
    def running(self) -> bool:
        """Whether any process still lives."""
        self._receive()
        return any(part.process.is_alive() for part in self._parts)

    async def stop(self) -> Counts:
        """Let all devices say good-bye; returns the final totals."""
        self._receive()
        for part in self._parts:
            if part.process.is_alive():
                if part.heard is None:  # it is still starting, and has no devices
                    part.process.terminate()
                with contextlib.suppress(OSError):
                    part.pipe.send(_STOP)
        loop = asyncio.get_running_loop()
        end = loop.time() + STOP_SECONDS
        while self.running and loop.time() < end:  # noqa: ASYNC110 - a process has no event to wait for
            await asyncio.sleep(0.05)
        for part in self._parts:
            if part.process.is_alive():
                part.process.kill()  # one that is stopped does not hear of anything less
            if part.process.pid is not None:
                part.process.join()
        return self.counts()


def _child(spec: SwarmSpec, pipe: Connection, report_seconds: float, level: int) -> None:
    """A process's life: until it is to stop, or until the parent is gone."""
    logging.basicConfig(level=level, format="%(message)s", handlers=[logging.StreamHandler(Unblocked(sys.stderr))])
    try:
        swarm = Swarm(spec)
    except (TaskError, CoordinatorError) as error:  # of its data, or its credentials
        pipe.send(Report(Counts(), str(error), done=True))
        return
    asyncio.run(_run(swarm, pipe, report_seconds))


async def _run(swarm: Swarm, pipe: Connection, report_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    stop, read, connect = asyncio.Event(), asyncio.Event(), asyncio.Event()
    read.set()

    def hear() -> None:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            message = _STOP
        if message == _READ:
            read.set()
        elif message == _CONNECT:
            connect.set()
        else:
            loop.remove_reader(pipe.fileno())
            stop.set()

    loop.add_reader(pipe.fileno(), hear)
    life = asyncio.create_task(swarm.run(stop, connect))
    with contextlib.suppress(OSError):  # the parent is gone
        while not life.done():
            if read.is_set():
                read.clear()
                pipe.send(_report(swarm))
            await asyncio.wait([life], timeout=report_seconds if swarm.ready else COMPILING_SECONDS)
    stop.set()
    await life
    with contextlib.suppress(OSError):
        pipe.send(_report(swarm, done=True))
    if not swarm.ready:
        os._exit(0)  # no device is there to say good-bye, and the thread that compiles would be waited for
