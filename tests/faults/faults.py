"""The faults: each does its harm to a bench, once, and lets it be again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiomqtt

from coordinator.config import BrokerConfig
from coordinator.mqtt import client, pack, subscribe
from coordinator.observer import retained
from tinyreptile.messages import PROTOCOL, TRAIN
from tinyreptile.reports import CoordinatorTopics

from .bench import RUN, Bench
from .proxy import HOST, Proxy

Fault = Callable[[Bench], Awaitable[None]]

START_SECONDS = 1.5  # a coordinator is on its way to work for so long
BROKER_AWAY = 1.0  # seconds, at most
PASSWORD = "password"  # the file of the coordinator's, where it has one
GHOSTS = 30  # at a time
OUTAGE = 2.0  # seconds that the network is away, at most


async def kill_coordinator(bench: Bench) -> None:
    """Kill -9 of the coordinator, and of every fifth one that takes its place while it starts."""
    await asyncio.sleep(bench.chance.random() * 0.05)  # acknowledgements come in bursts: anywhere between them
    await _kill(bench)
    if bench.chance.random() < 0.2:
        await asyncio.sleep(bench.chance.random() * START_SECONDS)
        await _kill(bench)


async def _kill(bench: Bench) -> None:
    while not bench.coordinator.ended:
        if await bench.coordinator.kill():
            bench.injected["kill -9 of the coordinator"] += 1
            return
        await asyncio.sleep(0.01)  # it is about to be started


async def kill_broker(bench: Bench) -> None:
    """Kill -9 of the broker, which comes back with what it had written to disk."""
    await _restart_broker(bench, "kill -9 of the broker, its memory kept", keep=True)


async def kill_forgetful_broker(bench: Bench) -> None:
    """Kill -9 of the broker, which comes back without any memory."""
    await _restart_broker(bench, "kill -9 of the broker, its memory lost", keep=False)


async def _restart_broker(bench: Bench, name: str, *, keep: bool) -> None:
    lines = (bench.coordinators_line, bench.devices_line)
    for line in lines:
        line.refuse()
    bench.broker.kill()
    if not keep:
        bench.broker.forget()
    await asyncio.sleep(bench.chance.random() * BROKER_AWAY)
    await asyncio.to_thread(bench.broker.start)
    for line in lines:
        await line.start()
    bench.injected[name] += 1


async def kill_swarm(bench: Bench) -> None:
    """Kill -9 of all devices of a swarm, whose ids come back with another."""
    swarm = bench.chance.choice(bench.swarms)
    await swarm.process.kill()
    bench.injected["kill -9 of a swarm"] += 1
    said = swarm.process.log.stat().st_size
    await swarm.process.start()
    while swarm.process.running and swarm.process.log.stat().st_size == said:
        await asyncio.sleep(0.05)  # it gives up if it never finds a broker, and says something once it has


def _lines(bench: Bench) -> list[Proxy]:
    """The coordinator's network, the devices', or both."""
    both = [bench.coordinators_line, bench.devices_line]
    return bench.chance.choice([both[:1], both[1:], both])


async def cut_network(bench: Bench) -> None:
    """All connections of the coordinator, of the devices, or of both break, and none comes about for a while."""
    seconds = bench.chance.random() * OUTAGE
    await asyncio.gather(*(line.cut(seconds) for line in _lines(bench)))
    bench.injected["network cut"] += 1


async def hold_network(bench: Bench) -> None:
    """Nothing passes for a while, and then all at once; half the time the connections break before it does."""
    seconds = bench.chance.random() * OUTAGE
    breaks = bench.chance.random() < 0.5

    async def hold(line: Proxy) -> None:
        holding = asyncio.create_task(line.hold(seconds))
        if breaks:
            await asyncio.sleep(seconds * 0.9)
            await line.cut(0)
        await holding

    await asyncio.gather(*(hold(line) for line in _lines(bench)))
    bench.injected["network silent"] += 1


async def disorder(bench: Bench) -> None:
    """For a while every connection has a delay of its own, so that what was sent first may come last."""
    for line in (bench.coordinators_line, bench.devices_line):
        line.be_late(0.5)
    await asyncio.sleep(2)
    for line in (bench.coordinators_line, bench.devices_line):
        line.be_late(0)
    bench.injected["connections out of order"] += 1


async def clear_topics(bench: Bench) -> None:
    """Everything that the run and its devices retain is cleared, while all sessions live."""
    async with client(BrokerConfig(host=HOST, port=bench.broker.port)) as session:
        for topic in await _retained(session):
            await session.publish(topic, b"", qos=1, retain=True)
    bench.injected["retained messages cleared"] += 1


async def late_wills(bench: Bench) -> None:
    """The last wills of all devices that are online arrive, as of earlier sessions of theirs."""
    async with client(BrokerConfig(host=HOST, port=bench.broker.port)) as session:
        for topic, message in (await _retained(session)).items():
            if message.get("state") == "online":
                will = {name: message[name] for name in ("protocol", "boot", "role")} | {"state": "offline"}
                await session.publish(topic, pack(will), qos=1, retain=True)
    bench.injected["late last wills"] += 1


async def add_ghosts(bench: Bench) -> None:
    """Devices that died long ago seem to be online: their statuses are retained, and nobody answers for them."""
    message = {"protocol": PROTOCOL, "state": "online", "role": TRAIN, "work": 0}
    async with client(BrokerConfig(host=HOST, port=bench.broker.port)) as session:
        for _ in range(GHOSTS):
            name = f"ghost{bench.injected['devices that only seem to be there']}"
            topic = CoordinatorTopics(RUN).device(name).status
            await session.publish(topic, pack(message | {"boot": name}), qos=1, retain=True)
            bench.injected["devices that only seem to be there"] += 1


async def _retained(session: aiomqtt.Client) -> dict[str, dict[str, Any]]:
    """What is retained of the run but for the coordinator's own status, which comes anew every second, by topic."""
    topics = CoordinatorTopics(RUN)
    await subscribe(session, topics.init, topics.piece("+"), topics.all_status)
    found = {topic: message async for topic, message in retained(session, 1.0)}
    await session.unsubscribe([topics.init, topics.piece("+"), topics.all_status])
    return found


async def hide_password(bench: Bench) -> None:
    """The coordinator's connection breaks while the file of its password is away."""
    path = bench.folder / PASSWORD
    away = path.rename(path.with_suffix(".away"))
    await bench.coordinators_line.cut(0)
    await asyncio.sleep(bench.chance.random() * OUTAGE)
    away.rename(path)
    bench.injected["password file missing at a reconnection"] += 1
