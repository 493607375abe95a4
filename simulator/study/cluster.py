"""Jobs on a Dask cluster: the same jobs, each run by whichever worker is free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import StudyError
from .job import Job, run
from .result import Result
from .workers import Event, Failed, Finished

_CONNECT_SECONDS = 20


def cluster(jobs: Sequence[Job], address: str, data: Path | None) -> Iterator[Event]:
    """Run ``jobs`` on the workers of the Dask scheduler at ``address``; returns an iterator over their ends.

    Workers have this package installed, and the data sets in the folder ``data`` or where they look by themselves.
    They keep no checkpoints, as they may share no disk with us: an interrupted job begins anew. The cluster is asked
    for nothing before the iteration begins; when that ends early, jobs that wait are withdrawn. Raises `StudyError`
    where Dask is not installed, or nobody answers.
    """
    try:
        from dask.distributed import Client
    except ImportError:
        raise StudyError(
            "--scheduler needs Dask: pip install distributed==2026.8.0, here and on the workers, or leave it out to "
            "run on the processes of this machine"
        ) from None
    try:
        client = Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise StudyError(
            f"no Dask scheduler answers at {address} ({error}): start one with `dask scheduler`, and a worker with "
            f"`dask worker {address}`"
        ) from None
    return _ends(client, jobs, data)


def _ends(client: Any, jobs: Sequence[Job], data: Path | None) -> Iterator[Event]:
    from dask.distributed import as_completed

    with client:
        waiting = {client.submit(_attempt, job, data, key=f"{job.name}-{i}"): job for i, job in enumerate(jobs)}
        try:
            for future in as_completed(list(waiting)):
                job = waiting[future]
                problem = future.exception()
                if problem is None:
                    yield Finished(job, future.result())
                else:
                    yield Failed(job, f"{type(problem).__name__}: {problem}")
        finally:
            client.cancel(list(waiting))


def _attempt(job: Job, data: Path | None) -> Result:
    return run(job, data, None, lambda rounds: False)
