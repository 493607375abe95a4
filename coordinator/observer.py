"""What anyone may see of a run over MQTT: its status, its devices, its initialization."""

from __future__ import annotations

import asyncio
import contextlib
from binascii import crc32
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiomqtt

from tinyreptile import messages, reports
from tinyreptile.messages import MessageError
from tinyreptile.model import Model

from .config import BrokerConfig, Config
from .errors import CoordinatorError
from .initialization import decode, encoded_size
from .mqtt import broker_error, client, unpack
from .rules import Weights

QUIET_SECONDS = 0.5  # once retained messages have come, so long a silence means that these were all


@dataclass
class Snapshot:
    """Retained messages of a run: its coordinator's status, None if there is none, and its devices' by id."""

    coordinator: dict[str, Any] | None = None
    devices: dict[str, dict[str, Any]] = field(default_factory=dict)


def check_run_status(message: Any) -> dict[str, Any]:
    """``message`` if it is a run's status with all that it holds in order, else `MessageError`."""
    status: dict[str, Any] = messages.check(reports.RUN_STATUS, message)
    if status["evaluation"]:
        messages.check(reports.EVALUATION_SUMMARY, status["evaluation"])
    for name in ("refusals", "dropped"):
        counts = status.get(name, {})
        if not all(isinstance(kind, str) for kind in counts):
            raise MessageError(f"{name} are counted by kind, a string")
        reports.check_ints(name, counts.values(), 0, reports.COUNT)
    return status


async def watch(run: str, broker: BrokerConfig, on_status: Callable[[dict[str, Any], bool], None]) -> None:
    """Call ``on_status`` with each status of the run's coordinator and whether it was retained, for ever.

    Raises `BrokerError` if there is no broker at the start.
    """
    topic = reports.CoordinatorTopics(run).coordinator
    connected_once = False
    while True:
        try:
            async with client(broker) as session:
                connected_once = True
                await session.subscribe(topic, qos=1)
                async for message in session.messages:
                    with contextlib.suppress(MessageError):
                        on_status(check_run_status(unpack(message.payload)), bool(message.retain))
        except aiomqtt.MqttError as error:
            if not connected_once:
                raise broker_error(broker, error) from None
            await asyncio.sleep(1)


async def look(config: Config, seconds: float = 3.0) -> Snapshot:
    """The run as its retained messages show it; raises `BrokerError`."""
    topics = reports.CoordinatorTopics(config.run.name)
    snapshot = Snapshot()
    try:
        async with client(config.broker) as session:
            await session.subscribe([(topics.coordinator, 1), (topics.all_status, 1)])
            async for topic, message in retained(session, seconds):
                with contextlib.suppress(MessageError):
                    if topic == topics.coordinator:
                        snapshot.coordinator = check_run_status(message)
                    else:
                        device_id, _, _ = reports.parse(topics, topic)
                        snapshot.devices[device_id] = messages.check(reports.STATUS, message)
    except aiomqtt.MqttError as error:
        raise broker_error(config.broker, error) from None
    return snapshot


async def fetch(config: Config, seconds: float = 10.0) -> tuple[Model, int, Weights]:
    """(model, version, float64 weights) of the newest published initialization; raises `CoordinatorError`.

    Like a device it never mixes versions: all chunks must carry the manifest's version and checksum.
    """
    topics = reports.CoordinatorTopics(config.run.name)
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    try:
        async with client(config.broker) as session:
            await session.subscribe([(topics.init, 1), (topics.chunks(0), 1), (topics.chunks(1), 1)])
            manifest: dict[str, Any] | None = None
            chunks: dict[str, dict[str, Any]] = {}
            async for topic, message in retained(session, seconds, quiet=seconds):
                with contextlib.suppress(MessageError):
                    if topic == topics.init:
                        manifest = messages.check(messages.MANIFEST, message)
                    else:
                        chunks[topic] = messages.check(messages.CHUNK, message)
                if manifest and (data := _assemble(topics, manifest, chunks)) is not None:
                    model = Model(manifest["model"], manifest["weights"])
                    if len(data) == encoded_size(model, manifest["encoding"]):
                        return model, manifest["version"], decode(model, data, manifest["encoding"])
                if loop.time() > end:
                    break
    except aiomqtt.MqttError as error:
        raise broker_error(config.broker, error) from None
    except ValueError as error:  # ModelError among them
        raise CoordinatorError(f"the run's model is not known here: {error}") from None
    raise CoordinatorError(
        f"run {config.run.name} has published no initialization at {config.broker.host}:{config.broker.port}; "
        "is its coordinator running?"
    )


def _assemble(
    topics: reports.CoordinatorTopics, manifest: dict[str, Any], chunks: dict[str, dict[str, Any]]
) -> bytes | None:
    parts = [chunks.get(topics.chunk(manifest["slot"], i)) for i in range(manifest["chunks"])]
    if any(p is None or (p["version"], p["crc"]) != (manifest["version"], manifest["crc"]) for p in parts):
        return None
    data = b"".join(part["data"] for part in parts if part is not None)
    return data if len(data) == manifest["bytes"] and crc32(data) == manifest["crc"] else None


async def retained(session: aiomqtt.Client, seconds: float, quiet: float = QUIET_SECONDS) -> Any:
    """(topic, message) of what arrives, until ``quiet`` seconds after the last retained one; ``seconds`` for the first.

    What a busy run says meanwhile comes without the flag, and does not put off the end.
    """
    loop = asyncio.get_running_loop()
    iterator = aiter(session.messages)
    end = loop.time() + seconds
    while True:
        try:
            message = await asyncio.wait_for(anext(iterator), end - loop.time())
        except TimeoutError:
            return
        if message.retain:
            end = loop.time() + quiet
        if message.payload:
            with contextlib.suppress(MessageError):
                yield message.topic.value, unpack(message.payload)
