"""How soon a killed coordinator is at work again, with a long journal and with none."""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
from contextlib import closing
from pathlib import Path

from coordinator.entries import Checkpoint, Known
from coordinator.initialization import random_weights
from coordinator.store import Store
from simulator.tasks.sine import Sine
from tinyreptile.model import Model

from ..bench import RUN, Bench, Fleet
from ..processes import seconds_of_work
from ..scenario import Scenario

JOURNAL = 1_000_000  # accepted updates
KEPT = 1000  # of them with their deltas, as by default
OLD_DEVICES = 100
RATIO = 1.5  # of the work that a start takes with the journal and without: no more


def fill(path: Path, updates: int) -> None:
    """A store at ``path`` with a journal of so many ``updates``, as a run leaves it that has come so far."""
    model = Model(Sine.model)
    weights = random_weights(model, 1)
    store = Store(str(path), RUN)
    store.bind({"run": RUN, "model": model.spec, "weights": model.weights})
    each = updates // OLD_DEVICES
    store.write([Known(f"old-{i}", "train", "b", "", 0, each, 0, 0, 0, 0, "", 0.0) for i in range(OLD_DEVICES)])
    store.write([Checkpoint(at, at, weights) for at in (updates - KEPT, updates - KEPT // 2)])
    store.close()
    gains = str([65536] * len(model.offsets))
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :updates) "
            "INSERT INTO accepted SELECT i + 1, i, 'old-' || (i % :devices), i, 0, 0.01, 1, 1.0, 4, 8, :gains, "
            "CASE WHEN i < :updates - :kept THEN NULL ELSE zeroblob(:size) END, 0.0, NULL, 0.1, 1.0, 'mean' FROM n",
            {"updates": updates, "devices": OLD_DEVICES, "gains": gains, "kept": KEPT, "size": model.parameters},
        )
        database.commit()


async def timed_kill(bench: Bench) -> tuple[float, float, float]:
    """Kill the coordinator; seconds until the next one says that it runs, until it hands out work, and of a processor
    until then."""
    starts = bench.coordinator.starts
    while not await bench.coordinator.kill():
        await asyncio.sleep(0.01)
    bench.injected["kill -9 of the coordinator"] += 1
    while bench.coordinator.starts == starts:
        await asyncio.sleep(0.002)
    await bench.at_work()
    begun = bench.coordinator.started_at
    running, work = (bench.witness.last[name] - begun for name in ("running", "work"))
    return running, work, seconds_of_work(bench.coordinator.pid)


class Recovery(Scenario):
    """Kill -9 of the coordinator of a run that has a million updates behind it, and of a new run, side by side."""

    name = "recovery"
    rounds = (0, 0)  # as many as it has between its kills
    fleets = (Fleet(8, 1, think=0.05),)
    kills = (10, 3)

    def bench(self, folder: Path, seed: int) -> Bench:
        bench = super().bench(folder, seed)
        self.tell(f"filling a store with {JOURNAL:,} updates")
        fill(bench.store, JOURNAL)
        bench.behind = JOURNAL
        (folder / "new").mkdir()
        self._new = super().bench(folder / "new", seed)
        return bench

    async def inject(self, bench: Bench) -> None:
        times: dict[Bench, list[tuple[float, float, float]]] = {bench: [], self._new: []}
        await self._new.start()
        try:
            for each in times:
                await each.reached(20)
            for number in range(self.kills[self.quick]):
                self.tell(f"kill {number + 1} of {self.kills[self.quick]}")
                for each, found in times.items():
                    await asyncio.sleep(each.chance.uniform(1, 2))
                    found.append(await timed_kill(each))
        finally:
            await self._new.stop()
        medians = [[statistics.median(column) for column in zip(*times[each], strict=True)] for each in times]
        for index, name in enumerate(("start to running", "start to work", "processor time of a start")):
            long, new = medians[0][index], medians[1][index]
            self.figures[name] = f"{long:.2f} s, new run {new:.2f} s, ratio {long / new:.2f}"
        if medians[0][2] > RATIO * medians[1][2]:
            bench.breaches.append(f"a start with {JOURNAL:,} updates takes more than {RATIO} times that of a new run")
