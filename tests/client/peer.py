"""A coordinator made by hand: it says what the test tells it to say, and keeps what devices send."""

from __future__ import annotations

import asyncio
from binascii import crc32
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiomqtt
import msgpack

from coordinator.mqtt import client
from tests.environment import Mosquitto
from tests.fleet import SMALL, broker_config, eventually, new_run
from tinyreptile import messages, reports
from tinyreptile.client import Client
from tinyreptile.predictions import PredictingClient
from tinyreptile.streams import Stream
from tinyreptile.streams.sine import SineStream


class Peer:
    """The coordinator's side of the run `run` at ``broker``."""

    def __init__(self, broker: Mosquitto, session: aiomqtt.Client, run: str) -> None:
        self.broker = broker
        self.run = run
        self.topics = reports.CoordinatorTopics(run)
        self._session = session
        self._received: list[tuple[str, Any]] = []

    async def receive(self) -> None:
        async for message in self._session.messages:
            assert isinstance(message.payload, bytes)
            with suppress(ValueError):  # the test's own hostile messages come back here
                value = msgpack.unpackb(message.payload)
                if isinstance(value, dict):
                    self._received.append((message.topic.value, value))

    async def send(self, topic: str, message: Any, *, retain: bool = False) -> None:
        await self._session.publish(topic, msgpack.packb(message), qos=1, retain=retain)

    # What is published

    async def put_chunks(
        self, version: int, data: bytes, slot: int = 0, crc: int | None = None, only: range | None = None
    ) -> None:
        """``data`` as ``version``, retained in ``slot``; ``only`` some of its chunks."""
        for index in only or range(messages.chunk_count(len(data))):
            piece = data[index * messages.CHUNK_BYTES : (index + 1) * messages.CHUNK_BYTES]
            chunk = {"version": version, "crc": crc32(data) if crc is None else crc, "data": piece}
            await self.send(self.topics.chunk(slot, index), chunk, retain=True)

    async def put_manifest(self, data: bytes, model: Any = SMALL, **fields: Any) -> None:
        manifest = {
            "protocol": messages.PROTOCOL,
            "version": 0,
            "model": model,
            "weights": "int16",
            "encoding": "int16",
            "bytes": len(data),
            "crc": crc32(data),
            "chunks": messages.chunk_count(len(data)),
            "slot": 0,
        }
        await self.send(self.topics.init, manifest | fields, retain=True)

    async def put(self, version: int, data: bytes, model: Any = SMALL, slot: int = 0) -> None:
        """``data`` as the newest version."""
        await self.put_chunks(version, data, slot)
        await self.put_manifest(data, model, version=version, slot=slot)

    async def ask(self, device: str, work: int, data: bytes, **fields: Any) -> dict[str, Any]:
        """Request training from ``data``; ``fields`` change the request, which is returned."""
        request = {
            "work": work,
            "kind": "train",
            "version": 0,
            "crc": crc32(data),
            "slot": 0,
            "steps": 4,
            "beta": 0.01,
            "seconds": 30,
            "bits": 8,
        } | fields
        await self.send(self.topics.device(device).work, request)
        return request

    async def acknowledge(self, device: str, work: int, accepted: bool = True, **fields: Any) -> None:
        await self.send(self.topics.device(device).ack, {"work": work, "accepted": accepted} | fields)

    # What devices say

    def statuses(self, device: str) -> list[dict[str, Any]]:
        """Status messages of ``device`` so far, probes left out."""
        topic = self.topics.device(device).status
        return [value for at, value in self._received if at == topic and value.get("state") != "probe"]

    def states(self, device: str) -> list[str]:
        return [status["state"] for status in self.statuses(device)]

    def probes(self, device: str) -> int:
        topic = self.topics.device(device).status
        return sum(at == topic and value.get("state") == "probe" for at, value in self._received)

    def updates(self, device: str, index: int = 0) -> list[dict[str, Any]]:
        """Messages on update topic ``index`` of ``device`` so far, but for those that `fetched` gives."""
        topic = self.topics.device(device).update(index)
        return [value for at, value in self._received if at == topic and "fetched" not in value]

    def fetched(self, device: str) -> list[dict[str, Any]]:
        """What ``device`` said when it had an initialization and needed more than half a second to learn from it."""
        topic = self.topics.device(device).update(0)
        return [value for at, value in self._received if at == topic and "fetched" in value]

    async def hello(self, device: str, count: int = 1) -> dict[str, Any]:
        """The latest status of ``device`` once it has said ``count``."""
        await eventually(lambda: len(self.statuses(device)) >= count, f"{device} has said hello")
        return self.statuses(device)[-1]

    async def update(self, device: str, count: int = 1) -> dict[str, Any]:
        """The latest first chunk from ``device`` once there are ``count``."""
        await eventually(lambda: len(self.updates(device)) >= count, f"{device} has sent {count} updates")
        return self.updates(device)[-1]


@asynccontextmanager
async def coordinating(broker: Mosquitto) -> AsyncIterator[Peer]:
    """A coordinator of a new run."""
    async with client(broker_config(broker)) as session:
        peer = Peer(broker, session, new_run())
        receiver = asyncio.create_task(peer.receive())
        await session.subscribe([(peer.topics.all_status, 1), (peer.topics.all_updates, 1)])
        try:
            yield peer
        finally:
            receiver.cancel()
            await asyncio.wait([receiver])


def make_device(peer: Peer, name: str = "d0", stream: Stream | None = None, **options: Any) -> Client:
    """A device of the run of ``peer``; with the option ``predict`` one that predicts."""
    kind = PredictingClient if "predict" in options else Client
    return kind(name, peer.run, stream or SineStream(1), host=peer.broker.host, port=peer.broker.port, **options)


@asynccontextmanager
async def living(client: Client) -> AsyncIterator[asyncio.Task[None]]:
    """``client`` takes part until the end of the context; an error that ended it is raised."""
    life = asyncio.create_task(client.run())
    try:
        yield life
    finally:
        life.cancel()
        await asyncio.wait([life])
        if not life.cancelled() and (error := life.exception()):
            raise error
