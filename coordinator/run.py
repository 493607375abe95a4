"""A run: every decision of the coordinator, without the network.

Messages go in (`take_status`, `take_update`), the clock goes in (`expire`), requests come out (`next_work`). What must
be sent or kept is handed to two callbacks, so that the whole of it can be driven by a test or by the service alike.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tinyreptile import messages, reports
from tinyreptile.delta import DeltaError
from tinyreptile.model import Model

from .accounting import rho_of
from .config import Config, changed
from .deltas import kept_of, unpack
from .entries import Accepted, Checkpoint, Closed, Entry, Event, Forgotten, Issued, Setting
from .errors import ConfigError, CoordinatorError
from .evaluation import Evaluations
from .guards import STRIKES, WINDOW, Guards, norm_of
from .histogram import Histogram
from .initialization import Publication, encode, random_weights
from .registry import Device, Registry
from .replay import State, replay
from .rules import MetaUpdate, Weights, discount, schedule
from .store import Store
from .work import ID_GAP, Refusal, Work, WorkBook

_log = logging.getLogger(__name__)

CHECKPOINT_EVERY = 500  # updates
MAX_LAG = 4  # times in_flight versions may be missing on the wire before work waits for the newest
OVERDUE = 3  # times in_flight pieces of work may be overdue before they hold a place again
REMEMBERED = 10_000  # outcomes of closed work kept in memory, to answer what is sent again
_PENDING = "pending"
# Bounds of the histograms.
VERSIONS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

Send = Callable[[str, dict[str, Any]], None]
Record = Callable[[Entry, Callable[[], None] | None], None]


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
        self._settings = store.settings()  # that were changed since
        self.config = changed(config, self._settings)
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
        self.losses: deque[float] = deque(maxlen=200)  # mean training loss of the latest updates
        self.round_trips: deque[float] = deque(maxlen=2000)  # seconds from request to accepted update
        self.taus: deque[int] = deque(maxlen=200)
        self._store = store
        self._send = send
        self._record = record
        self._clock = clock
        self.publication = Publication(self.config.learning.fetch_seconds)
        self._meta = self._meta_update()
        self._guards = Guards(self.config.guards)
        self._outcomes: OrderedDict[int, tuple[str, bool, str]] = OrderedDict()
        self._published_at = -1e9
        self._measured_at, self._patient = -1e9, 0.0
        self._on_the_wire: Checkpoint | None = None
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
            weights = random_weights(self.model.tensors, self.model.parameters, self.config.run.seed)
            state = State(weights, 0, 0, self._meta)
            self._store.write([Checkpoint(0, 0, weights)])
        self.weights: Weights = state.weights
        self.version, self.updates = state.version, state.updates
        self.evaluations.restore(self._store.evaluations())
        for row in self._store.accepted_since(max(0, self.updates - WINDOW)):
            self._guards.accepted(row.device, row.delta, row.version, row.norm)
        for known in self._store.devices():
            self.registry.restore(known)
        self._first_work = self._store.last_work() + ID_GAP
        self.book = WorkBook(self._first_work)
        now, today = self._clock(), time.time()
        closed = []
        for issued in self._store.open_work():
            left = min(issued.deadline - today, self.config.learning.deadline)  # today's clock may have gone back
            if issued.kind == messages.TRAIN and left > 0:
                work = Work(issued.work, issued.device, issued.kind, issued.version, issued.bits, now, now + left)
                work.kept = issued.kept
                self.book.restore(work)
                self.registry.devices.setdefault(issued.device, Device(issued.device)).work = issued.work
            else:
                closed.append(Closed(issued.work))
        self._store.write(closed)

    def checkpoint(self) -> Checkpoint:
        """The newest version; updates of a batch that is not whole come after it."""
        return Checkpoint(self.updates - self._meta.pending, self.version, self.weights.copy())

    @property
    def rounds_left(self) -> int | None:
        """Updates still to be accepted, or None if the run has no end."""
        rounds = self.config.run.rounds
        return max(0, rounds - self.updates) if rounds else None

    @property
    def finished(self) -> bool:
        """All rounds are done, and the final version is published and evaluated."""
        return self.rounds_left == 0 and self.evaluations.done

    @property
    def lagging(self) -> bool:
        """Whether the newest version is not on the wire."""
        return self.publication.version != self.version

    def disconnected(self) -> None:
        """The connection to the broker is new: nothing is known of who is there until they say so again."""
        for device in self.registry.devices.values():
            device.state = "offline"
            self.registry.settle(device)
        self.publication = Publication(self.config.learning.fetch_seconds)

    # Devices

    def take_status(self, device_id: str, status: dict[str, Any]) -> None:
        """A device's status message, already checked; a probe says nothing yet."""
        if status["state"] == "probe":
            return
        problem = ""
        if status["protocol"] != messages.PROTOCOL:
            problem = f"it speaks protocol {status['protocol']}, this coordinator {messages.PROTOCOL}"
        elif status.get("role", messages.TRAIN) not in (messages.TRAIN, messages.EVALUATE):
            problem = "its role is neither train nor evaluate"
        elif status.get("role", messages.TRAIN) == messages.TRAIN:
            problem = self._privacy_problem(status)
        if problem and status["state"] == "online":
            _log.warning("device %s gets no work: %s", device_id, problem)
            status = status | {"state": "unfit", "error": problem}
        before = self.registry.devices.get(device_id)
        if before is None and len(self.registry.devices) >= self.config.guards.devices:
            self.refusals["too many devices"] += 1
            return
        was = before and (before.state, before.known())
        rebooted = before is not None and status["state"] != "offline" and before.boot not in ("", status["boot"])
        if rebooted and before is not None and (work := self.book.open.get(before.work)):
            self._close(work, before, "lost", "the device has started anew")
        device = self.registry.take_status(device_id, status)
        if was != (device.state, device.known()):
            self._keep(device)
        work = self.book.open.get(device.work)
        if device.state == "offline":
            self.publication.unpin(device.work)
        if device.state == "online":
            at = status.get("work", 0)
            if at and at not in self.book.open:
                self._answer_again(device_id, at)  # the acknowledgement was lost with the device's last connection
            if work is not None and at != work.id:
                self._request(work)  # and so was the request

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
        self.registry.failed(device, self._clock())
        limit = self.config.guards.strikes
        if refusal.kind in STRIKES:
            device.strikes += 1
            if limit and device.strikes >= limit and not device.quarantine:
                self.quarantine(device.id, f"{device.strikes} updates refused, the last for: {refusal}")
                return
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
        self._guards.forget(device_id)
        self._record(Forgotten(device_id), None)
        self._note("forget", device_id)

    def device(self, device_id: str) -> Device:
        """The device of that id; raises `CoordinatorError` if there never was one."""
        device = self.registry.devices.get(device_id)
        if device is None:
            raise CoordinatorError(f"no device {device_id} has ever joined run {self.config.run.name}")
        return device

    # Operation

    def change(self, values: dict[str, Any]) -> None:
        """Put the settings ``values``, by ``table.key``, in the place of the configured ones; None takes them back.

        Raises `ConfigError` for what can't be, and nothing has changed then.
        """
        settings = {name: value for name, value in {**self._settings, **values}.items() if value is not None}
        config = changed(self._configured, settings, values)
        if values.get("run.rounds") is not None and 0 < config.run.rounds < self.updates:
            raise ConfigError(f"run.rounds: the run has {self.updates} updates, it can't end at {config.run.rounds}")
        self.config = config
        tables = config.model_dump()
        self._settings = {name: tables[name.split(".")[0]][name.split(".")[1]] for name in settings}
        earlier, self._meta = self._meta, self._meta_update()
        self._meta.take_over(earlier)
        self._guards.config = self.config.guards
        self.publication.fetch_seconds = self.config.learning.fetch_seconds
        for name in values:
            value = self._settings.get(name)
            self._record(Setting(name, value), None)
            self._note("setting", f"{name} as configured" if value is None else f"{name} = {value}")

    def settings(self) -> list[dict[str, Any]]:
        """The settings that were changed, with what is configured."""
        configured = self._configured.model_dump()
        return [
            {"setting": name, "value": value, "configured": configured[name.split(".")[0]][name.split(".")[1]]}
            for name, value in sorted(self._settings.items())
        ]

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

    # Updates

    def take_update(self, device_id: str, index: int, update: dict[str, Any]) -> None:
        """One chunk of an update, an evaluation, or word of progress; ``update`` has been checked."""
        number = update["work"]
        try:
            work = self._open_work(device_id, number)
            if work is None:
                return
            self.registry.heard(self.registry.devices[device_id])
            if "error" in update:
                self.refusals["device error"] += 1
                _log.info("device %s: %s", device_id, update["error"])
                self._forget(work)
                self._failed(self.registry.devices[device_id], Refusal("device error", update["error"]))
            elif "fetched" in update:
                self.publication.unpin(number)
            elif "evaluation" in update:
                self.evaluations.take(work, update["evaluation"])
                self._forget(work)
                self._remember(work, True, "")
                self._acknowledge(work.device, work.id, True, "")
            elif (packed := work.add(self.model, index, update)) is not None:
                self._accept(work, packed, work.report)
        except Refusal as refusal:
            self.refuse(device_id, number, refusal)

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
        if work.kind != messages.TRAIN:
            raise Refusal("malformed", "an evaluation was asked for, not an update")
        if not work.version <= report["version"] <= self.publication.version:
            raise Refusal(
                "wrong version", f"version {report['version']} is not between {work.version} and the newest one"
            )
        if self.rounds_left == 0:
            raise Refusal("late", "the run has ended")
        try:
            delta = unpack(self.model, packed, work.bits, report["gains"], work.kept)
        except DeltaError as error:
            raise Refusal("wrong size", str(error)) from None
        norm = norm_of(delta)
        device = self.registry.devices[work.device]
        noise = device.clip * device.noise * self.model.parameters**0.5
        bound = self._guards.scale(work.device, packed, report["version"], norm, self.weights, noise)
        tau = self.version - report["version"]
        rounds = self.config.run.rounds
        decision = self._meta.weigh(self.updates / rounds if rounds else 0.0, tau)
        moves = decision.moves or self.rounds_left == 1  # the last batch may be a short one
        decision = replace(decision, moves=moves, scale=bound * decision.scale)
        self._meta.fold(self.weights, delta, decision)
        self._guards.accepted(work.device, packed, report["version"], norm)
        row = Accepted(
            work=work.id,
            updates=self.updates,
            device=work.device,
            version=report["version"],
            tau=tau,
            weight=decision.weight,
            moved=moves,
            loss=report.get("loss"),
            samples=report["samples"],
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
        self.publication.unpin(work.id)
        self._remember(work, True, _PENDING)
        device.accepted += 1
        device.failures = 0
        device.strikes = max(0, device.strikes - 1)
        device.round_trip = seconds
        self._keep(device)

        def durable() -> None:
            self._remember(work, True, "")
            self._acknowledge(work.device, work.id, True, "")
            self.registry.assign(device, 0)  # idle only now: what it gets next follows the acknowledgement

        self._record(row, durable)
        if self.updates % CHECKPOINT_EVERY == 0:
            self._record(self.checkpoint(), None)

    # Work

    def publish_at(self) -> float | None:
        """When the current version may go on the wire; None if it is there already."""
        if not self.lagging or self._held():
            return None
        now = self._clock()
        at = self.publication.free_at(now)
        if self.config.learning.mode == "asynchronous" and self.rounds_left != 0 and not self._lags():
            at = max(at, self._published_at + self.config.learning.publish_interval)
        return at

    def _held(self) -> bool:
        """Whether what is on the wire is to stay: a paused run puts nothing there but a version gone back to."""
        there = self.publication.version >= 0
        return self.config.run.paused and there and self.rounds_left != 0 and not self._gone_back

    def _lags(self) -> bool:
        """Whether what is on the wire is so old that nothing should be learned from it."""
        return self.version - self.publication.version >= MAX_LAG * self.config.learning.in_flight

    def encoded(self, state: Checkpoint) -> bytes:
        """The weights of ``state`` as devices fetch them."""
        return encode(self.model, state.weights, self.config.learning.encoding)

    def published(self, state: Checkpoint, data: bytes) -> dict[str, Any]:
        """``state``, encoded as ``data``, is on the wire; returns its manifest."""
        self._published_at = self._clock()
        self._on_the_wire = state
        self._gone_back = False
        manifest = self.publication.finish(state.version, data, self.model, self.config.learning.encoding)
        return manifest | {"beta": self.config.evaluation.beta or self.config.learning.beta}

    def keep_published(self) -> None:
        """The version on the wire can be gone back to, also when it is older than the history."""
        if self._on_the_wire is not None:
            self._record(replace(self._on_the_wire, evaluated=True), None)

    def next_work(self) -> bool:
        """Hand out one piece of training if it is time and a device is idle; whether one was handed out."""
        learning = self.config.learning
        if self.publication.version < 0 or self.config.run.paused or self.draining:
            return False
        if self._lags() if learning.mode == "asynchronous" else self.lagging:
            return False
        limit = {
            "serial": 1,
            "asynchronous": learning.in_flight,
            "batch": learning.batch - self._meta.pending,
        }[learning.mode]
        if self.rounds_left is not None:
            limit = min(limit, self.rounds_left)
        if self._places_taken() >= limit or (device := self.registry.next_idle(messages.TRAIN)) is None:
            return False
        self.issue(device, messages.TRAIN)
        return True

    def _places_taken(self) -> int:
        """Open pieces of training, in asynchronous mode without those that a device should have answered long ago.

        They stay open until their deadline, but somebody else has their place: else a few devices that are gone and
        seem to be there, as those whose certificates were revoked, would stop everybody until then.
        """
        taken = self.book.count(messages.TRAIN)
        if self.config.learning.mode != "asynchronous" or taken < self.config.learning.in_flight:
            return taken
        recent = self.book.count_since(messages.TRAIN, self._clock() - self._patience())
        return max(recent, taken - OVERDUE * self.config.learning.in_flight)

    def _patience(self) -> float:
        """Seconds in which a device answers that is there: four times what nearly all take, as of the last second."""
        now = self._clock()
        if now >= self._measured_at + 1:
            usual = float(np.quantile(np.asarray(self.round_trips), 0.99)) if self.round_trips else 0.0
            self._measured_at, self._patient = now, max(self.config.learning.fetch_seconds, 4 * usual)
        return self._patient

    def issue(self, device: Device, kind: str) -> Work:
        """Ask ``device`` for work of ``kind``."""
        now = self._clock()
        learning = self.config.learning
        kept = kept_of(self.model, learning.top)
        work = self.book.issue(device.id, kind, self.publication.version, learning.bits, now, learning.deadline, kept)
        self.registry.assign(device, work.id)
        deadline = time.time() + learning.deadline
        self._record(Issued(work.id, device.id, kind, work.version, work.bits, deadline, kept), None)
        self._request(work)
        return work

    def _request(self, work: Work) -> None:
        work.chunks.clear()  # of an earlier attempt, which a device need not repeat
        device = self.registry.devices[work.device]
        self.publication.pin(work.id, self._clock(), device.round_trip)
        message: dict[str, Any] = {
            "work": work.id,
            "kind": work.kind,
            "version": work.version,
            "crc": self.publication.crc,
            "slot": self.publication.slot,
            "seconds": round(max(0.001, work.deadline - self._clock()), 3),
        }
        if work.kind == messages.TRAIN:
            message |= {"steps": self.config.learning.steps, "beta": self.config.learning.beta, "bits": work.bits}
            if work.kept is not None:
                message["kept"] = work.kept
            if device.noise:  # it may answer each request with an update, whether that arrives or not
                device.private += 1
                device.rho += rho_of(device.noise)
                self._keep(device)
        else:
            evaluation = self.config.evaluation
            message |= {
                "steps": evaluation.steps,
                "beta": evaluation.beta or self.config.learning.beta,
                "shots": evaluation.shots,
                "queries": evaluation.queries,
            }
        self._send(self.topics.device(work.device).work, message)

    def expire(self) -> None:
        """Close all work whose deadline has passed, and let devices work again that have rested."""
        self.registry.wake(self._clock())
        for work in self.book.expired(self._clock()):
            device = self.registry.devices[work.device]
            device.expired += 1
            silent = work.deadline - work.issued if device.state == "online" else 0.0
            self.registry.failed(device, self._clock(), silent)
            self._keep(device)
            self._close(work, device, "late", "the deadline has passed")

    def _close(self, work: Work, device: Device, kind: str, reason: str) -> None:
        """End ``work`` without an update."""
        self.refusals[kind] += 1
        self._forget(work)
        self._remember(work, False, reason)
        _log.info("work %d of %s: %s", work.id, device.id, reason)

    def _forget(self, work: Work) -> None:
        """``work`` is no longer open; its device is idle."""
        self.book.close(work)
        self.publication.unpin(work.id)
        device = self.registry.devices[work.device]
        device.round_trip = None
        self.registry.assign(device, 0)
        self.evaluations.closed(work)
        self._record(Closed(work.id), None)

    def _remember(self, work: Work, accepted: bool, reason: str) -> None:
        self._outcomes[work.id] = (work.device, accepted, reason)
        self._outcomes.move_to_end(work.id)
        if len(self._outcomes) > REMEMBERED:
            self._outcomes.popitem(last=False)

    def _acknowledge(self, device_id: str, number: int, accepted: bool, reason: str) -> None:
        message: dict[str, Any] = {"work": number, "accepted": accepted}
        if not accepted:
            message["reason"] = reason[:200]
        self._send(self.topics.device(device_id).ack, message)

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
