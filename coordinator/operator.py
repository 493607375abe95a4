"""The operator's side of `control`: a request to a running coordinator, and its answer."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Any

import aiomqtt

from tinyreptile import messages, reports
from tinyreptile.messages import MessageError

from .config import BrokerConfig, Config
from .errors import CoordinatorError
from .mqtt import broker_error, client, pack, unpack
from .observer import QUIET_SECONDS, check_run_status, retained

ANSWER_SECONDS = 15.0


async def ask(config: Config, command: str, arguments: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The rows with which the run's coordinator answers ``command``.

    Raises `CoordinatorError` with what the coordinator has against it, or if nobody answers; `BrokerError`.
    """
    topics = reports.CoordinatorTopics(config.run.name)
    name = f"operator-{secrets.token_hex(6)}"
    request = {"request": 1, "client": name, "command": command, "arguments": arguments or {}}
    rows: list[dict[str, Any]] = []
    try:
        async with client(config.broker) as session:
            await session.subscribe(topics.answers(name), qos=1)
            await session.publish(topics.control, pack(request), qos=1)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    async for message in session.messages:
                        with contextlib.suppress(MessageError):
                            answer = messages.check(reports.ANSWER, unpack(message.payload))
                            if "error" in answer:
                                raise CoordinatorError(answer["error"])
                            rows += answer.get("rows", [])
                            if not answer["left"]:
                                return rows
    except aiomqtt.MqttError as error:
        raise broker_error(config.broker, error) from None
    raise CoordinatorError(
        f"the coordinator of run {config.run.name} does not answer; is it running, and may this user control it?"
    )


async def runs(broker: BrokerConfig, seconds: float = 3.0) -> dict[str, dict[str, Any]]:
    """The statuses of all runs at ``broker``, by name; raises `BrokerError`."""
    found: dict[str, dict[str, Any]] = {}
    try:
        async with client(broker) as session:
            await session.subscribe(reports.ALL_COORDINATORS, qos=1)
            async for _, message in retained(session, seconds, QUIET_SECONDS):
                with contextlib.suppress(MessageError):
                    status = check_run_status(message)
                    found[status["run"]] = status
    except aiomqtt.MqttError as error:
        raise broker_error(broker, error) from None
    return found
