"""Mosquitto's dynamic-security plugin on a running broker, told who is in a fleet and who is not any more.

Each member has a role of its name. A role that is changed disconnects who has it, so it is only where it has to be.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiomqtt

from coordinator.config import load_config
from coordinator.mqtt import broker_error, client, subscribe
from tinyreptile import reports

from .broker import password_of, plugin_rights
from .errors import DeploymentError
from .fleet import Fleet, Member

_TOPIC = "$CONTROL/dynamic-security/v1"
_BATCH = 10  # members at a time
_AT_ONCE = 8  # messages under way; aiomqtt warns beyond 10
_ANSWER_SECONDS = 10.0


async def apply(fleet: Fleet, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Make the broker of ``fleet`` know exactly its members.

    Who is revoked is disconnected at once, and what the broker retains of it is cleared.

    ``progress`` is called with the members that are done and all there are. Raises `BrokerError` where there is no
    broker, `DeploymentError` where its plugin does not do as it is told.
    """
    members = [member for member in fleet.members() if member.role != "administrator"]
    admin = next(member for member in fleet.members() if member.role == "administrator")
    broker = load_config(admin.configuration).broker
    try:
        async with client(broker) as session:
            plugin = _Plugin(session)
            await subscribe(session, f"{_TOPIC}/response")
            for name, account in fleet.description.revoked.items():
                await plugin.tell([{"command": "deleteClient", "username": name}], but="Client not found")
                await plugin.tell([{"command": "deleteRole", "rolename": name}], but="Role not found")
                topics = vars(reports.CoordinatorTopics(account.run).device(name))
                for kind in reports.DEVICE_WRITES:
                    await session.publish(topics[kind], b"", qos=1, retain=True)
            for start in range(0, len(members), _BATCH):
                await _introduce(plugin, members[start : start + _BATCH], fleet.description.passwords)
                progress(min(start + _BATCH, len(members)), len(members))
    except aiomqtt.MqttError as error:
        raise broker_error(broker, error) from None


async def _introduce(plugin: _Plugin, members: list[Member], passwords: bool) -> None:
    """Give each of ``members`` its role, with the rights of now, and its account, where it has none."""
    roles = await plugin.tell([{"command": "getRole", "rolename": m.user} for m in members], but="Role not found")
    commands: list[dict[str, Any]] = []
    for member, answer in zip(members, roles, strict=True):
        acls = plugin_rights(member)
        there = answer.get("data", {}).get("role")
        if there is None or _comparable(there["acls"]) != _comparable(acls):
            command = "createRole" if there is None else "modifyRole"
            commands.append({"command": command, "rolename": member.user, "acls": []})
            # One by one, for all of them don't fit a packet.
            commands += [{"command": "addRoleACL", "rolename": member.user, **acl} for acl in acls]
    await plugin.tell(commands)
    accounts = [
        {"command": "createClient", "username": m.user, "roles": [{"rolename": m.user}]}
        | ({"password": password_of(m)} if passwords else {})
        for m in members
    ]
    await plugin.tell(accounts, but="Client already exists")


def _comparable(acls: list[dict[str, Any]]) -> set[tuple[str, str, bool]]:
    return {(acl["acltype"], acl["topic"], acl["allow"]) for acl in acls}


class _Plugin:
    """The plugin behind ``session``."""

    def __init__(self, session: aiomqtt.Client) -> None:
        self._session = session
        self._messages: AsyncIterator[aiomqtt.Message] = aiter(session.messages)

    async def tell(self, commands: list[dict[str, Any]], but: str | None = None) -> list[dict[str, Any]]:
        """The answers to ``commands``; raises `DeploymentError` for one with an error that is not ``but``."""
        letters = _letters(commands)
        for start in range(0, len(letters), _AT_ONCE):
            some = letters[start : start + _AT_ONCE]
            await asyncio.gather(*(self._session.publish(_TOPIC, letter, qos=1) for letter in some))
        answers: list[dict[str, Any]] = []
        for _ in letters:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    message = await anext(self._messages)
            except TimeoutError:
                raise DeploymentError(
                    "the broker's dynamic-security plugin does not answer; was it started with the fleet's "
                    f"mosquitto.conf, and does it let this client write {_TOPIC} and read {_TOPIC}/response?"
                ) from None
            answers += json.loads(str(message.payload, "utf-8"))["responses"]
        for answer in answers:
            if answer.get("error", but) != but:
                raise DeploymentError(f"the dynamic-security plugin refused {answer['command']}: {answer['error']}")
        return answers


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
