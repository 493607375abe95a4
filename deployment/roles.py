"""What each role may read and write at the broker: the one matrix that every broker's rules are written from.

Whatever is not listed here is denied, ``$SYS`` among it, and so is everything to clients without a role.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tinyreptile import messages, reports

Access = Literal["read", "write"]
Role = Literal["coordinator", "trainer", "evaluator", "operator", "observer", "administrator"]

RUN_ROLES: tuple[Role, ...] = ("coordinator", "operator", "observer")  # one account each in every run
DEVICE_ROLES: dict[str, Role] = {messages.TRAIN: "trainer", messages.EVALUATE: "evaluator"}  # by what a device calls it
ADMINISTRATOR = "administrator@broker"  # of the dynamic-security plugin; no run has it
CLIENT_IDS = "tinyreptile"  # what client ids begin with, and no device's name, which its session is called by
_ACCESSES: tuple[Access, ...] = ("read", "write")
_ALL_RUNS = "tinyreptile/+"
_CONTROL = "$CONTROL/dynamic-security/#"

# What a device of either role reads, and what it writes beside what comes of its work.
_DEVICE_READS = (
    *("init", "init/+", "software/+", "software/+/+"),
    *(f"device/{{id}}/{kind}" for kind in ("status", "work", "label", "command")),
)
_DEVICE_WRITES = tuple(f"device/{{id}}/{kind}" for kind in ("status", "prediction", "log"))

# Topic filters below tinyreptile/{run}/. {id} is the device's own.
RIGHTS: dict[Role, dict[Access, tuple[str, ...]]] = {
    # Who trains can not say that it is held out: nothing that it finds would be heard.
    "trainer": {"read": _DEVICE_READS, "write": (*_DEVICE_WRITES, "device/{id}/update")},
    "evaluator": {"read": _DEVICE_READS, "write": (*_DEVICE_WRITES, "device/{id}/evaluation")},
    "coordinator": {
        # What it has published itself is read to see whether it is there.
        "read": (
            *("coordinator", "control", "init", "init/+"),
            *(f"device/+/{kind}" for kind in ("status", "update", "evaluation")),
        ),
        # What devices may write is written to clear what one that is gone has left there.
        "write": (
            *("coordinator", "control/+", "init", "init/+", "device/+/work"),
            *(f"device/+/{kind}" for kind in reports.DEVICE_WRITES),
        ),
    },
    "operator": {
        "read": (
            # What it has published itself is read to see whether it got through.
            *("coordinator", "control", "control/+", "init", "init/+", "software/+", "software/+/+"),
            *(f"device/+/{kind}" for kind in ("status", "work", "update", "evaluation", "prediction")),
            *(f"device/+/{kind}" for kind in ("label", "command", "log")),
        ),
        "write": ("control", "software/+", "software/+/+", "device/+/label", "device/+/command"),
    },
    "observer": {
        "read": ("coordinator", "init", "init/+", "device/+/status", "device/+/prediction"),
        "write": (),
    },
    # Of all runs: to clear what a device that was revoked has left.
    "administrator": {"read": (), "write": tuple(f"device/+/{kind}" for kind in reports.DEVICE_WRITES)},
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
    administers = role == "administrator"
    root = _ALL_RUNS if administers else messages.RunTopics(run).root
    return [
        *(Right(access, _CONTROL) for access in _ACCESSES if administers),
        *(Right(access, f"{root}/{topics.format(id=user)}") for access in _ACCESSES for topics in RIGHTS[role][access]),
    ]
