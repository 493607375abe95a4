"""The broker's files of a fleet: Mosquitto's configuration from the template, the access control list, the names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import passwords
from .errors import DeploymentError
from .files import make_folder, read, write, write_changed
from .fleet import Description, Fleet, Member
from .roles import rights

TEMPLATE = "secured.conf"
_TEMPLATE_FOLDER = "/etc/mosquitto/fleet"
_TEMPLATE_PLUGIN = "/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so"
_PLUGIN_FOLDERS = ("/usr/lib", "/usr/local/lib", "/opt/homebrew/lib")
_PLUGIN = "mosquitto_dynamic_security.so"
_WRITTEN = (
    "# Written by tinyreptile provision and tinyreptile revoke: what is added by hand is lost with the next change.\n"
)


def template() -> str:
    """The configuration that a fleet's is filled in from, as it lies in ``broker_config``."""
    folder = Path(__file__).parent.parent / "broker_config"
    return ((folder if folder.exists() else Path(__file__).parent) / TEMPLATE).read_text()


def find_plugin() -> str:
    """Where the dynamic-security plugin is on this machine; raises `DeploymentError`."""
    for folder in map(Path, _PLUGIN_FOLDERS):
        for path in (folder / _PLUGIN, *sorted(folder.glob(f"*/{_PLUGIN}"))):
            if path.exists():
                return str(path)
    raise DeploymentError(f"there is no {_PLUGIN} on this machine; name where the broker has it with --plugin PATH")


def configuration(wanted: Description) -> str:
    """Mosquitto's configuration for the fleet that is ``wanted``."""
    chosen = {
        "passwords" if wanted.passwords else "certificates",
        "dynamic-security" if wanted.plugin else "acl",
    }
    if wanted.passwords:  # each listener has its own, and a list of rights; or the plugin has both
        chosen.remove("passwords" if wanted.plugin else "acl")
    blocks = [
        block for block in template().split("\n\n") if not (way := re.match(r"# \[(.+)\]", block)) or way[1] in chosen
    ]
    text = "\n\n".join(blocks)
    if wanted.plugin:
        text = text.replace(_TEMPLATE_PLUGIN, wanted.plugin)
    text = text.replace(_TEMPLATE_FOLDER, wanted.broker_folder)
    address = "" if wanted.listen == "all" else f" {wanted.listen}"
    ports = iter((wanted.port, wanted.roles_port))
    text = re.sub(r"(?m)^listener .*$", lambda _: f"listener {next(ports)}{address}", text)
    return re.sub(r"(?m)^user .*$", f"user {wanted.broker_user}", text)


def access_list(members: Iterable[Member]) -> str:
    """Mosquitto's access control list: every member by name with all that it may do."""
    parts = [_WRITTEN]
    for member in members:
        lines = (f"topic {right.access} {right.topics}\n" for right in rights(member.role, member.run, member.user))
        parts.append(f"user {member.user}\n{''.join(lines)}")
    return "\n".join(parts)


def write_files(fleet: Fleet) -> None:
    """Bring the broker's files up to the fleet's members; what is right already is not touched."""
    wanted = fleet.description
    make_folder(fleet.broker / "data")
    if not (path := fleet.broker / "mosquitto.conf").exists():
        write(path, configuration(wanted))
    if wanted.plugin:
        if not fleet.plugin_state.exists():
            write(fleet.plugin_state, json.dumps(_first_state(fleet), indent=1) + "\n")
        return
    write_changed(fleet.broker / "acl", access_list(fleet.members()))
    if wanted.passwords:
        _write_passwords(fleet)


def _write_passwords(fleet: Fleet) -> None:
    """A line for each member in the file of its listener; those that are right stay: a new one has another salt."""
    for name, are_devices in (("passwords", True), ("roles-passwords", False)):
        path = fleet.broker / name
        there = {}
        if path.exists():
            there = {line.partition(":")[0]: line for line in read(path).decode().splitlines()}
        members = [member for member in fleet.members() if member.is_device == are_devices]
        lines = [passwords.line(member.user, password_of(member), there.get(member.user, "")) for member in members]
        write_changed(path, "".join(f"{line}\n" for line in lines))


def password_of(member: Member) -> str:
    """The password in the file of ``member``."""
    return read(member.password).decode().strip()


def _first_state(fleet: Fleet) -> dict[str, Any]:
    """Return what the plugin knows at its first start: the members of now. All else is denied."""
    members = list(fleet.members())
    return {
        "defaultACLAccess": {
            "publishClientSend": False,
            "publishClientReceive": False,
            "subscribe": False,
            "unsubscribe": True,
        },
        "clients": [_first_account(member, fleet.description.passwords) for member in members],
        "groups": [],
        "roles": [{"rolename": member.user, "acls": plugin_rights(member)} for member in members],
    }


def _first_account(member: Member, with_password: bool) -> dict[str, Any]:
    account = plugin_account(member)
    if with_password:
        made = passwords.hashed(password_of(member))
        account |= {"password": made.digest, "salt": made.salt, "iterations": passwords.ITERATIONS}
    return account


def plugin_account(member: Member) -> dict[str, Any]:
    """Return the account of ``member`` without its password, as the dynamic-security plugin has it."""
    account: dict[str, Any] = {"username": member.user, "roles": [{"rolename": member.user}]}
    # The plugin looks at it where there is a password: no device comes in at the others' listener.
    return account | ({"clientid": member.user} if member.is_device else {})


def plugin_rights(member: Member) -> list[dict[str, Any]]:
    """What ``member`` may do, as the dynamic-security plugin has it."""
    kinds = {"read": ("publishClientReceive", "subscribePattern"), "write": ("publishClientSend",)}
    return [
        {"acltype": kind, "topic": right.topics, "priority": 0, "allow": True}
        for right in rights(member.role, member.run, member.user)
        for kind in kinds[right.access]
    ]
