"""The broker's administrator: what tells Mosquitto's dynamic-security plugin, which knows all clients, of changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiomqtt

from tinyreptile import reports

from .config import BrokerConfig
from .documents import parse_json
from .errors import PluginError
from .mqtt import session_with, subscribe

TOPIC = "$CONTROL/dynamic-security/v1"
ANSWER_SECONDS = 10.0
_AT_ONCE = 8  # messages under way; aiomqtt warns beyond 10


class Plugin:
    """The plugin behind ``session``, which has subscribed to its answers."""

    def __init__(self, session: aiomqtt.Client) -> None:
        self._session = session
        self._messages: AsyncIterator[aiomqtt.Message] = aiter(session.messages)

    async def tell(self, commands: list[dict[str, Any]], but: str | None = None) -> list[dict[str, Any]]:
        """Return the answers to ``commands``; raise `PluginError` for one with an error that is not ``but``."""
        letters = _letters(commands)
        for start in range(0, len(letters), _AT_ONCE):
            some = letters[start : start + _AT_ONCE]
            await asyncio.gather(*(self._session.publish(TOPIC, letter, qos=1) for letter in some))
        answers: list[dict[str, Any]] = []
        for _ in letters:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    message = await anext(self._messages)
            except TimeoutError:
                raise PluginError(
                    "the broker's dynamic-security plugin does not answer; was it started with the fleet's "
                    f"mosquitto.conf, and does it let this client write {TOPIC} and read {TOPIC}/response?"
                ) from None
            try:
                answers += parse_json(str(message.payload, "utf-8"))["responses"]
            except (ValueError, LookupError, TypeError):
                raise PluginError("the broker's dynamic-security plugin answers what is not understood") from None
        for answer in answers:
            if answer.get("error", but) != but:
                raise PluginError(f"the dynamic-security plugin refused {answer['command']}: {answer['error']}")
        return answers

    async def delete_clients(self, names: Iterable[str]) -> None:
        """End the sessions of the clients ``names`` at once, and take all their rights.

        A certificate comes in again, but has none. If its client were disabled only, it would have them.
        """
        await self.tell([{"command": "deleteClient", "username": name} for name in names], but="Client not found")

    async def clear(self, topics: Iterable[str]) -> None:
        """Clear what the broker retains on ``topics``."""
        for topic in topics:
            await self._session.publish(topic, b"", qos=1, retain=True)


@asynccontextmanager
async def plugin_of(broker: BrokerConfig) -> AsyncIterator[Plugin]:
    """Open a session with the plugin of ``broker``, as the administrator whose credentials are in it.

    Raises `BrokerError` where there is no broker, or it refuses this client.
    """
    async with session_with(broker) as session:
        await subscribe(session, f"{TOPIC}/response")
        yield Plugin(session)


def _letters(commands: list[dict[str, Any]]) -> list[str]:
    """Return ``commands`` in messages that the broker takes, as many in each as fit."""
    letters: list[str] = []
    texts: list[str] = []
    for text in map(json.dumps, commands):
        if texts and len(_letter([*texts, text])) > reports.MESSAGE_BYTES:
            letters.append(_letter(texts))
            texts = []
        texts.append(text)
    return [*letters, _letter(texts)] if texts else letters


def _letter(texts: list[str]) -> str:
    return f'{{"commands": [{", ".join(texts)}]}}'
