"""Damaged messages by the hundred thousand, over the wire, while the run goes on."""

from __future__ import annotations

import asyncio
import statistics
from typing import Any, ClassVar

from ..bench import RUN, Bench, Fleet
from ..processes import memory, seconds_of_work
from ..proxy import HOST
from ..scenario import Scenario

RATE = 1000  # messages a second
WINDOW = 20.0  # seconds with damaged messages, then as many without
WARM = 1000  # updates before the first window
VICTIMS = "fleet1-0,fleet1-1,fleet1-unseen-0"
LEAST_RATE = 0.8
MOST_MEMORY = 1.2


class Fuzzing(Scenario):
    """200,000 damaged messages on all topics that are listened to, in windows with the undisturbed run between them."""

    name = "fuzz"
    rounds = (0, 0)  # as many as there are in these windows
    windows = (10, 1)
    # The devices that are meant as victims are past the proxy: what they hear may be forged.
    fleets = (Fleet(60, 2, think=1.0), Fleet(2, 1, think=1.0, direct=True))
    settings: ClassVar[dict[str, dict[str, Any]]] = {"learning": {"in_flight": 62}, "evaluation": {"every": 1000}}

    async def inject(self, bench: Bench) -> None:
        await bench.reached(WARM // 10 if self.quick else WARM)
        before = memory(bench.coordinator.pid)
        most = before
        self._sent: list[float] = []
        plain: list[tuple[float, float]] = []
        fuzzed: list[tuple[float, float]] = []
        for number in range(self.windows[self.quick]):
            self.tell(f"window {number + 1} of {self.windows[self.quick]}, {len(bench.witness.acknowledged)} updates")
            plain.append(await self._window(bench, asyncio.sleep(WINDOW)))
            fuzzed.append(await self._window(bench, self._fuzz(bench, number)))
            most = max(most, memory(bench.coordinator.pid))
        rates = [[statistics.median(column) for column in zip(*windows, strict=True)] for windows in (plain, fuzzed)]
        ratio = rates[1][0] / rates[0][0]
        status = bench.witness.status
        self.figures |= {
            "updates a second, fuzzed / not": f"{rates[1][0]:.1f} / {rates[0][0]:.1f}, ratio {ratio:.2f}",
            "and a second of the coordinator's processor": f"{rates[1][1]:.0f} / {rates[0][1]:.0f}",
            "memory after / before": f"{most / before:.3f}",
            "damaged messages a second": round(statistics.median(self._sent)),
            "malformed, as the coordinator counts": status["refusals"].get("malformed", 0),
            "refused otherwise": sum(n for kind, n in status["refusals"].items() if kind != "malformed"),
            "not looked at": sum(status.get("dropped", {}).values()),
        }
        if ratio < LEAST_RATE and not self.quick:  # a single window says what else the machine was at
            bench.breaches.append(f"the rate fell to {ratio:.2f} under damaged messages")
        if most > MOST_MEMORY * before:
            bench.breaches.append(f"memory grew to {most / before:.2f} of what it was")
        if bench.coordinator.starts > 1:
            bench.breaches.append("the coordinator died")

    async def _window(self, bench: Bench, work: Any) -> tuple[float, float]:
        """Accepted updates a second, and a second of the coordinator's processor, while ``work`` is done."""
        loop = asyncio.get_running_loop()
        pid = bench.coordinator.pid
        begun, updates, worked = loop.time(), len(bench.witness.acknowledged), seconds_of_work(pid)
        await work
        count = len(bench.witness.acknowledged) - updates
        return count / (loop.time() - begun), count / (seconds_of_work(pid) - worked)

    async def _fuzz(self, bench: Bench, number: int) -> None:
        count = int(RATE * WINDOW)
        arguments = [f"{HOST}:{bench.broker.port}", RUN, count, RATE, bench.seed * 1000 + number, VICTIMS]
        if printed := await bench.extra(f"fuzzer-{number}", "tests.faults.fuzzer", *arguments):
            sent, seconds = printed
            self._sent.append(float(sent) / float(seconds))
            bench.injected["damaged messages"] += int(sent)
