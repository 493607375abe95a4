"""What each role may read and write at the broker: the one matrix that every broker's rules are written from.

Whatever is not listed here is denied, ``$SYS`` among it, and so is everything to clients without a role.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tinyreptile import messages

Access = Literal["read", "write"]
Role = Literal["coordinator", "device", "operator", "observer", "administrator"]

RUN_ROLES: tuple[Role, ...] = ("coordinator", "operator", "observer")  # one account each in every run
ADMINISTRATOR = "administrator@broker"  # of the dynamic-security plugin; no run has it
_CONTROL = "$CONTROL/dynamic-security/#"

# Topic filters below tinyreptile/{run}/. {id} is the device's own.
RIGHTS: dict[Role, dict[Access, tuple[str, ...]]] = {
    "device": {
        "read": (
            *("init", "init/+", "software/+", "software/+/+"),
            *(f"device/{{id}}/{kind}" for kind in ("status", "work", "label", "command")),
        ),
        "write": tuple(f"device/{{id}}/{kind}" for kind in ("status", "update/+", "prediction", "log")),
    },
    "coordinator": {
        # What it has published itself is read to see whether it is there.
        "read": ("coordinator", "control", "init", "init/+", "device/+/status", "device/+/update/+"),
        # A status is written to forget a device that is gone.
        "write": (
            *("coordinator", "control/+", "init", "init/+"),
            *("device/+/work", "device/+/status"),
        ),
    },
    "operator": {
        "read": (
            # What it has published itself is read to see whether it got through.
            *("coordinator", "control", "control/+", "init", "init/+", "software/+", "software/+/+"),
            *(f"device/+/{kind}" for kind in ("status", "work", "update/+", "prediction")),
            *(f"device/+/{kind}" for kind in ("label", "command", "log")),
        ),
        "write": ("control", "software/+", "software/+/+", "device/+/label", "device/+/command"),
    },
    "observer": {
        "read": ("coordinator", "init", "init/+", "device/+/status", "device/+/prediction"),
        "write": (),
    },
    "administrator": {"read": (), "write": ()},
}


@dataclass(frozen=True)
class Right:
    """Leave to read or to write what matches a topic filter."""

    access: Access
    topics: str


def user_name(role: Role, run: str) -> str:
    """Who plays ``role`` in ``run``. No device can be called so: ids have no @."""
    return f"{role}@{run}"


def rights(role: Role, run: str, user: str) -> list[Right]:
    """What ``user``, who has ``role`` in ``run``, may do; of a device ``user`` is the id."""
    if role == "administrator":
        return [Right("read", _CONTROL), Right("write", _CONTROL)]
    root = messages.RunTopics(run).root
    return [
        Right(access, f"{root}/{topics.format(id=user)}")
        for access in ("read", "write")
        for topics in RIGHTS[role][access]
    ]
