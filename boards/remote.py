"""What can be asked of a device over MQTT: its newest log lines, and to restart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiomqtt

from coordinator.config import Config
from coordinator.mqtt import broker_error, client, pack, unpack
from tinyreptile import messages, reports
from tinyreptile.messages import MessageError

from .errors import BoardError

_ANSWER_SECONDS = 10.0


async def log_of(config: Config, device_id: str, seconds: float = _ANSWER_SECONDS) -> list[str]:
    """The newest lines of the device's log, oldest first; raises `BoardError` if it does not answer."""
    topics = messages.RunTopics(config.run.name).device(device_id)
    lines: list[str] = []
    try:
        async with client(config.broker) as session, asyncio.timeout(seconds):
            await session.subscribe(topics.log, qos=1)
            await session.publish(topics.command, pack({"command": "log"}), qos=1)
            async for message in session.messages:
                with contextlib.suppress(MessageError):
                    part = messages.check(reports.LOG, unpack(message.payload))
                    lines += [str(line) for line in part["lines"]]
                    if not part["left"]:
                        return lines
    except TimeoutError:
        raise BoardError(
            f"{device_id} does not answer; tinyreptile status says whether it is online (a simulated one keeps no log)"
        ) from None
    except aiomqtt.MqttError as error:
        raise broker_error(config.broker, error) from None
    raise AssertionError("messages do not end")


async def predictions(config: Config, device_id: str) -> AsyncIterator[dict[str, Any]]:
    """What the device predicts, message by message, for ever; raises `BrokerError` if there is no broker at first."""
    topic = messages.RunTopics(config.run.name).device(device_id).prediction
    connected_once = False
    while True:
        try:
            async with client(config.broker) as session:
                connected_once = True
                await session.subscribe(topic, qos=1)
                async for message in session.messages:
                    with contextlib.suppress(MessageError):
                        yield messages.check(reports.PREDICTION, unpack(message.payload))
        except aiomqtt.MqttError as error:
            if not connected_once:
                raise broker_error(config.broker, error) from None
            await asyncio.sleep(1)


async def restart(config: Config, device_id: str, seconds: float = 3 * _ANSWER_SECONDS) -> None:
    """Ask the device to restart; returns when it is online anew, raises `BoardError` if it is not to be heard of."""
    topics = messages.RunTopics(config.run.name).device(device_id)
    before = None
    try:
        async with client(config.broker) as session, asyncio.timeout(seconds):
            await session.subscribe(topics.status, qos=1)
            async for message in session.messages:
                with contextlib.suppress(MessageError):
                    status = messages.check(reports.STATUS, unpack(message.payload))
                    if status["state"] not in ("online", "unfit"):
                        continue
                    if before is None:
                        before = status["boot"]
                        await session.publish(topics.command, pack({"command": "restart"}), qos=1)
                    elif status["boot"] != before:
                        return
    except TimeoutError:
        if before is None:
            raise BoardError(f"{device_id} is not online; tinyreptile status lists who is") from None
        raise BoardError(f"{device_id} was told to restart, and is not back yet") from None
    except aiomqtt.MqttError as error:
        raise broker_error(config.broker, error) from None
