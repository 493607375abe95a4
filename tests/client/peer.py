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
        await self.send_bytes(topic, msgpack.packb(message), retain=retain)

    async def send_bytes(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        await self._session.publish(topic, payload, qos=1, retain=retain)

    # What is published

    async def put_pieces(self, version: int, data: bytes, only: range | None = None) -> None:
        """``data`` as ``version``, retained; ``only`` some of its pieces."""
        for index in only or range(messages.chunk_count(len(data), messages.PIECE_BYTES)):
            piece = data[index * messages.PIECE_BYTES : (index + 1) * messages.PIECE_BYTES]
            message = {"version": version, "crc": crc32(data), "data": piece}
            await self.send(self.topics.piece(index), message, retain=True)

    async def put_manifest(self, data: bytes, model: Any = SMALL, **fields: Any) -> None:
        manifest = {
            "protocol": messages.PROTOCOL,
            "version": 0,
            "model": model,
            "weights": "int16",
            "encoding": "int16",
            "bytes": len(data),
            "crc": crc32(data),
        }
        await self.send(self.topics.init, manifest | fields, retain=True)

    async def put(self, version: int, data: bytes, model: Any = SMALL) -> None:
        """``data`` as the newest version."""
        await self.put_pieces(version, data)
        await self.put_manifest(data, model, version=version)

    async def ask(
        self, device: str, work: int, data: bytes | None, only: range | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Request training from ``data``, or from what the device holds; returns the request.

        ``only`` some pieces of ``data`` are sent; ``fields`` change task or request.
        """
        task = {"kind": "train", "steps": 4, "beta": 0.01, "seconds": 30, "bits": 8}
        other = ("version", "crc", "from", "done", "refused", "task", "private", "noise")
        task |= {name: value for name, value in fields.items() if name not in other}
        request = {"work": work, "version": 0, "task": task}
        request |= {"crc": crc32(data)} if data is not None else {"crc": 0, "from": 0}
        request |= self._accounted(device)
        request |= {name: value for name, value in fields.items() if name in other}
        size = messages.PIECE_BYTES
        pieces = [] if data is None else [{"data": data[at : at + size]} for at in range(0, len(data), size)]
        for index, piece in enumerate(pieces or [{}]):
            message = {"work": work, "at": index * size} if index else request
            if only is None or index in only:
                await self.send(self.topics.device(device).work, message | piece)
        return request

    def _accounted(self, device: str) -> dict[str, Any]:
        """What a request says of the ledger of ``device``, as far as its updates are private."""
        said = [value for value in (*self.statuses(device), *self.updates(device)) if "private" in value]
        noise = [value["noise"] for value in said if "noise" in value]
        return {"private": max(value["private"] for value in said), "noise": noise[-1]} if noise else {}

    async def acknowledge(self, device: str, work: int, **fields: Any) -> None:
        await self.send(self.topics.device(device).work, {"done": work} | fields)

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

    def _answers(self, device: str) -> list[dict[str, Any]]:
        """Messages on the topics of ``device`` on which either role answers, so far."""
        topics = self.topics.device(device)
        return [value for at, value in self._received if at in (topics.update, topics.evaluation)]

    def updates(self, device: str, part: int = 0) -> list[dict[str, Any]]:
        """What came of work of ``device`` so far, of updates chunk ``part``, but for what `wanted` gives."""
        return [value for value in self._answers(device) if value.get("part", 0) == part and "whole" not in value]

    def wanted(self, device: str) -> list[int]:
        """The work whose initialization ``device`` has asked for again, so far."""
        return [value["work"] for value in self._answers(device) if "whole" in value]

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
        topics = peer.topics
        await session.subscribe([(t, 1) for t in (topics.all_status, topics.all_updates, topics.all_evaluations)])
        try:
            yield peer
        finally:
            receiver.cancel()
            await asyncio.wait([receiver])


def make_device(peer: Peer, name: str = "d0", stream: Stream | None = None, **options: Any) -> Client:
    """A device of the run of ``peer``; with the option ``predict`` one that predicts."""
    kind = PredictingClient if "predict" in options else Client
    broker = {"host": peer.broker.host, "port": peer.broker.port}
    return kind(name, peer.run, stream or SineStream(1), **broker | options)


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
