"""One device sends as fast as the broker takes it, while the others go on."""

from __future__ import annotations

import asyncio
import re
from typing import Any, ClassVar

from coordinator.config import BrokerConfig
from coordinator.mqtt import client, pack
from tinyreptile import messages, reports

from ..bench import RUN, Bench, Fleet
from ..proxy import HOST
from ..scenario import Scenario

LOUD = "loud"
SIZE = 300  # bytes
LEAST_WHILE, LEAST_AFTER = 0.8, 0.9  # of the rate before; the second takes a window that other work may slow
MOST_LINES = 50  # of the log, beside
PROGRESS = re.compile(r"\d+ updates: ")  # a line every five seconds


class Flood(Scenario):
    """150,000 messages in six seconds from one device, several times over, on topics that it may write."""

    name = "flood"
    rounds = (0, 0)  # as many as there are in these windows
    floods = (5, 1)
    messages = (150_000, 50_000)
    seconds = (6.0, 2.0)
    calm = (20.0, 8.0)
    recovery = 5.0
    # A second for their work, so that the processors are not what limits the rate.
    fleets = (Fleet(49, 2, think=1.0),)
    settings: ClassVar[dict[str, dict[str, Any]]] = {"learning": {"in_flight": 50}, "evaluation": {"every": 1000}}

    async def inject(self, bench: Bench) -> None:
        await bench.reached(100)
        await self._join(bench)
        rates: list[tuple[float, float, float]] = []
        for number in range(self.floods[self.quick]):
            self.tell(f"flood {number + 1} of {self.floods[self.quick]}, {len(bench.witness.acknowledged)} updates")
            before = await self._rate(bench, asyncio.sleep(self.calm[self.quick]))
            during = await self._rate(bench, self._flood(bench, number))
            await asyncio.sleep(self.recovery)
            rates.append((before, during, await self._rate(bench, asyncio.sleep(self.calm[self.quick]))))
        during = min(while_ / before for before, while_, _ in rates)
        after = min(after / before for before, _, after in rates)
        lines = sum(PROGRESS.match(line) is None for line in bench.coordinator.log.read_text().splitlines())
        status = bench.witness.status
        self.figures |= {
            "rate during a flood / before, the worst": f"{during:.2f}",
            f"and from {self.recovery:g} s after it": f"{after:.2f}",
            "messages that the coordinator dropped": f"{sum(status.get('dropped', {}).values()):,}",
            "devices in quarantine": status["quarantined"],
            "lines of its log": lines,
        }
        if not self.quick and during < LEAST_WHILE:  # a single short window says what else the machine was at
            bench.breaches.append(f"the rate of the others fell to {during:.2f} during a flood")
        if not self.quick and after < LEAST_AFTER:
            bench.breaches.append(f"the rate of the others was {after:.2f} after a flood")
        if status["quarantined"] != 1:
            bench.breaches.append(f"{status['quarantined']} devices are in quarantine instead of the one that floods")
        if lines > MOST_LINES:
            bench.breaches.append(f"the coordinator's log has {lines} lines")
        if bench.coordinator.starts > 1:
            bench.breaches.append("the coordinator died")

    async def _join(self, bench: Bench) -> None:
        """The device that will flood says hello, held out: nobody waits for an answer of it."""
        status = {"protocol": messages.PROTOCOL, "state": "online", "boot": "b", "role": messages.EVALUATE}
        topic = reports.CoordinatorTopics(RUN).device(LOUD).status
        async with client(BrokerConfig(host=HOST, port=bench.broker.port)) as session:
            await session.publish(topic, pack(status), qos=1, retain=True)

    async def _rate(self, bench: Bench, work: Any) -> float:
        """Accepted updates a second while ``work`` is done."""
        loop = asyncio.get_running_loop()
        begun, updates = loop.time(), len(bench.witness.acknowledged)
        await work
        return (len(bench.witness.acknowledged) - updates) / (loop.time() - begun)

    async def _flood(self, bench: Bench, number: int) -> None:
        topics = reports.CoordinatorTopics(RUN).device(LOUD)
        count, seconds = self.messages[self.quick], self.seconds[self.quick]
        arguments = [f"{HOST}:{bench.broker.port}", count, seconds, SIZE]
        written = [topics.status, topics.update, topics.evaluation]
        if printed := await bench.extra(f"flooder-{number}", "tests.flooder", *arguments, *written):
            bench.injected["messages of a flood"] += int(printed[0])
