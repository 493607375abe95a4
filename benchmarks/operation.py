"""What it costs that updates are durable before they are acknowledged, and that a service is watched.

The service as `benchmarks.service` runs it, but with twenty devices: with a store whose commits wait for no disk
(SQLite, ``synchronous=OFF``, set by this benchmark alone) and as it is; and with its metrics fetched over HTTP every
second and without. The two take turns, the first changing from pair to pair, and the figures are medians of the pairs'
ratios. The processor's time for an update is the steadier of them: on a shared machine rates vary.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from coordinator.runs import Runs
from coordinator.service import Coordinator
from coordinator.web import watched

from .pair import Setting
from .report import Figure, Progress, Result
from .service import Beside, broker, child, measure, receive

DURABLE, WATCHED = 0.75, 0.97  # shares of the throughput without that are to be reached
SCRAPE_SECONDS = 1.0
DEVICES = 20  # enough to keep the coordinator busy, and soon there

Pair = tuple[dict[str, Any], dict[str, Any]]  # what a run without came to, and one with


@contextlib.asynccontextmanager
async def not_durable(coordinator: Coordinator) -> AsyncIterator[None]:
    """The store of ``coordinator`` says that it has written what it has only given to the system."""
    writer = coordinator._store._database._writer
    writer.exec_driver_sql("PRAGMA synchronous=OFF")
    if writer.exec_driver_sql("PRAGMA synchronous").scalar() != 0:
        raise RuntimeError("the store is still durable")
    writer.rollback()
    yield


@contextlib.asynccontextmanager
async def with_metrics(coordinator: Coordinator, port: int) -> AsyncIterator[None]:
    """The metrics of ``coordinator`` are at ``port``."""
    runs = Runs([coordinator.config])
    runs.served[0].coordinator = coordinator
    async with watched(runs, "127.0.0.1", port):
        yield


def scrape(port: int, pipe: Connection) -> None:
    """Fetch the metrics every second until ``pipe`` says to stop; tells how often they came."""
    fetched = 0
    while not pipe.poll(SCRAPE_SECONDS):
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer,
        ):
            fetched += answer.read().startswith(b"# HELP")
    pipe.send(fetched)


def durability(quick: bool, progress: Progress) -> Result:
    """Durable acknowledgement against one that waits for no disk."""

    def run(setting: Setting, folder: Path, durable: bool) -> dict[str, Any]:
        return measure(setting, folder, None if durable else not_durable)

    pairs = _pairs(quick, progress, run)
    return _result(pairs, "durable before acknowledged", "not durable", DURABLE)


def metrics(quick: bool, progress: Progress) -> Result:
    """Metrics fetched every second against none."""

    def run(setting: Setting, folder: Path, told: bool) -> dict[str, Any]:
        if not told:
            return measure(setting, folder)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port: int = probe.getsockname()[1]
        beside: Beside = partial(with_metrics, port=port)
        with child(scrape, port) as scraper:
            result = measure(setting, folder, beside)
            scraper.send("stop")
            fetched: int = receive(scraper, 30)
        if fetched < setting.seconds / SCRAPE_SECONDS / 2:
            raise RuntimeError(f"the metrics were fetched {fetched} times only")
        return result | {"fetched": fetched}

    pairs = _pairs(quick, progress, run)
    return _result(pairs, "metrics every second", "no metrics", WATCHED)


def _pairs(quick: bool, progress: Progress, run: Any) -> list[Pair]:
    """Runs without and with what is measured, in turns."""
    rounds, seconds = (2, 2.0) if quick else (5, 6.0)
    pairs: list[Pair] = []
    with tempfile.TemporaryDirectory() as folder, broker(Path(folder)) as port:
        for i in range(rounds):
            sides: dict[bool, dict[str, Any]] = {}
            for turn, having in enumerate((False, True) if i % 2 else (True, False)):
                progress((i + turn / 2) / rounds, f"pair {i + 1} of {rounds}, {'with' if having else 'without'}")
                setting = Setting(port, f"bench-{i}-{turn}", DEVICES, 1.0, seconds)
                sides[having] = run(setting, Path(folder), having)
            pairs.append((sides[False], sides[True]))
    return pairs


def _result(pairs: list[Pair], having: str, lacking: str, target: float) -> Result:
    rate = statistics.median(with_["rate"] / without["rate"] for without, with_ in pairs)
    cpu = statistics.median(without["cpu_us"] / with_["cpu_us"] for without, with_ in pairs)
    raw = [[{k: v for k, v in side.items() if k != "round_trips"} for side in pair] for pair in pairs]
    return Result(
        [
            Figure(f"{having} / {lacking}: updates/s", f"{rate:.2f}", f"≥ {target:g}", rate >= target),
            Figure(f"{having} / {lacking}: updates per processor second", f"{cpu:.2f}"),
        ],
        {"rate": rate, "cpu": cpu, "pairs": raw},
    )
