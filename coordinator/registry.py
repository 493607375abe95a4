"""The devices of a run: what each said of itself, which are idle, and whose turn it is."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any

from tinyreptile import messages

from .entries import Known

MAX_REST = 60.0  # seconds


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
        self._idle: dict[str, OrderedDict[str, None]] = {
            messages.TRAIN: OrderedDict(),
            messages.EVALUATE: OrderedDict(),
        }
        self._resting: dict[str, float] = {}  # device id to the time its rest ends

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
        for role, queue in self._idle.items():
            if idle and role == device.role:
                queue.setdefault(device.id)
            else:
                queue.pop(device.id, None)

    def next_idle(self, role: str) -> Device | None:
        """The device of ``role`` that has been idle longest, or None."""
        device_id = next(iter(self._idle[role]), None)
        return self.devices[device_id] if device_id is not None else None

    def idle(self, role: str) -> list[Device]:
        """All idle devices of ``role``, the longest idle first."""
        return [self.devices[device_id] for device_id in self._idle[role]]

    def assign(self, device: Device, work: int) -> None:
        """``device`` has been given ``work``, or with 0 is rid of it."""
        device.work = work
        self.settle(device)

    def failed(self, device: Device, now: float) -> None:
        """``device`` failed at its work: it rests, each time longer, lest it fails at full speed."""
        seconds = min(MAX_REST, 2.0 ** min(device.failures, 16) - 1)
        device.failures += 1
        if seconds:
            device.resting = True
            self._resting[device.id] = now + seconds
            self.settle(device)

    def wake(self, now: float) -> None:
        """End the rest of those who have had it."""
        for device_id in [i for i, end in self._resting.items() if end <= now]:
            del self._resting[device_id]
            self.devices[device_id].resting = False
            self.settle(self.devices[device_id])

    def forget(self, device_id: str) -> None:
        """Nothing is known of a device any more."""
        device = self.devices.pop(device_id)
        self._resting.pop(device_id, None)
        self._idle.get(device.role, OrderedDict()).pop(device_id, None)

    def count(self, state: str, role: str | None = None) -> int:
        """How many devices are in ``state``."""
        return sum(d.state == state and (role is None or d.role == role) for d in self.devices.values())
