"""One device of a small fleet answers at once, with deltas of zero."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
from contextlib import closing
from typing import Any, ClassVar

from coordinator.store import Store

from .. import hostile
from ..bench import RUN, Bench, Fleet
from ..faults import kill_coordinator
from ..processes import Process
from ..proxy import HOST
from ..scenario import Scenario

FLEET = "fleet0"
LEAST = 0.8  # of the rate of the others before
AGAIN_SECONDS = 20.0  # after a kill of the coordinator, until the others are at work, at most
FALLEN = (0.8, 0.98)  # of the loss at first, that it is to be at the end at most, in the quick version with few updates


class ZeroDeltas(Scenario):
    """A device that answers at once with deltas of zero, beside three that take half a second; the coordinator dies."""

    name = "zero"
    rounds = (0, 0)  # as many as there are in these windows
    calm = (30.0, 3.0)
    window = (60.0, 3.0)
    kills = (3, 1)
    fleets = (Fleet(3, 2, think=0.5),)
    # However many versions the hostile device makes meanwhile, so that something is learned in so short a time.
    settings: ClassVar[dict[str, dict[str, Any]]] = {
        "learning": {"steps": 32, "staleness": "constant"},
        "evaluation": {"every": 10},
        "guards": {"strikes": 3},
    }

    async def inject(self, bench: Bench) -> None:
        await bench.reached(3)
        before = await self._rate(bench, self.calm[self.quick])
        address = f"{HOST}:{bench.devices_line.port}"
        command = [sys.executable, "-m", "tests.faults.hostile", address, RUN, 1, bench.seed, "zero"]
        device = Process(command, bench.folder / "hostile.log")
        bench.extras.append(device)
        bench.injected["hostile devices"] = 1
        await device.start()
        while not self._made(bench, hostile.PREFIX):
            await asyncio.sleep(0.1)
        rates = []
        for _ in range(self.kills[self.quick]):
            rates.append(await self._rate(bench, self.window[self.quick]))
            made = self._made(bench, FLEET)
            await kill_coordinator(bench)
            with contextlib.suppress(TimeoutError):  # devices take a while to notice that an answer got lost
                async with asyncio.timeout(AGAIN_SECONDS):
                    while self._made(bench, FLEET) < made + 3:
                        await asyncio.sleep(0.1)
        rates.append(await self._rate(bench, self.window[self.quick]))
        made = self._made(bench, FLEET), len(bench.witness.acknowledged)
        self.figures["rate of the others / before, the worst"] = f"{min(rates) / before:.2f}"
        self.figures["updates of the others"] = f"{made[0]} of {made[1]}"
        if not self.quick and min(rates) < LEAST * before:  # a short window says what else the machine was at
            bench.breaches.append(f"the rate of the others fell to {min(rates) / before:.2f}")
        if not min(rates):
            bench.breaches.append("nothing came of the others")

    def _made(self, bench: Bench, prefix: str) -> int:
        """Updates that devices with that ``prefix`` have made so far."""
        return sum(device.startswith(prefix) for device in bench.witness.acknowledged.values())

    async def _rate(self, bench: Bench, seconds: float) -> float:
        """Accepted updates of the honest devices in each of so many ``seconds``."""
        made = self._made(bench, FLEET)
        await asyncio.sleep(seconds)
        return (self._made(bench, FLEET) - made) / seconds

    async def after(self, bench: Bench) -> list[str]:
        with closing(sqlite3.connect(bench.store)) as database:
            honest = database.execute(
                "SELECT device, quarantine, refused FROM device WHERE role = 'train' AND device LIKE ?", (f"{FLEET}-%",)
            ).fetchall()
        self.figures["refused of the others"] = sum(refused for _, _, refused in honest)
        found = [f"{device} is in quarantine: {why}" for device, why, _ in honest if why]
        store = Store(str(bench.store), RUN)
        losses = [evaluation.summary["after"] for evaluation in store.evaluations()]
        store.close()
        self.figures["loss on unseen devices"] = f"{losses[0]:.2f} to {losses[-1]:.2f}"
        if losses[-1] > FALLEN[self.quick] * losses[0]:
            found.append(f"the loss on unseen devices went from {losses[0]:.2f} to {losses[-1]:.2f}")
        return found
