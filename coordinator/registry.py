"""The devices of a run: what each said of itself, which are idle, and whose turn it is."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any

from tinyreptile import messages

from .entries import Known

MAX_REST = 60.0  # seconds, of a device that fails and says so
MAX_SILENCE = 3600.0  # seconds, of one that does not
SILENT_AT_WORK = 2


@dataclass
class Device:
    """One device, as its last status describes it."""

    id: str
    role: str = messages.TRAIN
    state: str = "offline"
    boot: str = ""
    platform: str = ""
    ram: int = 0
    error: str = ""
    work: int = 0  # its open work, 0 if none
    accepted: int = 0
    refused: int = 0
    expired: int = 0
    failures: int = 0  # pieces of work in a row that came to nothing at the device's own fault
    resting: bool = False
    round_trip: float | None = None  # seconds that its last training took, None if the last came to nothing
    strikes: int = 0  # updates of a kind that no honest device sends, less those that were taken since
    quarantine: str = ""  # why it gets no work; empty if it does
    seen: float = 0.0  # its last status or update, seconds since 1970
    clip: float = 0.0  # largest norm of its changes, 0 if its updates are not private
    noise: float = 0.0  # standard deviation of the noise on them, in units of ``clip``
    private: int = 0  # private updates that it was asked for
    rho: float = 0.0  # and what they have cost it, see `accounting`

    def known(self) -> Known:
        """What is kept of it."""
        return Known(
            device=self.id,
            role=self.role,
            boot=self.boot,
            platform=self.platform,
            ram=self.ram,
            accepted=self.accepted,
            refused=self.refused,
            expired=self.expired,
            failures=self.failures,
            strikes=self.strikes,
            quarantine=self.quarantine,
            seen=self.seen,
            private=self.private,
            rho=self.rho,
        )


class Registry:
    """All devices ever seen, and a queue of the idle ones for each role: the longest idle comes first."""

    def __init__(self) -> None:
        self.devices: dict[str, Device] = {}
        self._idle: dict[tuple[str, bool], OrderedDict[str, None]] = {  # by role, and whether silent
            (role, silent): OrderedDict() for role in (messages.TRAIN, messages.EVALUATE) for silent in (False, True)
        }
        self._resting: dict[str, float] = {}  # device id to the time its rest ends
        self._silent: set[str] = set()  # who let a deadline pass and has said nothing since
        self._tried: set[str] = set()  # those among them that have work

    def restore(self, known: Known) -> None:
        """Take up a device of an earlier start; it is away until it says otherwise."""
        fields = asdict(known)
        device_id = fields.pop("device")
        self.devices[device_id] = Device(device_id, **fields)

    def take_status(self, device_id: str, status: dict[str, Any]) -> Device:
        """Update a device from its status message (checked against `reports.STATUS`)."""
        device = self.devices.setdefault(device_id, Device(device_id))
        if status["state"] == "offline" and device.boot not in ("", status["boot"]):
            return device  # the last will of an earlier start, come late
        if device.id in self._silent:
            self.heard(device)
        elif status["boot"] != device.boot:
            self._wake(device)
        device.state = status["state"]
        device.boot = status["boot"]
        if device.state != "offline":
            device.role = status.get("role", messages.TRAIN)
            device.platform = status.get("platform", "")
            device.ram = status.get("ram", 0)
            device.error = status.get("error", "")
            device.clip = status.get("clip", 0.0)
            device.noise = status.get("noise", 0.0)
        self.settle(device)
        return device

    def settle(self, device: Device) -> None:
        """Put ``device`` in the queue where it belongs: idle if it is online without work."""
        idle = device.state == "online" and device.work == 0 and not device.resting and not device.quarantine
        for (role, silent), queue in self._idle.items():
            if idle and role == device.role and silent == (device.id in self._silent):
                queue.setdefault(device.id)
            else:
                queue.pop(device.id, None)

    def next_idle(self, role: str) -> Device | None:
        """The device of ``role`` that has been idle longest, or None.

        Of those that were silent when asked last, only `SILENT_AT_WORK` have work at a time: they may be gone, and
        their work is in the way of others' for as long as its deadline.
        """
        silent, others = self._idle[role, True], self._idle[role, False]
        queue = silent if silent and len(self._tried) < SILENT_AT_WORK else others
        return self.devices[next(iter(queue))] if queue else None

    def idle(self, role: str) -> list[Device]:
        """All idle devices of ``role``, the longest idle first."""
        return [self.devices[device_id] for silent in (False, True) for device_id in self._idle[role, silent]]

    def assign(self, device: Device, work: int) -> None:
        """``device`` has been given ``work``, or with 0 is rid of it."""
        device.work = work
        if work and device.id in self._silent:
            self._tried.add(device.id)
        else:
            self._tried.discard(device.id)
        self.settle(device)

    def failed(self, device: Device, now: float, silent: float = 0.0) -> None:
        """``device`` failed at its work: it rests, each time longer, lest it fails at full speed.

        If it was ``silent`` for that many seconds, as one is that the broker does not let speak any more, it has held
        the place of another for all of them: it rests for as long at least, or until it says something.
        """
        if silent:
            self._silent.add(device.id)
        else:
            self.heard(device)
        growth = 2.0 ** min(device.failures, 16)
        seconds = min(MAX_SILENCE, silent * growth) if silent else min(MAX_REST, growth - 1)
        device.failures += 1
        if seconds:
            device.resting = True
            self._resting[device.id] = now + seconds
        self.settle(device)

    def heard(self, device: Device) -> None:
        """``device`` has said something: if it was silent, it is not any more."""
        if device.id in self._silent:
            self._silent.remove(device.id)
            self._tried.discard(device.id)
            self._wake(device)

    def wake(self, now: float) -> None:
        """End the rest of those who have had it."""
        for device_id in [i for i, end in self._resting.items() if end <= now]:
            self._wake(self.devices[device_id])

    def _wake(self, device: Device) -> None:
        self._resting.pop(device.id, None)
        device.resting = False
        self.settle(device)

    def forget(self, device_id: str) -> None:
        """Nothing is known of a device any more."""
        self.devices.pop(device_id)
        self._resting.pop(device_id, None)
        self._silent.discard(device_id)
        self._tried.discard(device_id)
        for queue in self._idle.values():
            queue.pop(device_id, None)

    def count(self, state: str, role: str | None = None) -> int:
        """How many devices are in ``state``."""
        return sum(d.state == state and (role is None or d.role == role) for d in self.devices.values())
