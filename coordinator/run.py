"""A run: every decision of the coordinator, without the network.

Messages go in (`take_status`, `take_update`, `take_evaluation`), the clock goes in (`expire`), requests come out
(`next_work`). What must be sent or kept is handed to two callbacks, so that the whole of it can be driven by a test or
by the service alike.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from tinyreptile import messages, reports
from tinyreptile.delta import DeltaError
from tinyreptile.model import Model

from .admission import Admission
from .config import Config, changed, setting
from .deltas import kept_of, most_chunks, unpack
from .entries import Accepted, Checkpoint, Closed, Entry, Event, Forgotten, Issued, Setting
from .errors import ConfigError, CoordinatorError, cut
from .evaluation import Evaluations
from .guards import RESTORED, STRIKES, Guards, fingerprint, norm_of
from .histogram import Histogram
from .initialization import random_weights
from .registry import Device, Registry
from .replay import State, replay
from .rules import MetaUpdate, Weights, discount, schedule
from .store import Store
from .versions import Version, Versions
from .work import ID_GAP, Refusal, Work, WorkBook

_log = logging.getLogger(__name__)

CHECKPOINT_EVERY = 500  # updates
PATIENCE = 5.0  # seconds that any device may take for its work, however quick the others are
LAST_PATIENCE = 0.2  # seconds, for the last updates of a run
OVERDUE = 3  # times in_flight pieces of work may be overdue before they hold a place again
HELLOS = 10  # after which a request is sent again, for a device that has not begun with it
REPEATS = 3  # times that the initialization of a piece of work is sent again
REMEMBERED = 10_000  # outcomes of closed work kept in memory, to answer what is sent again
_PENDING = "pending"
_ENDED = "the run has ended"
# Bounds of the histograms.
VERSIONS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

Send = Callable[..., None]  # a topic, and the messages that follow one another there
Record = Callable[[Entry, Callable[[], None] | None], None]


def _with_stored(config: Config, stored: dict[str, Any], location: str) -> Config:
    """``config`` with the settings that are ``stored`` at ``location``.

    Raises `ConfigError`, which says how to be rid of those that can't be used: by hand or by another version they may
    have come to be anything.
    """
    try:
        return changed(config, stored)
    except ConfigError as error:
        reason = error
    bad = [name for name, value in stored.items() if not _can_be(config, {name: value})]
    raise ConfigError(
        f"the store {location} has settings that were made while the run went on, and can't be used: {reason}; "
        f"tinyreptile runs unset {' '.join(bad or stored)} --store {location}"
        f"{f' --run {config.run.name}' if '://' in location else ''} takes them back"
    )


def _can_be(config: Config, values: dict[str, Any]) -> bool:
    try:
        changed(config, values)
    except ConfigError:
        return False
    return True


class Run:
    """One run, resumed from ``store`` or begun anew.

    Attributes:
        config: the configuration with the settings that were changed since.
        weights: float64 (parameters,), the master initialization.
        version: meta-updates so far; updates: accepted updates so far (equal where a batch is one update).
        finished: whether all rounds are done and the last evaluation is in.
    """

    def __init__(self, config: Config, store: Store, *, send: Send, record: Record, clock: Callable[[], float]) -> None:
        self._configured = config
        stored = store.settings()
        self.config = _with_stored(config, stored, store.location)
        self._settings = self._changed(stored)
        for name in stored.keys() - self._settings.keys():  # the file says the same by now
            record(Setting(name, None), None)
        for row in self.settings():
            _log.warning(
                "%(setting)s is %(value)s, as it was set while the run went on, not %(configured)s as configured; "
                "tinyreptile runs unset takes it back",
                row,
            )
        self.model = Model(config.run.model, config.run.weights)
        self.topics = reports.CoordinatorTopics(config.run.name)
        self.registry = Registry()
        self.refusals: Counter[str] = Counter()
        self.events: Counter[str] = Counter()  # what was done to the run, by kind, since this start
        self.staleness, self.round_trip = Histogram(VERSIONS), Histogram(SECONDS)  # of all updates since this start
        self.saturated = 0  # steps of the same in which an activation ended at +-32
        self.losses: deque[float] = deque(maxlen=200)  # mean training loss of the latest updates
        self.round_trips: deque[float] = deque(maxlen=2000)  # seconds from request to accepted update
        self.taus: deque[int] = deque(maxlen=200)
        self._store = store
        self._send = send
        self._record = record
        self._clock = clock
        self._meta = self._meta_update()
        self._guards = Guards(self.config.guards)
        self.admission = Admission(self.topics, lambda: self.config.guards, clock)
        self._outcomes: OrderedDict[int, tuple[str, bool, str]] = OrderedDict()
        self._published_at = -1e9
        self._unheard: set[str] = set()  # who was there before the connection was lost, and has not been heard of since
        self.published_version = -1  # that whoever only reads can have; -1 before the first
        self._versions = Versions(self.model, self._held_by_devices)
        self._measured_at, self._usual = -1e9, (0.0, 0.0)
        self.evaluations = Evaluations(self)
        self._gone_back = False  # to a version that is not on the wire yet
        self.draining = False  # no more work is handed out until the service ends
        self.to_roll_back: int | None = None  # a version that is to be gone back to, once the journal is written
        self._restore()

    def _meta_update(self) -> MetaUpdate:
        learning, guards = self.config.learning, self.config.guards
        return MetaUpdate(
            schedule(learning.schedule, learning.alpha, learning.alpha_end),
            discount(
                "constant" if learning.mode == "batch" else learning.staleness,
                exponent=learning.staleness_exponent,
                free=learning.hinge_free,
                slope=learning.hinge_slope,
            ),
            size={"serial": 1, "asynchronous": guards.buffer, "batch": learning.batch}[learning.mode],
            combine=guards.combine,
        )

    # State

    def _restore(self) -> None:
        self._store.bind({"run": self.config.run.name, "model": self.model.spec, "weights": self.model.weights})
        state = replay(self._store, self.model, self._meta)
        if state is None:
            weights = random_weights(self.model, self.config.run.seed)
            state = State(weights, 0, 0, self._meta)
            self._store.write([Checkpoint(0, 0, weights)])
        self.weights: Weights = state.weights
        self.version, self.updates = state.version, state.updates
        gone_back = [event.version for event in self._store.events() if event.kind == "rollback"]
        self.evaluations.restore(self._store.evaluations(), max(gone_back, default=0))
        for known in self._store.devices():
            self.registry.restore(known)
        for row in self._store.accepted_since(max(0, self.updates - RESTORED)):
            self.registry.delivered(row.device)
            if row.device not in self.registry.devices:  # it was forgotten
                continue
            same = None
            if row.delta is not None:
                same = fingerprint(row.delta, row.gains)
                if self.config.guards.reputation:
                    try:
                        delta = unpack(self.model, row.delta, row.bits, row.gains, row.kept)
                    except DeltaError as error:
                        raise self._store.damaged(f"table accepted, work {row.work}: delta: {error}") from None
                    self._guards.compare(row.device, delta, row.norm)
            self._guards.accepted(row.device, same, row.version, row.norm)
        self._first_work = self._store.last_work() + ID_GAP
        self.book = WorkBook(self._first_work)
        now, today = self._clock(), time.time()
        closed = []
        for issued in self._store.open_work():
            left = min(issued.deadline - today, self.config.learning.deadline)  # today's clock may have gone back
            if issued.kind == messages.TRAIN and left > 0 and self.rounds_left != 0:
                work = Work(issued.work, issued.device, issued.kind, issued.version, issued.bits, now, now + left)
                work.kept, work.versions = issued.kept, {issued.version}
                work.task = self._task(work)
                self.book.restore(work)
                self.registry.devices.setdefault(issued.device, Device(issued.device)).work = issued.work
            else:
                closed.append(Closed(issued.work))
        self._store.write(closed)
        self._durable = self.newest()  # what a device can be sent: no crash takes it back

    def checkpoint(self) -> Checkpoint:
        """The newest version; updates of a batch that is not whole come after it."""
        return Checkpoint(self.updates - self._meta.pending, self.version, self.weights.copy())

    @property
    def rounds_left(self) -> int | None:
        """Updates still to be accepted, or None if the run has no end.

        One more than it was to have makes a batch whole that was begun when the end was set.
        """
        rounds = self.config.run.rounds
        return max(int(self._meta.pending > 0), rounds - self.updates) if rounds else None

    @property
    def finished(self) -> bool:
        """All rounds are done, and the final version is published and evaluated."""
        ended = self.rounds_left == 0 and self.evaluations.done and not self.lagging
        return ended and self.to_roll_back is None

    @property
    def lagging(self) -> bool:
        """Whether the newest version is not published."""
        return self.published_version != self.version

    def newest(self) -> Version:
        """The present version as it goes to devices; a crash may still take it back."""
        return self._versions.of(self.version, self.weights, self.config.learning.encoding)

    def _held_by_devices(self) -> set[int]:
        """Return the versions that a device holds, or may hold soon."""
        held = {device.holds for device in self.registry.devices.values() if device.holds is not None}
        return held.union({self._durable.number}, *(work.versions for work in self.book.open.values()))

    def disconnected(self) -> None:
        """The connection to the broker is new: nothing is known of who is there until they say so again."""
        for device in self.registry.devices.values():
            if device.state != "offline":
                self._unheard.add(device.id)
            device.state = "offline"
            self.registry.settle(device)
        self.published_version = -1

    def ask_unheard(self) -> None:
        """Have those who were there before the connection was lost, and have no status at the broker, say hello.

        What the broker retains may have been cleared meanwhile, and a device whose own connection has lasted has no
        other reason to repeat it. One that lives answers an empty status with its own.
        """
        for device_id in sorted(self._unheard):
            self._send(self.topics.device(device_id).status, None)
        self._unheard.clear()

    # Devices

    def take_status(self, device_id: str, status: dict[str, Any]) -> None:
        """A device's status message, already checked; a probe says nothing yet."""
        if status["state"] == "probe":
            return
        self._unheard.discard(device_id)
        problem = ""
        if status["protocol"] != messages.PROTOCOL:
            problem = f"it speaks protocol {status['protocol']}, this coordinator {messages.PROTOCOL}"
        elif status.get("role", messages.TRAIN) not in (messages.TRAIN, messages.EVALUATE):
            problem = "its role is neither train nor evaluate"
        elif status.get("role", messages.TRAIN) == messages.TRAIN:
            problem = self._privacy_problem(status)
        if problem and status["state"] == "online":
            _log.warning("device %s gets no work: %s", device_id, problem, extra={"sender": device_id})
            status = status | {"state": "unfit", "error": problem}
        before = self.registry.devices.get(device_id)
        if before is None and len(self.registry.devices) >= self.config.guards.devices:
            self.refusals["too many devices"] += 1
            return
        was = before and (before.state, before.known())
        noticed = before.notice if before else ""
        rebooted = before is not None and status["state"] != "offline" and before.boot not in ("", status["boot"])
        if rebooted and before is not None and (work := self.book.open.get(before.work)):
            self._close(work, before, "lost", "the device has started anew")
        device = self.registry.take_status(device_id, status)
        if was != (device.state, device.known()):
            self._keep(device)
        if device.notice not in ("", noticed):
            _log.warning("device %s: %s", device_id, device.notice, extra={"sender": device_id})
        work = self.book.open.get(device.work)
        at = status.get("work", 0)
        if device.state == "unfit" and work is not None and at != work.id:
            # Another can have its place at once. What it is at it may still deliver: the last update of a budget, say.
            self._close(work, device, "unfit", "its device is not fit for it")
            self.registry.failed(device, self._clock())  # who says so again and again waits ever longer
        if device.state == "online":
            if at and at not in self.book.open:
                self._answer_again(device_id, at)  # the acknowledgement was lost with the device's last connection
            if work is not None and at != work.id and work.versions:  # and so was the request
                if work.hellos == HELLOS:
                    self.refuse(device_id, work.id, Refusal("lost", "its device says hello again and again"))
                else:
                    work.hellos += 1
                    self._request(work)

    def _privacy_problem(self, status: dict[str, Any]) -> str:
        """Why the updates of a device with this ``status`` are not private enough; empty if they are."""
        demand = self.config.privacy
        noise, clip = status.get("noise", 0.0), status.get("clip", 0.0)
        if noise < demand.noise:
            return f"its updates have noise of {noise:g}, this run asks for {demand.noise:g}; set privacy on the device"
        if demand.clip and not 0 < clip <= demand.clip:
            return f"its changes are bound to {clip:g}, this run asks for {demand.clip:g}; set privacy on the device"
        return ""

    def _keep(self, device: Device) -> None:
        """What is known of ``device`` now goes into the journal, in one transaction with what brought it about."""
        device.seen = time.time()
        self._record(device.known(), None)

    def _failed(self, device: Device, refusal: Refusal) -> None:
        """``device`` has sent what could not be taken."""
        device.refused += 1
        device.trouble = str(refusal)
        self.registry.failed(device, self._clock())
        if refusal.kind in STRIKES:
            self._strike(device, refusal)
        else:
            self._keep(device)

    def _strike(self, device: Device, refusal: Refusal) -> None:
        """``device`` has sent what no honest device sends: after some of it, it is put into quarantine."""
        device.strikes += 1
        limit = self.config.guards.strikes
        if limit and device.strikes >= limit and not device.quarantine:
            self.quarantine(device.id, f"{device.strikes} messages refused, the last for: {refusal}")
        else:
            self._keep(device)

    def quarantine(self, device_id: str, reason: str) -> None:
        """Give ``device_id`` no more work, and take none of it, until it is released."""
        device = self.device(device_id)
        device.quarantine = reason
        if (work := self.book.open.get(device.work)) is not None:
            self._close(work, device, "quarantined", reason)
        self.registry.settle(device)
        self._keep(device)
        self._note("quarantine", f"{device_id}: {reason}")

    def shut_out(self) -> set[str]:
        """Return who floods, and put the devices among them into quarantine."""
        names = set(self.admission.flooding)
        for name in names:
            device = self.registry.devices.get(name)
            if device is not None and not device.quarantine:
                self.quarantine(name, "it floods the coordinator with messages")
        return names

    def flooded(self, text: str) -> None:
        """Put on record who floods, and what is done about it; ``text`` says so."""
        self._note("flood", text)

    def release(self, device_id: str) -> None:
        """Let a device that was quarantined learn again."""
        device = self.device(device_id)
        device.quarantine, device.strikes, device.failures = "", 0, 0
        self.registry.settle(device)
        self._keep(device)
        self._note("release", device_id)

    def forget(self, device_id: str) -> None:
        """Nothing is known of ``device_id`` any more, until it says something."""
        device = self.device(device_id)
        if (work := self.book.open.get(device.work)) is not None:
            self._close(work, device, "lost", "the device was forgotten")
        self.registry.forget(device_id)
        self._unheard.discard(device_id)
        self._guards.forget(device_id)
        self.evaluations.forget(device_id)
        self._record(Forgotten(device_id), None)
        self._note("forget", device_id)

    def device(self, device_id: str) -> Device:
        """The device of that id; raises `CoordinatorError` if there never was one."""
        device = self.registry.devices.get(device_id)
        if device is None:
            raise CoordinatorError(f"no device {device_id} has ever joined run {self.config.run.name}")
        return device

    def standing(self, device_id: str) -> float:
        """What deltas of ``device_id`` count, from 0 to 1."""
        return self._guards.standing(device_id)

    # Operation

    def change(self, values: dict[str, Any]) -> None:
        """Put the settings ``values``, by ``table.key``, in the place of the configured ones; None takes them back.

        The configured value does so, too. Raises `ConfigError` for what can't be, and nothing has changed then.
        """
        settings = {name: value for name, value in {**self._settings, **values}.items() if value is not None}
        config = changed(self._configured, settings, values)
        if values.get("run.rounds") is not None and 0 < config.run.rounds < self.updates:
            raise ConfigError(f"run.rounds: the run has {self.updates} updates, it can't end at {config.run.rounds}")
        self.config = config
        self._settings = self._changed(settings)
        earlier, self._meta = self._meta, self._meta_update()
        self._meta.take_over(earlier)
        self._guards.config = self.config.guards
        for name in values:
            value = self._settings.get(name)
            self._record(Setting(name, value), None)
            self._note("setting", f"{name} as configured" if value is None else f"{name} = {value}")
        if self.rounds_left == 0:
            self._end()

    def settings(self) -> list[dict[str, Any]]:
        """The settings that were changed, with what is configured."""
        return [
            {"setting": name, "value": value, "configured": setting(self._configured, name)}
            for name, value in sorted(self._settings.items())
        ]

    def _changed(self, names: Iterable[str]) -> dict[str, Any]:
        """Those of the settings ``names`` whose value is another than the configured one, with it."""
        values = {name: setting(self.config, name) for name in names}
        return {name: value for name, value in values.items() if value != setting(self._configured, name)}

    def roll_back(self, version: int) -> None:
        """Make the weights of the earlier ``version`` a new version; all that is learned from later ones is dropped.

        The journal must be written when this is called. Raises `StoreError` if the version can't be had any more.
        """
        if version >= self.version:
            raise CoordinatorError(f"version {version} is not earlier than the present one, {self.version}")
        state = replay(self._store, self.model, self._meta_update(), version)
        if state is None:
            raise CoordinatorError("the run has no version yet")
        for work in list(self.book.open.values()):
            self._close(work, self.registry.devices[work.device], "rolled back", f"version {version} was gone back to")
        self._meta.drop()
        self.to_roll_back = None
        self.weights = state.weights
        self.version += 1
        self._gone_back = True
        self.evaluations.gone_back(self.version)
        self._record(self.checkpoint(), None)
        self._note("rollback", f"to version {version}")

    def now(self) -> float:
        """Seconds of the clock that it was given."""
        return self._clock()

    def record(self, entry: Entry) -> None:
        """Put ``entry`` into the journal."""
        self._record(entry, None)

    def _note(self, kind: str, text: str) -> None:
        _log.warning("%s: %s", kind, text)
        self.events[kind] += 1
        self._record(Event(time.time(), self.updates, self.version, kind, text), None)

    def drifted(self, text: str, best: int) -> None:
        """The alarm: the last evaluation was much worse than that of version ``best``."""
        self._note("drift", text)
        reaction = self.config.guards.on_drift
        if reaction == "hold":
            self.change({"run.paused": True})
        elif reaction == "rollback":
            self.to_roll_back = best

    def disagreed(self, text: str) -> None:
        """Single devices have found in an evaluation what the others have not."""
        self._note("disagreement", text)

    def evaluated_versions(self) -> set[int]:
        """Return the evaluated versions that can be gone back to."""
        return {version for version, _ in self._store.checkpoint_versions()} | {self.version}

    def end_with(self, version: int, text: str) -> None:
        """End the run with the weights of the earlier ``version``; ``text`` says why."""
        self._note("best", text)
        self.to_roll_back = version

    # Updates

    def take_update(self, device_id: str, update: dict[str, Any]) -> None:
        """One chunk of an update, or why there is none; ``update`` has been checked against `reports.UPDATE`."""
        self._take_ledger(device_id, update)
        self._take(device_id, messages.TRAIN, update, self._take_chunk)

    def take_evaluation(self, device_id: str, found: dict[str, Any]) -> None:
        """What an evaluation found, or why nothing; ``found`` has been checked against `reports.FOUND`."""
        self._take(device_id, messages.EVALUATE, found, self._take_found)

    def _take(
        self, device_id: str, kind: str, answer: dict[str, Any], take: Callable[[Work, dict[str, Any]], None]
    ) -> None:
        """An ``answer`` to work of ``kind``, whose content goes to ``take``."""
        number = answer["work"]
        try:
            work = self._open_work(device_id, number)
            if work is None:
                return
            if work.kind != kind:  # its credentials let it write there, so its role is not the one that it claims
                raise Refusal("malformed", f"work of kind {work.kind} is not answered on the topic of the other kind")
            device = self.registry.devices[device_id]
            self.registry.heard(device, self._clock())
            if "error" in answer:
                self.refusals["device error"] += 1
                _log.info("device %s: %s", device_id, answer["error"], extra={"sender": device_id})
                self._forget(work)
                self._failed(device, Refusal("device error", answer["error"]))
            elif answer.get("whole"):
                self._repeat(work)
            else:
                take(work, answer)
        except Refusal as refusal:
            self.refuse(device_id, number, refusal)

    def _take_chunk(self, work: Work, update: dict[str, Any]) -> None:
        packed = work.add(self.model, update)
        if not update.get("part"):
            self._confirm(work, work.report["version"])
        if packed is not None:
            self._accept(work, packed, work.report)

    def _take_found(self, work: Work, found: dict[str, Any]) -> None:
        evaluation = self.evaluations.take(work, found.get("evaluation"))
        self._confirm(work, evaluation["version"])
        device = self.registry.devices[work.device]
        device.trouble, device.failures = "", 0
        self._forget(work)
        self._remember(work, True, "")
        self._acknowledge(work.device, work.id, True, "")

    def _take_ledger(self, device_id: str, update: dict[str, Any]) -> None:
        """Note what ``update`` says of the ledger of its device, whatever becomes of it."""
        device = self.registry.devices.get(device_id)
        if device is not None and "private" in update:
            before = device.private, device.rho
            device.take_ledger(update["private"], update.get("rho", 0.0))
            if before != (device.private, device.rho):
                self._keep(device)

    def _confirm(self, work: Work, version: int) -> None:
        """The device of ``work`` has begun from ``version``, and knows what it is asked to do."""
        if version in work.versions:
            device = self.registry.devices[work.device]
            device.holds, device.task = version, work.task

    def take_malformed(self, device_id: str, number: int, reason: str) -> None:
        """What is no message of the protocol, on a topic of ``device_id``; ``number`` is the work that it names, or 0.

        The owner of the topic answers for it: broker and credentials let nobody else write there.
        """
        refusal = Refusal("malformed", reason)
        if 1 <= number <= reports.COUNT:
            self.refuse(device_id, number, refusal)
            return
        self.refusals[refusal.kind] += 1
        device = self.registry.devices.get(device_id)
        if device is not None and not device.quarantine:
            device.trouble = str(refusal)
            self._strike(device, refusal)

    def refuse(self, device_id: str, number: int, refusal: Refusal) -> None:
        """Tell the device why; if the work is its own, it is closed."""
        work = self.book.open.get(number)
        if work is not None and work.device == device_id:
            self._close(work, self.registry.devices[device_id], refusal.kind, str(refusal))
        else:
            self.refusals[refusal.kind] += 1
        if device := self.registry.devices.get(device_id):
            self._failed(device, refusal)
        self._acknowledge(device_id, number, False, str(refusal))

    def _open_work(self, device_id: str, number: int) -> Work | None:
        """The open work that ``device_id`` answers; None if it has already had its answer. Raises `Refusal`."""
        work = self.book.open.get(number)
        if work is not None:
            if work.device != device_id:
                raise Refusal("not its work", f"work {number} was given to another device")
            return work
        if not self._answer_again(device_id, number):
            raise Refusal("unknown work", f"work {number} is not known here")
        self.refusals["repeated"] += 1
        return None

    def _answer_again(self, device_id: str, number: int) -> bool:
        """Repeat the acknowledgement of work that ``device_id`` has had; whether it ever had it."""
        device, accepted, reason = self._outcomes.get(number, ("", False, ""))
        if device != device_id:
            # Who has never said hello has had no work, and costs no look into the store.
            known = number < self._first_work and device_id in self.registry.devices
            if not known or not self._store.is_accepted(number, device_id):
                return False
            accepted = True
        if reason != _PENDING:
            self._acknowledge(device_id, number, accepted, reason)
        return True

    def _accept(self, work: Work, packed: bytes, report: dict[str, Any]) -> None:
        if self.rounds_left == 0:
            raise Refusal("late", _ENDED)
        if report["version"] not in work.versions:
            raise Refusal("wrong version", f"version {report['version']} was not sent with work {work.id}")
        try:
            delta = unpack(self.model, packed, work.bits, report["gains"], work.kept)
        except DeltaError as error:
            raise Refusal("wrong size", str(error)) from None
        norm = norm_of(delta)
        device = self.registry.devices[work.device]
        noise = device.clip * device.noise * self.model.parameters**0.5
        same = fingerprint(packed, report["gains"])
        bound = self._guards.scale(work.device, same, report["version"], norm, self.weights, noise)
        bound *= self._guards.weight(work.device, delta, norm)
        tau = self.version - report["version"]
        rounds = self.config.run.rounds
        decision = self._meta.weigh(min(self.updates, rounds - 1) / rounds if rounds else 0.0, tau)
        moves = decision.moves or self.rounds_left == 1  # the last batch may be a short one
        decision = replace(decision, moves=moves, scale=bound * decision.scale)
        self._meta.fold(self.weights, delta, decision)
        self._guards.accepted(work.device, same, report["version"], norm)
        distrusted = self._guards.compare(work.device, delta, norm)
        row = Accepted(
            work=work.id,
            updates=self.updates,
            device=work.device,
            version=report["version"],
            tau=tau,
            weight=decision.weight,
            moved=moves,
            loss=report.get("loss"),
            samples=work.task["steps"],
            bits=work.bits,
            gains=tuple(report["gains"]),
            delta=packed,
            at=time.time(),
            kept=work.kept,
            norm=norm,
            scale=decision.scale,
            combine=decision.combine,
        )
        self.updates += 1
        self.version += moves
        if row.loss is not None:
            self.losses.append(row.loss)
        self.taus.append(tau)
        self.staleness.add(tau)
        seconds = self._clock() - work.issued
        self.round_trips.append(seconds)
        self.round_trip.add(seconds)
        self.book.close(work)
        self._remember(work, True, _PENDING)
        device.accepted += 1
        device.saturated += report.get("saturated", 0)
        self.saturated += report.get("saturated", 0)
        device.trouble = ""
        device.failures = 0
        device.strikes = max(0, device.strikes - 1)
        if work.accounted and device.told <= work.accounted[0]:
            device.add_private(work.accounted[1])  # it does not know of all, as with a ledger that was taken away
        self._keep(device)

        def durable() -> None:
            self._remember(work, True, "")
            device.owed = work.id
            following = self.book.open.get(device.work)
            if following is None or following.versions:  # else the answer goes along with its request
                self._pay(device)

        self._record(row, durable)
        self.registry.delivered(device.id)
        self._spend_time(work, delivered=True)
        for name in distrusted:
            self._note("distrust", f"{name}: what it sends pulls elsewhere than what the others send")
        self.registry.assign(device, 0)  # what it gets next is durable no sooner than this update
        if self.rounds_left == 0:
            self._end()
        if self.updates % CHECKPOINT_EVERY == 0:
            self._record(self.checkpoint(), None)

    def _end(self) -> None:
        """The last update is in: who else was asked for it, so that nobody is waited for, need not go on."""
        for work in [work for work in self.book.open.values() if work.kind == messages.TRAIN]:
            self._close(work, self.registry.devices[work.device], "late", _ENDED)
            self._acknowledge(work.device, work.id, False, _ENDED)

    # Publication, for whoever only reads

    def publish_at(self) -> float | None:
        """When the current version is to be published; None if it is, or a paused run holds it back."""
        if not self.lagging:
            return None
        if self.published_version < 0 or self.rounds_left == 0 or self._gone_back:
            return self._clock()
        return None if self.config.run.paused else self._published_at + self.config.learning.publish_interval

    def published(self, version: Version) -> dict[str, Any]:
        """``version`` is being published; returns its manifest."""
        self._published_at = self._clock()
        self.published_version = version.number
        self._gone_back = False
        return {
            "protocol": messages.PROTOCOL,
            "version": version.number,
            "model": self.model.spec,
            "weights": self.model.weights,
            "encoding": version.encoding,
            "bytes": len(version.data),
            "crc": version.crc,
            "beta": self.config.evaluation.beta or self.config.learning.beta,
        }

    def keep_version(self) -> None:
        """The present version can be gone back to, also when it is older than the history."""
        self._record(replace(self.checkpoint(), evaluated=True), None)

    # Work

    def next_work(self) -> bool:
        """Hand out one piece of training if it is time and a device is idle; whether one was handed out."""
        learning = self.config.learning
        if self.published_version < 0 or self.config.run.paused or self.draining:
            return False
        limit = {
            "serial": 1,
            "asynchronous": learning.in_flight,
            "batch": max(1, learning.batch - self._meta.pending),  # it may have been larger when this one was begun
        }[learning.mode]
        if self.rounds_left is not None:
            limit = min(limit, self.rounds_left)
        if not limit:
            return False
        # Who may be gone is asked beside the others: in their place it would hold up all for as long as its deadline.
        alone = self.book.count(messages.TRAIN) == self.book.on_trial
        device = self.registry.next_trial(messages.TRAIN, limit, self.book.on_trial, alone)
        if device is not None:
            self.issue(device, messages.TRAIN, trial=True)
            return True
        if self._places_taken(limit) >= limit:
            return False
        if (device := self.registry.next_idle(messages.TRAIN, self.config.guards.share)) is None:
            return False
        self.issue(device, messages.TRAIN)
        return True

    def _places_taken(self, limit: int) -> int:
        """Open pieces of training but those on trial, in asynchronous mode without those that are overdue.

        They stay open until their deadline, but somebody else has their place: else a few devices that are gone and
        seem to be there, as those whose certificates were revoked, would stop everybody until then.
        """
        taken = self.book.count(messages.TRAIN) - self.book.on_trial
        if self.config.learning.mode != "asynchronous" or taken < limit:
            return taken
        overdue = self.book.count_until(messages.TRAIN, self._clock() - self._patience())
        return taken - min(overdue, OVERDUE * self.config.learning.in_flight)

    def _patience(self) -> float:
        """Seconds in which a device answers that is there: four times what nearly all take, as of the last second.

        For the last updates of a run, when devices are idle anyway, twice what half of them take.
        """
        now = self._clock()
        if now >= self._measured_at + 1:
            trips = np.asarray(self.round_trips) if self.round_trips else np.zeros(1)
            half, nearly_all = np.quantile(trips, (0.5, 0.99))
            self._measured_at, self._usual = now, (float(half), float(nearly_all))
        half, nearly_all = self._usual
        return max(LAST_PATIENCE, 2 * half) if self._ending else max(PATIENCE, 4 * nearly_all)

    @property
    def _ending(self) -> bool:
        """Whether less work is left than could be out."""
        learning, left = self.config.learning, self.rounds_left
        return learning.mode == "asynchronous" and left is not None and left < learning.in_flight

    def overdue_at(self) -> float | None:
        """When the next of the last updates will be overdue, and another device may be asked for it; None before."""
        if not self._ending or self.rounds_left == 0:
            return None
        now, patience = self._clock(), self._patience()
        times = (work.issued + patience for work in self.book.open.values() if work.kind == messages.TRAIN)
        return min((time for time in times if time > now), default=None)

    def issue(self, device: Device, kind: str, *, trial: bool = False) -> Work:
        """Ask ``device`` for work of ``kind``: the request leaves once all that it follows from is durable.

        On ``trial`` it holds no place.
        """
        now = self._clock()
        learning = self.config.learning
        kept = kept_of(self.model, learning.top)
        version = self.newest()
        work = self.book.issue(
            device.id, kind, version.number, learning.bits, now, learning.deadline, kept, trial=trial
        )
        work.task = self._task(work)
        self.registry.assign(device, work.id)
        if device.noise and kind == messages.TRAIN:
            work.accounted = device.reserve()
            self._keep(device)

        def durable() -> None:
            if work.id in self.book.open:
                self._durable = version
                self._request(work)
            elif device.owed:
                self._pay(device)

        deadline = time.time() + learning.deadline
        self._record(Issued(work.id, device.id, kind, work.version, work.bits, deadline, kept), durable)
        return work

    def _task(self, work: Work) -> dict[str, Any]:
        """What is asked of the device of ``work``, as `messages.TASK` has it."""
        learning, evaluation = self.config.learning, self.config.evaluation
        task: dict[str, Any] = {"kind": work.kind, "seconds": learning.deadline}
        if work.kind == messages.TRAIN:
            task |= {"steps": learning.steps, "beta": learning.beta, "bits": work.bits}
            return task if work.kept is None else task | {"kept": work.kept}
        return task | {
            "steps": evaluation.steps,
            "beta": evaluation.beta or learning.beta,
            "shots": evaluation.shots,
            "queries": evaluation.queries,
        }

    def _repeat(self, work: Work) -> None:
        """The device of ``work`` could not put the initialization together; raises `Refusal` where it never can."""
        if work.repeats == REPEATS:
            raise Refusal("lost", "the initialization did not arrive, however often it was sent")
        if work.versions:
            work.repeats += 1
            device = self.registry.devices[work.device]
            device.holds = device.task = None
            self._request(work)

    def _request(self, work: Work) -> None:
        """Send ``work`` with the newest durable version, or what makes it of the one that the device holds."""
        work.chunks.clear()  # of an earlier attempt, which a device need not repeat
        device, version = self.registry.devices[work.device], self._durable
        message: dict[str, Any] = {"work": work.id, "version": version.number, "crc": version.crc}
        if device.noise and work.kind == messages.TRAIN:
            # What was accounted before this start of the coordinator: the last was one more than `told`.
            told, message["noise"] = work.accounted or (max(0, device.private - 1), device.noise)
            message["private"] = told
            if device.told > told:  # it would not do what does not account for all of its updates
                self._close(work, device, "lost", "the device has made other private updates since")
                if device.owed:
                    self._pay(device)
                return
        pieces = self._versions.changes(version, device.holds)
        if pieces is not None:
            message["from"] = device.holds
        if device.task != work.task:
            message["task"] = work.task
        left = work.deadline - self._clock()
        if left < 0.9 * work.task["seconds"]:
            message["seconds"] = round(max(0.001, left), 3)
        if device.owed:
            message["done"] = device.owed
        device.owed, device.holds, device.task = 0, None, None  # until it says what came of this
        work.versions.add(version.number)
        self.admission.expect(work.device, most_chunks(self.model, work.bits))
        sent = version.pieces() if pieces is None else pieces
        first, *others = ({"at": at, "data": data} if at else {"data": data} for at, data in sent)
        further = ({"work": work.id} | piece for piece in others)
        self._send(self.topics.device(work.device).work, message | first, *further)

    def expire(self) -> None:
        """Close all work whose deadline has passed, and let devices work again that have rested."""
        self.registry.wake(self._clock())
        for work in self.book.expired(self._clock()):
            device = self.registry.devices[work.device]
            device.expired += 1
            device.trouble = f"nothing came of its work in the {work.deadline - work.issued:g} s that it had"
            silent = work.deadline - work.issued if device.state == "online" else 0.0
            self.registry.failed(device, self._clock(), silent)
            if silent and work.kind == messages.TRAIN and not work.trial:
                self.registry.doubt(work.issued)
            self.evaluations.missed(work)
            self._keep(device)
            self._close(work, device, "late", "the deadline has passed")

    def _close(self, work: Work, device: Device, kind: str, reason: str) -> None:
        """End ``work`` without an update."""
        if kind != "late":  # an answer that came too late shows that its device may answer
            self.evaluations.missed(work)
        self.refusals[kind] += 1
        self._forget(work)
        self._remember(work, False, reason)
        _log.info("work %d of %s: %s", work.id, device.id, reason)

    def _forget(self, work: Work) -> None:
        """``work`` is no longer open; its device is idle."""
        self.book.close(work)
        self._spend_time(work, delivered=False)
        self.registry.assign(self.registry.devices[work.device], 0)
        self.evaluations.closed(work)
        self._record(Closed(work.id), None)

    def _spend_time(self, work: Work, *, delivered: bool) -> None:
        """``work`` is done with: what its device has cost the others, if it held a place."""
        if work.kind == messages.TRAIN and not work.trial:
            learning, seconds = self.config.learning, self._clock() - work.issued
            places = learning.batch if learning.mode == "batch" else 1  # all of a batch wait for its last
            self.registry.spend(self.registry.devices[work.device], seconds, places, delivered=delivered)

    def _remember(self, work: Work, accepted: bool, reason: str) -> None:
        self._outcomes[work.id] = (work.device, accepted, reason)
        self._outcomes.move_to_end(work.id)
        if len(self._outcomes) > REMEMBERED:
            self._outcomes.popitem(last=False)

    def _pay(self, device: Device) -> None:
        """Tell ``device`` of its last update that it is durable."""
        owed, device.owed = device.owed, 0
        self._acknowledge(device.id, owed, True, "")

    def _acknowledge(self, device_id: str, number: int, accepted: bool, reason: str) -> None:
        message: dict[str, Any] = {"done": number}
        if not accepted:
            message["refused"] = cut(reason, 200)
        self._send(self.topics.device(device_id).work, message)

    # Report

    def status(self, state: str) -> dict[str, Any]:
        """The run's status message."""
        rho = max((device.rho for device in self.registry.devices.values()), default=0.0)
        trips = np.sort(np.asarray(self.round_trips)) if self.round_trips else np.zeros(1)
        return {
            "protocol": messages.PROTOCOL,
            "state": state,
            "run": self.config.run.name,
            "mode": self.config.learning.mode,
            "version": self.version,
            "updates": self.updates,
            "rounds": self.config.run.rounds,
            "in_flight": self.book.count(messages.TRAIN),
            "devices": self.registry.count("online", messages.TRAIN),
            "evaluators": self.registry.count("online", messages.EVALUATE),
            "unfit": self.registry.count("unfit"),
            "quarantined": sum(bool(device.quarantine) for device in self.registry.devices.values()),
            "paused": self.config.run.paused,
            **({"loss": float(np.mean(self.losses))} if self.losses else {}),
            **({"staleness": float(np.mean(self.taus))} if self.taus else {}),
            **({"rho": rho} if rho else {}),
            "round_trip_p50": float(np.quantile(trips, 0.5)),
            "round_trip_p99": float(np.quantile(trips, 0.99)),
            "refusals": dict(self.refusals),
            "evaluation": self.evaluations.latest,
        }
