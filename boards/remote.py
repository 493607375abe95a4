"""What can be asked of a device over MQTT: its newest log lines, and to restart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from coordinator.config import Config
from coordinator.echo import Echo
from coordinator.mqtt import session_with, subscribe, unpack
from coordinator.observer import follow
from tinyreptile import messages, reports
from tinyreptile.messages import MessageError

from .errors import BoardError

_ANSWER_SECONDS = 10.0
_MOST_LINES = 10_000  # of a log: a board keeps some hundred


async def log_of(config: Config, device_id: str, seconds: float = _ANSWER_SECONDS) -> list[str]:
    """The newest lines of the device's log, oldest first.

    Raises `BoardError` if it does not answer, or without an end; `BrokerError`.
    """
    topics = messages.RunTopics(config.run.name).device(device_id)
    command = Echo(topics.command, {"command": "log"})
    lines: list[str] = []
    left = _MOST_LINES + 1
    try:
        async with session_with(config.broker) as session, asyncio.timeout(seconds):
            await subscribe(session, topics.log)
            await command.publish(session)
            async for message in session.messages:
                if command.takes(message) or message.retain:  # what was said at another time is no answer
                    continue
                with contextlib.suppress(MessageError):
                    part = messages.check(reports.LOG, unpack(message.payload))
                    lines += [str(line) for line in part["lines"]]
                    if not part["left"]:
                        return lines
                    if part["left"] >= left or len(lines) > _MOST_LINES:
                        raise BoardError(
                            f"{device_id} does not come to an end with its log: after {len(lines)} lines it says that "
                            f"{part['left']} are still to come; no log has more than {_MOST_LINES}"
                        )
                    left = part["left"]
    except TimeoutError:
        raise BoardError(
            f"{device_id} does not answer; tinyreptile status says whether it is online (a simulated one keeps no log)"
            f"{command.check()}"
        ) from None
    raise AssertionError("messages do not end")


async def predictions(config: Config, device_id: str) -> AsyncIterator[dict[str, Any]]:
    """Yield what the device predicts, message by message, as `follow` yields them."""
    topic = messages.RunTopics(config.run.name).device(device_id).prediction
    async for message in follow(config.broker, topic):
        if message.retain:  # a prediction of another time, or none at all
            continue
        with contextlib.suppress(MessageError):
            prediction = messages.check(reports.PREDICTION, unpack(message.payload))
            for output in prediction.get("outputs", []):
                messages.check(reports.OUTPUT, {"output": output})
            yield prediction


async def restart(config: Config, device_id: str, seconds: float = 3 * _ANSWER_SECONDS) -> None:
    """Ask the device to restart; returns when it is online anew.

    Raises `BoardError` if it is not to be heard of, `BrokerError`.
    """
    topics = messages.RunTopics(config.run.name).device(device_id)
    command = Echo(topics.command, {"command": "restart"})
    before = None
    try:
        async with session_with(config.broker) as session, asyncio.timeout(seconds):
            await subscribe(session, topics.status)
            async for message in session.messages:
                if command.takes(message):
                    continue
                with contextlib.suppress(MessageError):
                    status = messages.check(reports.STATUS, unpack(message.payload))
                    if status["state"] not in ("online", "unfit"):
                        continue
                    if before is None:
                        before = status["boot"]
                        await command.publish(session)
                    elif status["boot"] != before:
                        return
    except TimeoutError:
        if before is None:
            raise BoardError(
                f"{device_id} is not online, or the broker does not let this client read {topics.status}; "
                "tinyreptile status lists who is"
            ) from None
        raise BoardError(f"{device_id} was told to restart, and is not back yet{command.check()}") from None
