"""A swarm spread over processes: each runs its part of the fleet and reports what it counts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from .swarm import Counts, Swarm, SwarmSpec
from .tasks import TaskError

_REPORT_SECONDS = 0.5
_STOP_SECONDS = 15.0


@dataclass(frozen=True)
class Report:
    """What a part of a swarm says every half second, and with ``done`` at its end."""

    counts: Counts
    problem: str | None = None
    done: bool = False


class SwarmProcesses:
    """The fleet of ``spec`` in ``count`` processes of its own. Start, look at `counts`, stop."""

    def __init__(self, spec: SwarmSpec, count: int = 1) -> None:
        context = multiprocessing.get_context("spawn")
        self._children: list[tuple[BaseProcess, Connection]] = []
        self._reports: list[Report] = []
        for part in spec.split(count):
            ours, theirs = context.Pipe()
            child = context.Process(target=_child, args=(part, theirs, logging.getLogger().level), daemon=True)
            self._children.append((child, ours))
            self._reports.append(Report(Counts()))

    def start(self) -> None:
        """Start the processes. They never see Ctrl-C, not even while they import: `stop` ends them."""
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for child, _ in self._children:
                child.start()
        finally:
            signal.signal(signal.SIGINT, handler)

    def _receive(self) -> None:
        for i, (_, connection) in enumerate(self._children):
            with contextlib.suppress(EOFError, OSError):
                while connection.poll():
                    self._reports[i] = connection.recv()

    def counts(self) -> Counts:
        """Totals over the processes, half a second old at most."""
        self._receive()
        return sum((report.counts for report in self._reports), Counts())

    @property
    def problem(self) -> str | None:
        """Why devices could not take part, if some could not."""
        self._receive()
        return next((report.problem for report in self._reports if report.problem), None)

    @property
    def running(self) -> bool:
        """Whether any process still lives."""
        self._receive()
        return any(child.is_alive() for child, _ in self._children)

    async def stop(self) -> Counts:
        """Let all devices say good-bye; returns the final totals."""
        for child, connection in self._children:
            if child.is_alive():
                with contextlib.suppress(OSError):
                    connection.send("stop")
        loop = asyncio.get_running_loop()
        end = loop.time() + _STOP_SECONDS
        while self.running and loop.time() < end:  # noqa: ASYNC110 - a process has no event to wait for
            await asyncio.sleep(0.05)
        for child, _ in self._children:
            if child.is_alive():
                child.terminate()
            if child.pid is not None:
                child.join(1)
        return self.counts()


def _child(spec: SwarmSpec, connection: Connection, level: int) -> None:
    """A process's life: until told to stop, or until the parent is gone."""
    logging.basicConfig(level=level, format="%(message)s")
    try:
        swarm = Swarm(spec)
    except TaskError as error:
        connection.send(Report(Counts(), str(error), done=True))
        return
    asyncio.run(_run(swarm, connection))


async def _run(swarm: Swarm, connection: Connection) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(connection.fileno(), stop.set)
    life = asyncio.create_task(swarm.run(stop))
    with contextlib.suppress(BrokenPipeError):
        while not life.done():
            connection.send(Report(swarm.counts(), swarm.problem))
            await asyncio.wait([life], timeout=_REPORT_SECONDS)
    stop.set()
    await life
    with contextlib.suppress(BrokenPipeError):
        connection.send(Report(swarm.counts(), swarm.problem, done=True))
