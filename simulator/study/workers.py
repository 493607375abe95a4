"""Jobs spread over processes of this machine; each reports its rounds, and a job that dies loses only itself."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from simulator.children import deaf_to_ctrl_c, end_with_parent

from .job import Job, Stopped, run
from .result import Result

_REPORT_SECONDS = 0.2
_STOP_SECONDS = 20.0  # for the children to save what they have


@dataclass(frozen=True)
class Progress:
    """So many rounds of ``job`` are done."""

    job: Job
    rounds: int


@dataclass(frozen=True)
class Finished:
    """``job`` has its result."""

    job: Job
    result: Result


@dataclass(frozen=True)
class Failed:
    """``job`` came to nothing; ``reason`` in a line, and ``details`` for whoever has to find out why."""

    job: Job
    reason: str
    details: str = ""


Event = Progress | Finished | Failed


class Workers:
    """``count`` processes that run ``jobs``, those that take longest first; iterate over their events.

    ``data`` is the folder of data sets, ``saved`` that of the jobs' checkpoints. Close it, or leave its context, and
    the processes save what they have, and end.
    """

    def __init__(self, jobs: Sequence[Job], count: int, data: Path | None, saved: Path) -> None:
        # PyTorch's steps take many times as long: begun last, they would run on alone.
        self._waiting = sorted(jobs, key=lambda job: job.settings["device"]["format"] == "float32")
        self._data = data
        self._saved = saved
        self._children: dict[Connection, tuple[multiprocessing.process.BaseProcess, Job]] = {}
        self._count = min(count, len(jobs))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event]:
        for _ in range(self._count):
            self._start()
        while self._children:
            for ready in wait(list(self._children)):
                if not isinstance(ready, Connection):
                    raise TypeError(ready)
                child, job = self._children[ready]
                try:
                    event: Event = ready.recv()
                except (EOFError, OSError):
                    del self._children[ready]
                    child.join()
                    self._start()
                    yield Failed(job, f"its process died with exit code {child.exitcode}")
                    continue
                if not isinstance(event, Progress):
                    self._next(ready)
                yield event

    def close(self) -> None:
        """End the processes; unfinished jobs have been saved."""
        for connection in self._children:
            with contextlib.suppress(OSError):
                connection.send(None)
        end = time.monotonic() + _STOP_SECONDS
        for connection, (child, _) in self._children.items():
            # What it still says is taken from the pipe, so that it is never kept waiting.
            while child.is_alive() and time.monotonic() < end:
                with contextlib.suppress(EOFError, OSError):
                    while connection.poll():
                        connection.recv()
                child.join(0.05)
            if child.is_alive():
                child.terminate()
                child.join()
        self._children.clear()

    def _start(self) -> None:
        """Start a process if there is a job for it. It never sees Ctrl-C, not even while it imports."""
        if not self._waiting:
            return
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        child = context.Process(target=_child, args=(theirs, self._data, self._saved), daemon=True)
        with deaf_to_ctrl_c():
            child.start()
        theirs.close()  # ours reports the end of the process only when nobody else holds it open
        job = self._waiting.pop()
        self._children[ours] = child, job
        ours.send(job)

    def _next(self, connection: Connection) -> None:
        """The process has finished its job: give it another, or let it go."""
        child, _ = self._children[connection]
        if self._waiting:
            job = self._waiting.pop()
            self._children[connection] = child, job
            connection.send(job)
        else:
            del self._children[connection]
            connection.send(None)
            child.join()


def _child(connection: Connection, data: Path | None, saved: Path) -> None:
    """A process's life: jobs, until there is none or the parent is gone."""
    orphan = end_with_parent()
    if orphan:
        orphan()
    with contextlib.suppress(EOFError, OSError, Stopped):
        while (job := connection.recv()) is not None:
            connection.send(_attempt(connection, job, data, saved))


def _attempt(connection: Connection, job: Job, data: Path | None, saved: Path) -> Event:
    last = 0.0

    def watch(rounds: int) -> bool:
        nonlocal last
        now = time.monotonic()
        if now - last < _REPORT_SECONDS:
            return False
        last = now
        connection.send(Progress(job, rounds))
        return connection.poll()  # the only thing that comes while a job runs is that it is to stop

    try:
        return Finished(job, run(job, data, saved / f"{job.name}.npz", watch))
    except Stopped:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this job's alone, and is told
        return Failed(job, f"{type(error).__name__}: {error}", traceback.format_exc())
