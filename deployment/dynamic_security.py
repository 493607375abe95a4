"""Mosquitto's dynamic-security plugin on a running broker, told who is in a fleet and who is not any more.

Each member has a role of its name. A role that is changed disconnects who has it, so it is only where it has to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from coordinator.administrator import Plugin, plugin_of
from coordinator.config import broker_in
from tinyreptile import reports

from .broker import password_of, plugin_account, plugin_rights
from .fleet import Fleet, Member

_BATCH = 10  # members at a time


async def apply(
    fleet: Fleet, progress: Callable[[int, int], None] = lambda done, total: None, anew: Iterable[str] = ()
) -> None:
    """Make the broker of ``fleet`` know exactly its members.

    Who is revoked is disconnected at once, and what the broker retains of it is cleared. The accounts of the users
    ``anew`` are made once more: their passwords are new.

    ``progress`` is called with the members that are done and all there are. Raises `BrokerError` where there is no
    broker, `PluginError` where its plugin does not do as it is told.
    """
    members = [member for member in fleet.members() if member.role != "administrator"]
    admin = next(member for member in fleet.members() if member.role == "administrator")
    revoked = fleet.description.revoked
    async with plugin_of(broker_in(admin.configuration)) as plugin:
        await plugin.delete_clients([*revoked, *anew])
        for name, account in revoked.items():
            await plugin.tell([{"command": "deleteRole", "rolename": name}], but="Role not found")
            topics = vars(reports.CoordinatorTopics(account.run).device(name))
            await plugin.clear(topics[kind] for kind in reports.DEVICE_WRITES)
        for start in range(0, len(members), _BATCH):
            await _introduce(plugin, members[start : start + _BATCH], fleet.description.passwords)
            progress(min(start + _BATCH, len(members)), len(members))


async def _introduce(plugin: Plugin, members: list[Member], passwords: bool) -> None:
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
        {"command": "createClient"} | plugin_account(m) | ({"password": password_of(m)} if passwords else {})
        for m in members
    ]
    await plugin.tell(accounts, but="Client already exists")


def _comparable(acls: list[dict[str, Any]]) -> set[tuple[str, str, bool]]:
    return {(acl["acltype"], acl["topic"], acl["allow"]) for acl in acls}
