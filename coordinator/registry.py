"""The devices of a run: what each said of itself, which are idle, and whose turn it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tinyreptile import messages, reports

from .accounting import rho_of
from .entries import Known
from .turns import Fairness, Queue, Shares

MAX_REST = 60.0  # seconds, of a device that fails and says so
MAX_SILENCE = 3600.0  # seconds, of one that does not
SILENT_AT_WORK = 2
NEVER = float("-inf")

_TRUSTED, _COSTLY, _DOUBTED, _SILENT = _KINDS = range(4)  # kinds of idle devices


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
    notice: str = ""  # what its owner should see to
    trouble: str = ""  # why its last work came to nothing; empty if it did not
    saturated: int = 0  # steps, since this start of the coordinator, in which an activation ended at +-32
    work: int = 0  # its open work, 0 if none
    accepted: int = 0
    refused: int = 0
    expired: int = 0
    failures: int = 0  # pieces of work in a row that came to nothing at the device's own fault
    resting: bool = False
    counts: bool = False  # whether it is there for all that is known, and an equal share is its due
    answered: float = NEVER  # when anything was heard of its work last, by the coordinator's clock
    holds: int | None = None  # the version that it is known to hold
    task: dict[str, Any] | None = None  # what it was last asked to do, if it is known to have heard
    owed: int = 0  # work whose update is durable, which it has not been told yet
    strikes: int = 0  # updates of a kind that no honest device sends, less those that were taken since
    quarantine: str = ""  # why it gets no work; empty if it does
    seen: float = 0.0  # its last status or update, seconds since 1970
    clip: float = 0.0  # largest norm of its changes, 0 if its updates are not private
    noise: float = 0.0  # standard deviation of the noise on them, in units of ``clip``
    private: int = 0  # its private updates, and one more while it may be making one; never less than it has made
    rho: float = 0.0  # and what they have cost it, see `accounting`
    told: int = 0  # private updates that it is known to have made, by its own ledger
    told_rho: float = 0.0  # and their cost

    def take_ledger(self, private: int, rho: float) -> None:
        """Take what the device has on its ledger; its word can only raise what is known."""
        self.told = max(self.told, private)
        self.told_rho = max(self.told_rho, float(rho))
        self._account(self.told, self.told_rho)

    def reserve(self) -> tuple[int, float]:
        """Account for one more private update; returns what the device may go by: `told`, and its noise."""
        self._account(self.told + 1, self.told_rho + rho_of(self.noise))
        return self.told, self.noise

    def add_private(self, noise: float) -> None:
        """Account for one more private update with ``noise``, which is on no ledger."""
        self._account(self.private + 1, self.rho + rho_of(noise))

    def _account(self, private: int, rho: float) -> None:
        self.private = max(self.private, min(private, reports.COUNT))
        self.rho = max(self.rho, min(rho, reports.RHO))

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
    """All devices ever seen, and queues of the idle ones for each role.

    Whose work has cost the others least comes first, of equal ones the longest idle; whose work costs them more than is
    usual has a part of the time (`turns.Fairness`). Who has made more of the latest updates than its share waits
    (`turns.Shares`).

    A retained status may be that of a device that died long ago. While everybody answers, nobody is in doubt. Once
    somebody was silent until his deadline, who has not answered since then is asked on trial only: beside the others.
    """

    def __init__(self) -> None:
        self.devices: dict[str, Device] = {}
        self._idle: dict[tuple[str, int], Queue] = {  # by role and kind
            (role, kind): Queue() for role in (messages.TRAIN, messages.EVALUATE) for kind in _KINDS
        }
        self._waits: dict[str, Queue] = {}  # where, by device
        self._fairness = Fairness()
        self._shares = Shares()
        self._makers: int | None = None  # who made the latest updates and are there; None: not counted
        self._resting: dict[str, float] = {}  # device id to the time its rest ends
        self._silent: set[str] = set()  # who let a deadline pass and has said nothing since
        self._tried: set[str] = set()  # those among them that have work
        self._doubt = NEVER  # who has answered since then is trusted

    def restore(self, known: Known) -> None:
        """Take up a device of an earlier start; it is away until it says otherwise."""
        fields = asdict(known)
        device_id = fields.pop("device")
        self.devices[device_id] = Device(device_id, **fields, told=max(0, known.private - 1))

    def take_status(self, device_id: str, status: dict[str, Any]) -> Device:
        """Update a device from its status message (checked against `reports.STATUS`)."""
        device = self.devices.setdefault(device_id, Device(device_id))
        if status["state"] == "offline" and device.boot not in ("", status["boot"]):
            return device  # the last will of an earlier start, come late
        if device.id in self._silent:
            self._unsilence(device)
        elif status["boot"] != device.boot:
            self._wake(device)
        device.state = status["state"]
        device.boot = status["boot"]
        if device.state != "offline":
            device.role = status.get("role", messages.TRAIN)
            device.platform = status.get("platform", "")
            device.ram = status.get("ram", 0)
            device.error = status.get("error", "")
            device.notice = status.get("notice", "")
            device.clip = status.get("clip", 0.0)
            device.noise = status.get("noise", 0.0)
            device.take_ledger(status.get("private", 0), status.get("rho", 0.0))
            device.holds, device.task = status.get("version"), None
        self.settle(device)
        return device

    def settle(self, device: Device) -> None:
        """Put ``device`` in the queue where it belongs: idle if it is online without work."""
        kind = self._kind(device)
        there = device.state == "online" and not device.quarantine
        if device.counts != (there and kind in (_TRUSTED, _COSTLY)):
            device.counts = not device.counts
            self._makers = None
        idle = there and device.work == 0 and not device.resting
        queue = self._idle.get((device.role, kind)) if idle else None
        if (before := self._waits.get(device.id)) is queue:
            return
        if before is not None:
            before.discard(device.id)
            del self._waits[device.id]
        if queue is not None:
            queue.add(device.id, self._fairness.tag(device.id))
            self._waits[device.id] = queue

    def _kind(self, device: Device) -> int:
        if device.id in self._silent:
            return _SILENT
        if device.answered < self._doubt:
            return _DOUBTED
        return _COSTLY if device.role == messages.TRAIN and self._fairness.is_costly(device.id) else _TRUSTED

    def next_idle(self, role: str, share: float = 0.0) -> Device | None:
        """The device of ``role`` whose turn it is, of those that are not in doubt, or None.

        Who has made ``share`` times as many of the latest updates as an equal share has to wait; with 0 nobody has.
        """
        makers = self._count_makers() if share else 0
        suits = (lambda device_id: self._shares.allow(device_id, share, makers)) if share else None
        first = self._idle[role, _TRUSTED].first(suits)
        if first is None or self._fairness.purse >= 0:
            costly = self._idle[role, _COSTLY].first(suits)
            if first is None or (costly and self._fairness.tag(costly) <= self._fairness.tag(first)):
                first = costly
        return None if first is None else self.devices[first]

    def _count_makers(self) -> int:
        """How many of those who made the latest updates are there and trusted to be."""
        if self._makers is None:
            makers = (self.devices.get(device_id) for device_id in self._shares.makers())
            self._makers = sum(device is not None and device.counts for device in makers)
        return self._makers

    def delivered(self, device_id: str) -> None:
        """An update of ``device_id`` was accepted, now or before this start of the coordinator."""
        if self._shares.add(device_id):
            self._makers = None

    def spend(self, device: Device, seconds: float, places: int, *, delivered: bool) -> None:
        """``device`` has held ``places`` for ``seconds``, and ``delivered`` an update, or nothing."""
        self._fairness.spend(device.id, seconds, places, delivered=delivered)

    def next_trial(self, role: str, places: int, on_trial: int, alone: bool) -> Device | None:
        """The device in doubt that is asked next beside the others, or None if as many are as may be.

        ``places`` is how many others may have work, ``on_trial`` how many have it on trial, and ``alone`` whether
        these are all: then, so that the living are found soon among many that are gone, as many may be tried as have
        been silent so far. Of those that were silent when asked last, only `SILENT_AT_WORK` have work at a time.
        """
        alone = alone and not self._idle[role, _TRUSTED] and not self._idle[role, _COSTLY]
        if on_trial >= max(SILENT_AT_WORK, places, len(self._silent) if alone else 0):
            return None
        queue = self._idle[role, _DOUBTED]
        if not queue and (alone or len(self._tried) < SILENT_AT_WORK):
            queue = self._idle[role, _SILENT]
        first = queue.first()
        return None if first is None else self.devices[first]

    def idle(self, role: str) -> list[Device]:
        """All idle devices of ``role``, in the order of their turns."""
        return [self.devices[device_id] for kind in _KINDS for device_id in self._idle[role, kind]]

    def assign(self, device: Device, work: int) -> None:
        """``device`` has been given ``work``, or with 0 is rid of it."""
        device.work = work
        if work:
            self._fairness.begin(device.id)
        if work and device.role == messages.TRAIN and device.id in self._silent:
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
            self._unsilence(device)
        growth = 2.0 ** min(device.failures, 16)
        seconds = min(MAX_SILENCE, silent * growth) if silent else min(MAX_REST, growth - 1)
        device.failures += 1
        if seconds:
            device.resting = True
            self._resting[device.id] = now + seconds
        self.settle(device)

    def doubt(self, since: float) -> None:
        """Somebody who held a place has been silent ``since`` then: so may be all who have not answered since."""
        self._doubt = max(self._doubt, since)
        for kind in (_TRUSTED, _COSTLY):
            for device_id in list(self._idle[messages.TRAIN, kind]):
                self.settle(self.devices[device_id])

    def heard(self, device: Device, now: float) -> None:
        """``device`` has said something of its work: it is there."""
        device.answered = now
        self._unsilence(device)

    def _unsilence(self, device: Device) -> None:
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
        self._fairness.forget(device_id)
        self._makers = None
        self._resting.pop(device_id, None)
        self._silent.discard(device_id)
        self._tried.discard(device_id)
        if (queue := self._waits.pop(device_id, None)) is not None:
            queue.discard(device_id)

    def count(self, state: str, role: str | None = None) -> int:
        """How many devices are in ``state``."""
        return sum(d.state == state and (role is None or d.role == role) for d in self.devices.values())
