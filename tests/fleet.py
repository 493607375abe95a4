"""Coordinators and swarms in the test's own process, over a real broker."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import msgpack

from coordinator.config import BrokerConfig, Config, load_config
from coordinator.mqtt import client
from coordinator.service import Coordinator
from simulator.swarm import Swarm, SwarmSpec
from tinyreptile import reports
from tinyreptile.client import Client

from .environment import Mosquitto

SMALL: list[list[Any]] = [["input", 1], ["dense", 8, "relu"], ["dense", 1], ["squared_error"]]
BIG: list[list[Any]] = [["input", 1], ["dense", 64, "relu"], ["dense", 64, "relu"], ["dense", 1], ["squared_error"]]

_names = itertools.count(1)


def new_run() -> str:
    """The name of a run that no other test of this session has: they share a broker."""
    return f"run-{next(_names)}"


def broker_config(broker: Mosquitto, **fields: Any) -> BrokerConfig:
    return BrokerConfig(host=broker.host, port=broker.port, **fields)


def run_config(mosquitto: Mosquitto, folder: Path, name: str | None = None, **tables: dict[str, Any]) -> Config:
    """A small run at ``mosquitto`` with its store in ``folder``; ``tables`` change it."""
    name = name or new_run()
    defaults: dict[str, dict[str, Any]] = {
        "run": {"name": name, "model": SMALL, "rounds": 60, "store": folder / f"{name}.sqlite"},
        "broker": {"host": mosquitto.host, "port": mosquitto.port},
        "learning": {"steps": 4, "in_flight": 6, "publish_interval": 0.01, "deadline": 20},
        "evaluation": {"every": 25, "steps": 4, "shots": 4, "queries": 5, "best": False},
    }
    return load_config(None, tables, defaults)


def swarm_spec(config: Config, devices: int, evaluators: int = 0, **fields: Any) -> SwarmSpec:
    return SwarmSpec(config.run.name, config.broker, "sine", devices, evaluators, **fields)


async def eventually(condition: Callable[[], object], what: str, seconds: float = 40) -> None:
    """Return once ``condition()`` holds; fails with ``what`` if it never does."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, f"still not: {what}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def task(work: Awaitable[Any]) -> AsyncIterator[asyncio.Future[Any]]:
    """``work`` as a task that ends with the context; an error it ended with is raised."""
    future = asyncio.ensure_future(work)
    try:
        yield future
    finally:
        if not future.done():
            future.cancel()
        await asyncio.wait([future])
        if not future.cancelled() and (error := future.exception()):
            raise error


@asynccontextmanager
async def running_swarm(spec: SwarmSpec) -> AsyncIterator[Swarm]:
    """The swarm of ``spec``, which says good-bye at the end of the context."""
    swarm = Swarm(spec)
    stop = asyncio.Event()
    life = asyncio.create_task(swarm.run(stop))
    try:
        yield swarm
    finally:
        stop.set()
        await life


async def finish(coordinator: Coordinator, seconds: float = 60) -> dict[str, Any]:
    """Serve to the run's end; returns the last status."""
    return await asyncio.wait_for(coordinator.run(), seconds)


def clients(swarm: Swarm) -> list[Client]:
    """The devices of ``swarm``."""
    return swarm._clients


@asynccontextmanager
async def listening(broker: BrokerConfig, *topics: str) -> AsyncIterator[list[aiomqtt.Message]]:
    """A list that fills with the messages on ``topics``."""
    received: list[aiomqtt.Message] = []

    async def receive(session: aiomqtt.Client) -> None:
        async for message in session.messages:
            received.append(message)

    async with client(broker) as session:
        receiver = asyncio.create_task(receive(session))
        for topic in topics:
            await session.subscribe(topic, qos=1)
        try:
            yield received
        finally:
            receiver.cancel()
            await asyncio.wait([receiver])


def decoded(message: aiomqtt.Message) -> Any:
    assert isinstance(message.payload, bytes)
    return msgpack.unpackb(message.payload)


def states(received: list[aiomqtt.Message]) -> list[str]:
    """The states that status messages in ``received`` named, in order."""
    return [decoded(message)["state"] for message in received if message.payload]


def hostile_payloads(fields: Any) -> list[bytes]:
    """What no peer should ever send: of no shape, and of the shape ``fields`` but wrong in one field each."""
    payloads = [
        b"",
        b"\xc1",  # no MessagePack
        b"\x81",  # a map that ends before its first key
        b"\x82\xa4work\x01",
        b"\xdf\xff\xff\xff\xff",  # a map of 4,294,967,295 pairs
        b"\xdd\xff\xff\xff\xff\x01",
        b"\xc6\xff\xff\xff\xff\x00",
        b"\xdb\x7f\xff\xff\xffabc",
        b"\x91" * 1000,  # nested lists
        b"\x81\xc0" * 400,
        b"\x81\x90\x01",  # a list as a key
        b"\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\xd4\x05\x00",  # an extension type
        b"\xa4\xff\xfe\xfd\xfc",  # a string that is not UTF-8
        bytes(range(256)) * 4,
        b"\x00" * (reports.MESSAGE_BYTES + 1),
        b"\xff" * 60_000,
    ]
    payloads += [msgpack.packb(value) for value in (None, True, 7, -1, 1.5, "work", b"work", [], [1, 2], {}, {1: 2})]
    for name, kind, low, high, _ in fields:
        for value in (None, [], {}, "x" * 600, -1, 1 << 40, float("nan"), b"\0" * 1100):
            message = {"work": 1} | {name: value}
            if kind is int and isinstance(value, int) and low <= value <= high:
                continue
            payloads.append(msgpack.packb(message))
    return payloads
