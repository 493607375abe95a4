"""The wall clock jumps, by hours and years, forwards and back (libfaketime); the coordinator dies now and then."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from ..bench import Bench
from ..faults import kill_coordinator
from ..scenario import Scenario

JUMPS = ("+1h", "-1h", "+1d", "-1d", "+400d", "-400d", "+5s", "-5s")
DAY = 86_400.0
NOTICED = 1  # seconds until a jump has been noticed, at most


def _library() -> Path | None:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return found[0] if found else None


def _set(bench: Bench, offset: str) -> None:
    path = bench.folder / "clock"
    new = path.with_suffix(".new")
    new.write_text(offset + "\n")
    new.replace(path)


async def jump(bench: Bench) -> None:
    """From now on the coordinator's wall clock is off by something else."""
    _set(bench, bench.chance.choice(JUMPS))
    bench.injected["clock jump"] += 1
    await asyncio.sleep(NOTICED + 0.1)


class ClockJumps(Scenario):
    """The coordinator's wall clock jumps by up to 400 days; now and then it is killed, and starts by another clock."""

    name = "clock"
    rounds = (4_000, 800)
    faults = ((jump, (30, 5)), (kill_coordinator, (6, 2)))

    @classmethod
    def absent(cls) -> str:
        return "" if _library() else "it takes libfaketime (Debian's package faketime)"

    def bench(self, folder: Path, seed: int) -> Bench:
        bench = super().bench(folder, seed)
        _set(bench, "+0")
        bench.coordinator.environment.update(
            LD_PRELOAD=str(_library()),
            FAKETIME_TIMESTAMP_FILE=str(folder / "clock"),
            FAKETIME_CACHE_DURATION=str(NOTICED),
            FAKETIME_DONT_FAKE_MONOTONIC="1",
            FAKETIME_FORCE_MONOTONIC_FIX="0",  # else every wait of a thread takes milliseconds longer
        )
        return bench

    async def after(self, bench: Bench) -> list[str]:
        with closing(sqlite3.connect(bench.store)) as database:
            first, last = database.execute("SELECT min(at), max(at) FROM accepted").fetchone()
        self.figures["days between the earliest and the latest update"] = round((last - first) / DAY)
        return [] if last - first > DAY / 48 else ["the coordinator's clock has not jumped"]
