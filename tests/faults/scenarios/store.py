"""A store that can't be written for a while: its disk is full, or somebody else has locked it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from ..bench import Bench, Fleet
from ..faults import kill_coordinator
from ..scenario import Scenario

DISK = "64m"  # holds the run several times over
FULL_SECONDS = 6.0  # at most
LOCKED_SECONDS = 8.0  # at most: longer than SQLite waits for a lock


async def fill_disk(bench: Bench) -> None:
    """Not a byte is left on the store's disk, for a while."""
    filler = bench.store.parent / "filler"
    await asyncio.to_thread(_fill, filler)
    bench.injected["disk full"] += 1
    await asyncio.sleep(FULL_SECONDS * bench.chance.uniform(0.3, 1))
    filler.unlink()


async def fill_disk_and_kill(bench: Bench) -> None:
    """The coordinator dies while its disk is full, and has to start on it."""
    filler = bench.store.parent / "filler"
    await asyncio.to_thread(_fill, filler)
    bench.injected["disk full"] += 1
    await asyncio.sleep(bench.chance.uniform(0, 1))
    await kill_coordinator(bench)
    await asyncio.sleep(FULL_SECONDS * bench.chance.uniform(0.5, 1))
    filler.unlink()


def _fill(filler: Path) -> None:
    """Write to ``filler`` until nothing more goes in."""
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\xff" * size)
            except OSError:
                continue


def _mount(folder: Path) -> bool:
    """A small disk in memory at ``folder``; whether that is possible here."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", str(folder)], check=True)


async def lock_store(bench: Bench) -> None:
    """Another program has the store locked for a while."""
    seconds = LOCKED_SECONDS * bench.chance.random()

    def lock() -> None:
        with closing(sqlite3.connect(bench.store, isolation_level=None, timeout=10)) as database:
            database.execute("BEGIN IMMEDIATE")
            bench.injected["store locked"] += 1
            time.sleep(seconds)
            database.execute("ROLLBACK")

    await asyncio.to_thread(lock)


class FullDisk(Scenario):
    """The store's disk, a small one in memory, is full again and again; now and then the coordinator dies of it."""

    name = "disk"
    rounds = (4_000, 1_000)
    faults = ((fill_disk, (10, 2)), (fill_disk_and_kill, (5, 1)))
    settings: ClassVar[dict[str, dict[str, Any]]] = {"learning": {"deadline": 20.0}}

    @classmethod
    def absent(cls) -> str:
        with tempfile.TemporaryDirectory() as folder:
            if os.geteuid() != 0 or not _mount(Path(folder)):
                return "it takes root, and the right to mount, for a small disk"
            _unmount(Path(folder))
        return ""

    def bench(self, folder: Path, seed: int) -> Bench:
        disk = folder / "store"
        disk.mkdir()
        _mount(disk)
        bench = super().bench(folder, seed)
        bench.afterwards.callback(_unmount, disk)
        return bench

    async def after(self, bench: Bench) -> list[str]:
        if not any("full" in problem for problem in bench.witness.problems):
            return ["the run's status never said that the disk is full"]
        return []


class SlowStore(Scenario):
    """Somebody else has the store locked for seconds, again and again."""

    name = "store"
    rounds = (4_000, 800)
    faults = ((lock_store, (20, 3)),)
    fleets = (Fleet(16, 2),)
    settings: ClassVar[dict[str, dict[str, Any]]] = {"learning": {"deadline": 20.0}}
