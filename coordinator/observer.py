"""What anyone may see of a run over MQTT: its status, its devices, its initialization."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from binascii import crc32
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiomqtt

from tinyreptile import messages, reports
from tinyreptile.messages import MessageError
from tinyreptile.model import Model

from .config import BrokerConfig, Config
from .errors import CoordinatorError
from .initialization import decode, encoded_size, held
from .mqtt import session_with, subscribe, unpack
from .rules import Weights

_log = logging.getLogger(__name__)

FIRST_SECONDS = 3.0  # until the first retained message comes, over a slow network
QUIET_SECONDS = 0.5  # once retained messages have come, so long a silence means that these were all
SILENT_SECONDS = 5.0  # a coordinator that is there publishes its status every second
AGAIN_SECONDS = 1.0  # until a connection that was lost is tried again


@dataclass
class Snapshot:
    """Retained messages of a run: its coordinator's status, `confirmed`, or None; its devices' statuses by id."""

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


class Outage:
    """Warns of each reason why there is no session with the broker, once, and when there is one again."""

    def __init__(self) -> None:
        self._reason = ""

    def report(self, error: Exception) -> None:
        """Take note of what a session has ended with, or could not begin for; it is tried again."""
        if str(error) != self._reason:
            self._reason = str(error)
            _log.warning("no connection to the broker (%s); trying again", self._reason)

    def end(self) -> None:
        """Take note of a session."""
        if self._reason:
            _log.warning("the connection to the broker is back")
        self._reason = ""


async def follow(broker: BrokerConfig, topic: str) -> AsyncIterator[aiomqtt.Message]:
    """Yield the messages on ``topic``, for ever.

    Raises `CoordinatorError` if there is no broker at the start, or its files can't be used then. Later that is
    passing: files may be renewed one after the other.
    """
    outage, connected_once = Outage(), False
    while True:
        try:
            async with session_with(broker) as session:
                await subscribe(session, topic)
                connected_once = True
                outage.end()
                async for message in session.messages:
                    yield message
        except CoordinatorError as error:
            if not connected_once:
                raise
            outage.report(error)
        await asyncio.sleep(AGAIN_SECONDS)


async def watch(run: str, broker: BrokerConfig, on_status: Callable[[dict[str, Any], bool], None]) -> None:
    """Call ``on_status`` with each status of the run's coordinator and whether it was retained; raises as `follow`."""
    async for message in follow(broker, reports.CoordinatorTopics(run).coordinator):
        with contextlib.suppress(MessageError):
            on_status(check_run_status(unpack(message.payload)), bool(message.retain))


async def look(config: Config, seconds: float = FIRST_SECONDS) -> Snapshot:
    """The run as its retained messages show it; raises `BrokerError`."""
    topics = reports.CoordinatorTopics(config.run.name)
    snapshot = Snapshot()
    async with session_with(config.broker) as session:
        await subscribe(session, topics.coordinator, topics.all_status)
        live: set[str] = set()
        async for topic, message in retained(session, seconds, live=live):
            with contextlib.suppress(MessageError):
                if topic == topics.coordinator:
                    snapshot.coordinator = check_run_status(message)
                else:
                    device_id, _ = reports.parse(topics, topic)
                    snapshot.devices[device_id] = messages.check(reports.STATUS, message)
        if snapshot.coordinator:
            statuses = {topics.coordinator: snapshot.coordinator}
            snapshot.coordinator = (await confirmed(session, statuses, live))[topics.coordinator]
    return snapshot


class UnpublishedError(CoordinatorError):
    """No initialization of a run is at the broker."""


async def fetch(config: Config, seconds: float = 10.0) -> tuple[Model, int, Weights]:
    """(model, version, float64 weights) of the newest published initialization; raises `CoordinatorError`.

    It is `UnpublishedError` where there is none, and soon where nothing of one is there. Like a device it never mixes
    versions: all pieces must carry the manifest's version and checksum. One that is replaced while it is read is
    followed by the next.
    """
    topics = reports.CoordinatorTopics(config.run.name)
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    try:
        async with session_with(config.broker) as session:
            await subscribe(session, topics.init, topics.piece("+"))
            manifest: dict[str, Any] | None = None
            pieces: dict[str, dict[str, Any]] = {}
            async for topic, message in retained(session, min(FIRST_SECONDS, seconds), quiet=seconds):
                with contextlib.suppress(MessageError):
                    if topic == topics.init:
                        manifest = messages.check(messages.MANIFEST, message)
                    else:
                        pieces[topic] = messages.check(reports.PIECE, message)
                if manifest and (data := _assemble(topics, manifest, pieces)) is not None:
                    model, encoding = Model(manifest["model"], manifest["weights"]), manifest["encoding"]
                    if len(data) == encoded_size(model, encoding):
                        weights = decode(model, data, encoding)
                        if crc32(held(model, data, encoding)) == manifest["crc"]:
                            return model, manifest["version"], weights
                if loop.time() > end:
                    break
    except ValueError as error:  # ModelError among them
        raise CoordinatorError(f"the run's model is not known here: {error}") from None
    raise UnpublishedError(
        f"run {config.run.name} has published no initialization at {config.broker.host}:{config.broker.port}; "
        f"is its coordinator running, and does the broker let this client read {topics.init}?"
    )


def _assemble(
    topics: reports.CoordinatorTopics, manifest: dict[str, Any], pieces: dict[str, dict[str, Any]]
) -> bytes | None:
    count = messages.chunk_count(manifest["bytes"], messages.PIECE_BYTES)
    parts = [pieces.get(topics.piece(i)) for i in range(count)]
    if any(p is None or (p["version"], p["crc"]) != (manifest["version"], manifest["crc"]) for p in parts):
        return None
    data = b"".join(part["data"] for part in parts if part is not None)
    return data if len(data) == manifest["bytes"] else None


async def confirmed(
    session: aiomqtt.Client, statuses: dict[str, dict[str, Any]], live: set[str]
) -> dict[str, dict[str, Any]]:
    """The coordinators' ``statuses``, by topic, with the state "silent" where one says "running" and nobody is there.

    A coordinator whose broker lost its will too leaves such a status behind. ``live`` are the topics on which anything
    has come that was not retained; all the others' coordinators are given `SILENT_SECONDS` for their next status.
    """
    doubted = {topic for topic, status in statuses.items() if status["state"] == "running"} - live
    iterator = aiter(session.messages)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SILENT_SECONDS):
            while doubted:
                message = await anext(iterator)
                topic = message.topic.value
                if topic in doubted and not message.retain:
                    with contextlib.suppress(MessageError):
                        statuses[topic] = check_run_status(unpack(message.payload))
                        doubted.remove(topic)
    return statuses | {topic: statuses[topic] | {"state": "silent"} for topic in doubted}


async def retained(
    session: aiomqtt.Client, seconds: float, quiet: float = QUIET_SECONDS, live: set[str] | None = None
) -> Any:
    """(topic, message) of what arrives, until ``quiet`` seconds after the last retained one; ``seconds`` for the first.

    What a busy run says meanwhile comes without the flag, and does not put off the end; its topics come into ``live``.
    """
    loop = asyncio.get_running_loop()
    iterator = aiter(session.messages)
    end = loop.time() + seconds
    while True:
        try:
            async with asyncio.timeout_at(end):  # `asyncio.wait_for` may swallow a cancellation under Python 3.11
                message = await anext(iterator)
        except TimeoutError:
            return
        if message.retain:
            end = loop.time() + quiet
        elif live is not None:
            live.add(message.topic.value)
        if message.payload:
            with contextlib.suppress(MessageError):
                yield message.topic.value, unpack(message.payload)
