"""Devices leave as much as they can with the broker, for every coordinator that comes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, ClassVar

from coordinator.config import BrokerConfig
from coordinator.mqtt import client, subscribe
from coordinator.operator import ask
from tinyreptile import reports

from ..bench import RUN, Bench, Fleet
from ..faults import kill_coordinator
from ..proxy import HOST
from ..scenario import Scenario

PREFIX = "bomb"
QUIET_SECONDS = 1.0
FORGOTTEN = 100  # devices in one request to forget: more don't fit


class Bombs(Scenario):
    """Hundreds of devices retain the largest messages that the broker takes on all that they may write; kill -9 of the
    coordinator."""

    name = "bombs"
    rounds = (0, 0)  # as many as there are until all is cleared
    devices = (1000, 100)
    fleets = (Fleet(20, 2, think=0.1),)
    faults = ((kill_coordinator, (5, 2)),)
    settings: ClassVar[dict[str, dict[str, Any]]] = {"evaluation": {"every": 1000}}

    async def inject(self, bench: Bench) -> None:
        await bench.reached(50)
        names = [f"{PREFIX}-{number}" for number in range(self.devices[self.quick])]
        await self._plant(bench, names)
        bench.injected["devices that leave bombs"] = len(names)
        left = sum(map(len, (await self._retained(bench)).values()))
        database = await self._database(bench)
        received = []
        for number in range(self.faults[0][1][self.quick]):
            self.tell(f"kill {number + 1} of {self.faults[0][1][self.quick]}")
            before, updates = bench.witness.retained, len(bench.witness.acknowledged)
            await kill_coordinator(bench)
            await bench.at_work()
            await bench.reached(updates + 20)
            received.append(bench.witness.retained - before)
        rest = sum(map(len, (await self._retained(bench)).values()))
        await self._forget(bench, names)
        remains = await self._retained(bench)
        self.figures |= {
            "bytes of it that the broker took": f"{left:,}, {left // len(names):,} a device",
            "bytes retained that each next coordinator was sent": ", ".join(f"{size:,}" for size in received),
            "what was left when they had read it": f"{rest:,}",
            "the broker's database before / after it was forgotten": f"{database:,} / {await self._database(bench):,}",
        }
        most = len(names) * len(reports.DEVICE_WRITES) * reports.PACKET_BYTES
        if left > most or received[0] > most:
            bench.breaches.append(f"{left} bytes were retained, and {received[0]} sent to a coordinator")
        if received[-1] > received[0] / 2:
            bench.breaches.append("a coordinator has not cleared what it met")
        if remains:
            bench.breaches.append(f"of devices that were forgotten {len(remains)} messages are left")

    async def _plant(self, bench: Bench, names: list[str]) -> None:
        """Each device has as much retained on its topics as the broker takes."""
        broker = BrokerConfig(host=HOST, port=bench.broker.port)
        async with client(broker, max_inflight_messages=100) as session:
            for name in names:
                topics = vars(reports.CoordinatorTopics(RUN).device(name))
                for kind in reports.DEVICE_WRITES:
                    size = reports.PACKET_BYTES - len(topics[kind]) - 5
                    await session.publish(topics[kind], bytes(size), qos=1, retain=True)

    async def _retained(self, bench: Bench) -> dict[str, bytes]:
        """What the broker retains of these devices, by topic."""
        found: dict[str, bytes] = {}
        async with client(BrokerConfig(host=HOST, port=bench.broker.port)) as session:
            await subscribe(session, f"{reports.CoordinatorTopics(RUN).root}/device/+/+")
            messages = aiter(session.messages)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUIET_SECONDS) as limit:
                    while True:
                        message = await anext(messages)
                        topic = message.topic.value
                        if message.retain and f"/{PREFIX}-" in topic and isinstance(message.payload, bytes):
                            found[topic] = message.payload
                            limit.reschedule(asyncio.get_running_loop().time() + QUIET_SECONDS)
        return found

    async def _forget(self, bench: Bench, names: list[str]) -> None:
        """As an operator does it."""
        for start in range(0, len(names), FORGOTTEN):
            await ask(bench.directly, "forget", {"ids": names[start : start + FORGOTTEN]})
        await asyncio.sleep(QUIET_SECONDS)

    async def _database(self, bench: Bench) -> int:
        """Bytes of the broker's memory on disk, once it has been written anew."""
        await asyncio.sleep(1.5)
        return bench.broker.remembered()
