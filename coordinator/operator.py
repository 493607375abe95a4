"""The operator's side of `control`: a request to a running coordinator, and its answer."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Any

from tinyreptile import messages, reports
from tinyreptile.messages import MessageError

from .config import BrokerConfig, Config
from .echo import Echo
from .errors import CoordinatorError, DeniedError
from .mqtt import session_with, subscribe, unpack
from .observer import check_run_status, confirmed, look, retained

ANSWER_SECONDS = 15.0


async def ask(config: Config, command: str, arguments: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The rows with which the run's coordinator answers ``command``.

    Raises `CoordinatorError` with what the coordinator has against it, or if nobody answers; `BrokerError`; before
    anything is sent `MessageError` where ``arguments`` are none for a message, or too long for one.
    """
    topics = reports.CoordinatorTopics(config.run.name)
    name = f"operator-{secrets.token_hex(6)}"
    request = Echo(topics.control, {"request": 1, "client": name, "command": command, "arguments": arguments or {}})
    rows: list[dict[str, Any]] = []
    left = reports.COUNT + 1
    fields = reports.ROWS.get(command, ())
    async with session_with(config.broker) as session:
        await subscribe(session, topics.answers(name))
        await request.publish(session)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                async for message in session.messages:
                    if request.takes(message) or message.retain:
                        continue
                    with contextlib.suppress(MessageError):
                        answer = messages.check(reports.ANSWER, unpack(message.payload))
                        if "error" in answer:
                            raise CoordinatorError(answer["error"])
                        rows += [messages.check(fields, row) for row in answer.get("rows", [])]
                        if not answer["left"]:
                            return rows
                        if answer["left"] >= left:
                            raise CoordinatorError(f"the answer of run {config.run.name} does not come to an end")
                        left = answer["left"]
    unknown = request.check()
    raise CoordinatorError(
        f"the coordinator of run {config.run.name} does not answer: {await _obstacle(config, topics)}{unknown}"
    )


async def _obstacle(config: Config, topics: reports.CoordinatorTopics) -> str:
    """Return why requests to the run's coordinator have no answers, as far as its status tells."""
    status = (await look(config)).coordinator
    if status is None:
        return (
            f"no run of this name has ever been at {config.broker.host}:{config.broker.port}, or the broker does not "
            f"let this client read {topics.coordinator}"
        )
    if status["state"] != "running":
        return "it is not running"
    return status.get("problem") or (
        f"it is running; it is busy, or the broker does not let it read {topics.control} or write {topics.control}/+, "
        f"or does not let this client read {topics.control}/+"
    )


async def runs(broker: BrokerConfig, seconds: float = 3.0) -> dict[str, dict[str, Any]]:
    """The statuses of all runs at ``broker``, by name, as `confirmed`; raises `BrokerError`."""
    statuses: dict[str, dict[str, Any]] = {}
    live: set[str] = set()
    async with session_with(broker) as session:
        await subscribe(session, reports.ALL_COORDINATORS)
        async for topic, message in retained(session, seconds, live=live):
            with contextlib.suppress(MessageError):
                statuses[topic] = check_run_status(message)
        statuses = await confirmed(session, statuses, live)
    return {status["run"]: status for status in statuses.values()}


async def other_runs(broker: BrokerConfig) -> dict[str, dict[str, Any]] | None:
    """As `runs`; None where the broker does not let this client ask for those of all names."""
    try:
        return await runs(broker)
    except DeniedError:
        return None
