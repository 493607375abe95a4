"""The yardstick of the service: two bare aiomqtt clients in two processes that exchange a run's messages, and no more.

One stands where the coordinator stands, the other for all devices at once. Per update there are as many messages to a
device as in the real run (a request with its initialization, and the answer to the update before where that travelled
alone) and one update; a new version (its pieces and the manifest, retained) follows after as many updates as there.
Sizes, topics, QoS, the number of requests in flight and the number of sender tasks are the real ones. Payloads are
blank: nothing is packed, checked, learned, added up or written to a disk, and a request follows an update at once. Both
clients are as fast as aiomqtt makes them: as many publishes are under way at a time as the coordinator has, since more
of them slow aiomqtt down; TCP does not hold small packets back; and no call has a time limit, which would cost a task
each.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import aiomqtt

from coordinator.service import INCOMING, SENDERS
from tinyreptile import reports

_quiet = logging.getLogger(__name__)  # answers that come after the end are no news
_quiet.setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Traffic:
    """What a real run was seen to send.

    Attributes:
        work, update, manifest: bytes of each payload.
        words: messages to a device per update, of which the first is followed by an update.
        pieces: bytes of the payload of each piece of a published initialization.
        versions: versions published per update.
    """

    work: int
    update: int
    manifest: int
    words: float
    pieces: tuple[int, ...]
    versions: float


@dataclass(frozen=True)
class Setting:
    """Where and for how long: devices, seconds of warm-up, seconds that are measured."""

    port: int
    run: str
    devices: int
    warm_up: float
    seconds: float


async def window(setting: Setting, count: Callable[[], int], trips: Any) -> dict[str, Any]:
    """What one side measures: after the warm-up, the rate of ``count`` and the round trips collected meanwhile."""
    while not count():  # noqa: ASYNC110 - polled, so that what is measured does no more than its work
        await asyncio.sleep(0.01)
    await asyncio.sleep(setting.warm_up)
    trips.clear()
    began, before, cpu = time.monotonic(), count(), time.process_time()
    await asyncio.sleep(setting.seconds)
    updates = count() - before
    return {
        "rate": updates / (time.monotonic() - began),
        "round_trips": sorted(trips),
        "cpu_us": (time.process_time() - cpu) / max(1, updates) * 1e6,
    }


def _client(setting: Setting) -> aiomqtt.Client:
    return aiomqtt.Client(
        "127.0.0.1",
        setting.port,
        max_inflight_messages=200,
        max_queued_incoming_messages=INCOMING,
        logger=_quiet,
        # Without it a small packet waits up to 40 ms for the broker's acknowledgement of the one before.
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    )


def coordinate(setting: Setting, traffic: Traffic, pipe: Connection) -> None:
    """The coordinator's side, a process of its own; sends what it measured through ``pipe``."""
    asyncio.run(_coordinate(setting, traffic, pipe))


async def _coordinate(setting: Setting, traffic: Traffic, pipe: Connection) -> None:
    topics = reports.CoordinatorTopics(setting.run)
    work = bytes(traffic.work)
    answer = b"\1" + work[1:]  # what is not followed by an update
    outbox: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    asked: dict[str, float] = {}
    trips: list[float] = []
    updates = versions = words = 0
    due = asyncio.Event()

    async with _client(setting) as session:

        def ask(device: str) -> None:
            nonlocal words
            while words + 1 <= updates * (traffic.words - 1):
                words += 1
                outbox.put_nowait((topics.device(device).work, answer))
            asked[device] = time.monotonic()
            outbox.put_nowait((topics.device(device).work, work))

        async def send() -> None:
            while True:
                topic, payload = await outbox.get()
                await session.publish(topic, payload, qos=1, timeout=math.inf)

        async def publish_version() -> None:
            for index, size in enumerate(traffic.pieces):
                await session.publish(topics.piece(index), bytes(size), qos=1, retain=True, timeout=math.inf)
            await session.publish(topics.init, bytes(traffic.manifest), qos=1, retain=True, timeout=math.inf)

        async def publish_versions() -> None:
            nonlocal versions
            while True:
                await due.wait()
                due.clear()
                versions += 1
                await publish_version()

        async def receive() -> None:
            nonlocal updates
            async for message in session.messages:
                device = message.topic.value.split("/")[3]
                trips.append(time.monotonic() - asked[device])
                updates += 1
                if updates * traffic.versions >= versions + 1:
                    due.set()
                ask(device)

        await publish_version()
        await session.subscribe(topics.all_updates, qos=1)
        pipe.recv()  # the other side is there
        for index in range(setting.devices):
            ask(f"sine-{index}")
        jobs = [send() for _ in range(SENDERS)] + [publish_versions(), receive()]
        tasks = [asyncio.create_task(job) for job in jobs]
        pipe.send(await _first(window(setting, lambda: updates, trips), tasks))


def answer(setting: Setting, traffic: Traffic, pipe: Connection) -> None:
    """The devices' side, a process of its own; ends when ``pipe`` says so."""
    asyncio.run(_answer(setting, traffic, pipe))


async def _answer(setting: Setting, traffic: Traffic, pipe: Connection) -> None:
    topics = reports.CoordinatorTopics(setting.run)
    update = bytes(traffic.update)
    inbox: asyncio.Queue[str] = asyncio.Queue()

    async with _client(setting) as session:

        async def serve() -> None:
            while True:
                device = await inbox.get()
                await session.publish(topics.device(device).update, update, qos=1, timeout=math.inf)

        async def receive() -> None:
            async for message in session.messages:
                if isinstance(message.payload, bytes) and message.payload[0] == 0:
                    inbox.put_nowait(message.topic.value.split("/")[3])

        await session.subscribe(topics.root + "/device/+/work", qos=1)
        pipe.send("ready")
        tasks = [asyncio.create_task(job) for job in [serve() for _ in range(SENDERS)] + [receive()]]
        await _first(asyncio.to_thread(pipe.recv), tasks)


async def _first(main: Awaitable[Any], tasks: list[asyncio.Task[None]]) -> Any:
    """The result of ``main``, unless one of the ``tasks`` fails before; none of them goes on after."""
    result = asyncio.ensure_future(main)
    try:
        done, _ = await asyncio.wait([result, *tasks], return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done - {result}), result).result()
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, aiomqtt.MqttError):
                await task
