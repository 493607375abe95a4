"""What an operator may ask of a run while it is going on, over MQTT."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tinyreptile import messages, reports
from tinyreptile.messages import MessageError

from .config import shown
from .errors import CoordinatorError, cut
from .journal import Journal
from .mqtt import pack
from .registry import Device
from .run import Run
from .store import Store

ANSWER_BYTES = 1200  # of rows in one message
EVENTS = 50  # latest that are told

Row = dict[str, Any]


class Control:
    """Carries out the requests for one run.

    Each command returns rows to show, or raises `CoordinatorError` with nothing changed. What it has changed is
    durable when it returns.

    Args:
        drain: ends the service once no work is out.
        clear: takes a topic's retained message away.
    """

    def __init__(
        self, run: Run, store: Store, journal: Journal, *, drain: Callable[[], None], clear: Callable[[str], None]
    ) -> None:
        self._run = run
        self._store = store
        self._journal = journal
        self._drain_service = drain
        self._clear = clear
        self._commands: dict[str, Callable[..., Awaitable[list[Row]]]] = {
            "pause": self._pause,
            "resume": self._resume,
            "drain": self._drain,
            "set": self._set,
            "settings": self._settings,
            "versions": self._versions,
            "rollback": self._rollback,
            "events": self._events,
            "devices": self._devices,
            "forget": self._forget,
            "quarantine": self._quarantine,
            "release": self._release,
        }

    async def answer(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """The messages that answer ``request``, which has been checked against `reports.REQUEST`."""
        number = request["request"]
        try:
            command = self._commands.get(request["command"])
            if command is None:
                known = ", ".join(sorted(self._commands))
                raise CoordinatorError(f"unknown command {request['command']}; known are {known}")
            rows = await command(request.get("arguments", {}))
            await self._journal.flush()
            return _messages(number, rows)
        except (CoordinatorError, MessageError) as error:
            return [{"request": number, "error": cut(str(error), reports.LONG_TEXT), "left": 0}]

    # The run

    async def _pause(self, arguments: Row) -> list[Row]:
        self._run.change({"run.paused": True})
        return []

    async def _resume(self, arguments: Row) -> list[Row]:
        self._run.change({"run.paused": False})
        return []

    async def _drain(self, arguments: Row) -> list[Row]:
        self._drain_service()
        return []

    async def _set(self, arguments: Row) -> list[Row]:
        if not arguments:
            raise CoordinatorError("name at least one setting, as learning.alpha")
        self._run.change(arguments)
        return await self._settings({})

    async def _settings(self, arguments: Row) -> list[Row]:
        return self._run.settings()

    async def _versions(self, arguments: Row) -> list[Row]:
        return [{"version": version, "updates": updates} for version, updates in self._store.checkpoint_versions()]

    async def _rollback(self, arguments: Row) -> list[Row]:
        version = arguments.get("version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 0:
            raise CoordinatorError(f"a version is a number from 0 on, not {shown(version)}")
        await self._journal.flush()
        self._run.roll_back(version)
        return [{"version": self._run.version}]

    async def _events(self, arguments: Row) -> list[Row]:
        await self._journal.flush()
        return [
            {"at": event.at, "version": event.version, "kind": event.kind, "text": event.text}
            for event in self._store.events()[-EVENTS:]
        ]

    # Its devices

    async def _devices(self, arguments: Row) -> list[Row]:
        devices = self._run.registry.devices
        if arguments:
            devices = {device.id: device for device in self._named(arguments)}
        return [_row(device) | self._standing(device) for _, device in sorted(devices.items())]

    def _standing(self, device: Device) -> Row:
        """What the deltas of ``device`` count, where that is found."""
        judged = self._run.config.guards.reputation and device.role == messages.TRAIN
        return {"standing": round(self._run.standing(device.id), 2)} if judged else {}

    async def _forget(self, arguments: Row) -> list[Row]:
        known, ids = self._run.registry.devices, _ids(arguments)
        everything = [vars(self._run.topics.device(device_id)) for device_id in ids]
        devices = [known[device_id] for device_id in ids if device_id in known]
        for device in devices:
            if device.state == "online" and not device.quarantine:
                raise CoordinatorError(
                    f"device {device.id} is online; it would be back at once. If it is gone for good and only seems "
                    "to be online, as one that was revoked does, put it in quarantine first"
                )
        for device in devices:
            self._run.forget(device.id)
        for topics in everything:  # also of devices that never joined, and left something all the same
            for name in reports.DEVICE_WRITES:
                self._clear(topics[name])
        return []

    async def _quarantine(self, arguments: Row) -> list[Row]:
        reason = arguments.get("reason", "an operator's decision")
        if not isinstance(reason, str):
            raise CoordinatorError("a reason is a text")
        for device in self._named(arguments):
            self._run.quarantine(device.id, cut(reason, reports.TEXT))
        return []

    async def _release(self, arguments: Row) -> list[Row]:
        devices = self._named(arguments)
        for device in devices:
            if not device.quarantine:
                raise CoordinatorError(f"device {device.id} is not in quarantine")
        for device in devices:
            self._run.release(device.id)
        return []

    def _named(self, arguments: Row) -> list[Device]:
        """The devices that ``arguments`` name, each once."""
        return [self._run.device(device_id) for device_id in _ids(arguments)]


def _ids(arguments: Row) -> list[str]:
    """The ids that ``arguments`` name, each once."""
    ids = arguments.get("ids")
    if not isinstance(ids, list) or not ids or not all(isinstance(device_id, str) for device_id in ids):
        raise CoordinatorError("name at least one device")
    return list(dict.fromkeys(ids))


def _row(device: Device) -> Row:
    names = ("state", "work", "error", "notice", "trouble", "saturated", "clip", "noise")
    now = {name: getattr(device, name) for name in names}
    known = vars(device.known()) | now
    return {name: value for name, value in known.items() if value not in ("", 0)} | {"device": device.id}


def _fitting(row: Row) -> tuple[Row, int]:
    """``row``, with its longest texts cut until it fits a message, and its bytes: others may have written them.

    Its lists are texts then.
    """
    if len(pack(row)) > ANSWER_BYTES:
        row = {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in row.items()}
    while (size := len(pack(row))) > ANSWER_BYTES:
        texts = {name: value for name, value in row.items() if isinstance(value, str)}
        longest = max(texts, key=lambda name: len(texts[name].encode()))
        row = row | {longest: cut(texts[longest], len(texts[longest].encode()) // 2)}
    return row, size


def _messages(number: int, rows: list[Row]) -> list[dict[str, Any]]:
    """``rows`` in messages of a size that the protocol allows, each with the number of rows that are still to come."""
    answers: list[dict[str, Any]] = []
    part: list[Row] = []
    size = 0
    for index, row in enumerate(rows):
        row, more = _fitting(row)
        if part and size + more > ANSWER_BYTES:
            answers.append({"request": number, "rows": part, "left": len(rows) - index})
            part, size = [], 0
        part.append(row)
        size += more
    return [*answers, {"request": number, "rows": part, "left": 0}]
