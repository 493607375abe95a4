"""A day in the life of a thousand devices, as fast as the machine takes it: does anything grow?"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy import stats

from ..bench import Bench, Fleet
from ..processes import files, memory, threads
from ..scenario import Scenario

ROUNDS_A_DAY = 144  # of each device: one in ten minutes
SAMPLE_SECONDS = 2.0
WARM = 0.25  # of the run, that is not looked at: caches fill, windows of the latest so many
CONFIDENCE = 0.99
GROWTH = (0.02, 0.1)  # over the rest, which is taken for none; in the quick version windows are still filling


def trend(values: list[float]) -> tuple[float, float, float]:
    """(growth, least, most) over all samples, in shares of their median: the slope of Theil and Sen, and the ends of
    its confidence interval."""
    slope, _, least, most = stats.theilslopes(values, alpha=CONFIDENCE)
    scale = len(values) / float(np.median(values))
    return slope * scale, least * scale, most * scale


class Soak(Scenario):
    """A thousand devices, each a round in ten minutes for a day, in a hurry; connections break and come back."""

    name = "soak"
    devices = (1000, 100)
    rounds = (1000 * ROUNDS_A_DAY, 100 * ROUNDS_A_DAY // 2)
    limit = 3 * 3600.0
    # A small network, seldom published: the more rounds in the time that the machine has.
    settings: ClassVar[dict[str, dict[str, Any]]] = {
        "run": {"model": [["input", 1], ["dense", 8, "relu"], ["dense", 1], ["squared_error"]]},
        "learning": {"in_flight": 50, "steps": 2, "bits": 4, "deadline": 60.0, "publish_interval": 0.25},
        "journal": {"history": 1000, "rows": 0},
        "broker": {"keepalive": 120},  # a thousand devices in one process may be slow to speak
    }

    def bench(self, folder: Path, seed: int) -> Bench:
        fleet = Fleet(self.devices[self.quick], 5, drop_out=0.005, direct=True)
        bench = Bench(folder, seed, self.rounds[self.quick], self.settings, (fleet,))
        self._inside = folder / "inside.jsonl"
        watched = [sys.executable, "-m", "tests.faults.watched", str(self._inside)]
        bench.coordinator.command = [*watched, *map(str, bench.serve_arguments())]
        return bench

    async def inject(self, bench: Bench) -> None:
        self.samples |= {"memory": [], "files": [], "threads": [], "updates": []}
        told = 0
        await bench.reached(1)
        while not self.samples["updates"] or self.samples["updates"][-1] < bench.rounds:
            pid = bench.coordinator.pid
            sample = {"memory": memory(pid), "files": files(pid), "threads": threads(pid)}
            sample["updates"] = len(bench.witness.acknowledged)
            for name, value in sample.items():
                self.samples[name].append(value)
            if sample["updates"] >= told + bench.rounds // 20:
                told = sample["updates"]
                self.tell(f"{told:,} of {bench.rounds:,} updates, {sample['memory'] / 2**20:.0f} MiB")
            await asyncio.sleep(SAMPLE_SECONDS)

    async def after(self, bench: Bench) -> list[str]:
        inside = [json.loads(line) for line in self._inside.read_text().splitlines()]
        self.samples["tasks"] = [line["tasks"] for line in inside]
        self.samples["objects"] = [line["objects"] for line in inside]
        bench.injected["lost connections"] = bench.swarms[0].counts().get("reconnections", 0)
        found = []
        self.figures["devices"] = f"{self.devices[self.quick]:,}"
        self.figures["samples"] = len(self.samples["memory"])
        for name in ("memory", "objects", "tasks", "files", "threads"):
            values = self.samples[name][int(len(self.samples[name]) * WARM) :]
            growth, least, most = trend(values)
            unit = f"{np.median(values) / 2**20:.1f} MiB" if name == "memory" else f"{np.median(values):,.0f}"
            self.figures[name] = f"{unit}, growth {growth:+.2%} ({least:+.2%} to {most:+.2%})"
            if least > 0 and growth > GROWTH[self.quick]:
                found.append(f"{name} of the coordinator grew by {growth:.1%} over the run")
        return found
