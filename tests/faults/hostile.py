"""Devices that mean harm, in a process of their own: python -m tests.faults.hostile HOST:PORT RUN COUNT SEED [ATTACK].

They join and take work as others do, send what `simulator.hostile` makes of it, and, unless one ATTACK is named, forge
whatever a device can: answers to the work of others, updates that they have overheard, statuses of devices that are
none, requests of an operator.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Sequence
from typing import Any

import aiomqtt

from command_line.options import split_address
from coordinator.config import BrokerConfig
from coordinator.mqtt import client, pack
from coordinator.observer import watch
from simulator.hostile import ATTACKS, Attacker, Forged
from simulator.tasks import make_task
from tinyreptile import messages, reports
from tinyreptile.client import Client
from tinyreptile.coding import Coded

PREFIX = "hostile"
FORGED_PER_SECOND = 20


class HostileDevice(Client):
    """A device that sends something else in the place of what it learned."""

    def __init__(self, index: int, run: str, stream: Any, broker: BrokerConfig, attack: str) -> None:
        super().__init__(
            f"{PREFIX}-{index}", run, stream, host=broker.host, port=broker.port, keepalive=broker.keepalive
        )
        self._attacker = Attacker(attack or list(ATTACKS)[index % len(ATTACKS)], index)

    async def _train(self, work: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        chunks, report = await super()._train(work)
        delta = chunks.delta
        packed = bytearray(delta.size)
        delta.pack(0, packed)
        forged, report["gains"] = self._attacker.forge(bytes(packed), report["gains"])
        return Coded(Forged(delta.model, forged, report["gains"])), report


async def forge(broker: BrokerConfig, run: str, seed: int) -> None:
    """Publish forged messages until cancelled."""
    chance = random.Random(seed)
    topics = reports.CoordinatorTopics(run)
    overheard: list[bytes] = []

    async def listen(session: aiomqtt.Client) -> None:
        async for message in session.messages:
            if isinstance(message.payload, bytes):
                overheard.append(message.payload)
                del overheard[:-50]

    async with client(broker) as session, asyncio.TaskGroup() as tasks:
        await session.subscribe(topics.all_updates, qos=0)
        tasks.create_task(listen(session))
        while True:
            own = topics.device(f"{PREFIX}-forger{chance.randrange(3)}")
            status = {"protocol": messages.PROTOCOL, "state": "offline", "boot": f"{chance.getrandbits(30):x}"}
            stranger = topics.device(f"stranger{chance.randrange(50)}")
            request = {"request": 1, "client": "forger", "command": chance.choice(("devices", "versions", "no such"))}
            forged: Sequence[tuple[str, bytes]] = [
                (own.update, chance.choice(overheard or [b""])),
                (own.update, pack({"work": chance.randrange(1, 5000), "error": "forged"})),
                (stranger.status, pack(status)),
                (topics.control, pack(request)),
            ]
            await session.publish(*chance.choice(forged), qos=1)
            await asyncio.sleep(chance.expovariate(FORGED_PER_SECOND))


async def main(address: str, run: str, count: str, seed: str, attack: str = "") -> None:
    host, port = split_address(address)
    broker = BrokerConfig(host=host, port=port or 1883, keepalive=5)
    task = make_task("sine")
    finished = asyncio.Event()

    def show(status: dict[str, Any], retained: bool) -> None:
        if status["state"] == "finished":
            finished.set()

    devices = [HostileDevice(i, run, task.train_stream(i, int(seed)), broker, attack) for i in range(int(count))]
    lives = [asyncio.create_task(device.run()) for device in devices]
    lives.append(asyncio.create_task(watch(run, broker, show)))
    if not attack:
        lives.append(asyncio.create_task(forge(broker, run, int(seed))))
    await finished.wait()
    for life in lives:
        life.cancel()
    ends = await asyncio.gather(*lives, return_exceptions=True)
    for error in ends:
        if isinstance(error, Exception):
            raise error
    print("refused", sum(device.refused for device in devices), "accepted", sum(device.accepted for device in devices))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
