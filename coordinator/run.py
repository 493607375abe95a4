"""A run: every decision of the coordinator, without the network.

Messages go in (`take_status`, `take_update`), the clock goes in (`expire`), requests come out (`next_work`). What must
be sent or kept is handed to two callbacks, so that the whole of it can be driven by a test or by the service alike.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyreptile import messages, reports
from tinyreptile.delta import DeltaError
from tinyreptile.model import Model

from .config import Config
from .deltas import kept_of, unpack
from .entries import Accepted, Checkpoint, Closed, Entry, Evaluated, Issued
from .evaluation import EvaluationRound, check_evaluation
from .initialization import Publication, random_weights
from .registry import Device, Registry
from .replay import State, replay
from .rules import MetaUpdate, Weights, discount, schedule
from .store import Store
from .work import ID_GAP, Refusal, Work, WorkBook

_log = logging.getLogger(__name__)

CHECKPOINT_EVERY = 500  # updates
MAX_LAG = 4  # times in_flight versions may be missing on the wire before work waits for the newest
REMEMBERED = 10_000  # outcomes of closed work kept in memory, to answer what is sent again
LINGER = 30.0  # seconds that a finished run waits for held-out devices which are away
_PENDING = "pending"

Send = Callable[[str, dict[str, Any]], None]
Record = Callable[[Entry, Callable[[], None] | None], None]


class Run:
    """One run, resumed from ``store`` or begun anew.

    Attributes:
        weights: float64 (parameters,), the master initialization.
        version: meta-updates so far; updates: accepted updates so far (equal but in batch mode).
        finished: whether all rounds are done and the last evaluation is in.
    """

    def __init__(self, config: Config, store: Store, *, send: Send, record: Record, clock: Callable[[], float]) -> None:
        self.config = config
        self.model = Model(config.run.model, config.run.weights)
        self.topics = reports.CoordinatorTopics(config.run.name)
        self.registry = Registry()
        self.refusals: Counter[str] = Counter()
        self.losses: deque[float] = deque(maxlen=200)  # mean training loss of the latest updates
        self.round_trips: deque[float] = deque(maxlen=2000)  # seconds from request to accepted update
        self.taus: deque[int] = deque(maxlen=200)
        self.evaluations: list[dict[str, Any]] = []
        self._store = store
        self._send = send
        self._record = record
        self._clock = clock
        learning = config.learning
        self.publication = Publication(learning.fetch_seconds)
        batch = learning.mode == "batch"
        self._meta = MetaUpdate(
            schedule(learning.schedule, learning.alpha, learning.alpha_end),
            discount(
                "constant" if batch else learning.staleness,
                exponent=learning.staleness_exponent,
                free=learning.hinge_free,
                slope=learning.hinge_slope,
            ),
            size=learning.batch if batch else 1,
        )
        self._outcomes: OrderedDict[int, tuple[str, bool, str]] = OrderedDict()
        self._evaluation: EvaluationRound | None = None
        self._evaluated_at = 0
        self._ended_at: float | None = None
        self._published_at = -1e9
        self._restore()

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
        for past in self._store.evaluations():
            self.evaluations.append(past.summary)
            self._evaluated_at = past.updates
        for known in self._store.devices():
            self.registry.restore(known)
        self._first_work = self._store.last_work() + ID_GAP
        self.book = WorkBook(self._first_work)
        now, today = self._clock(), time.time()
        closed = []
        for issued in self._store.open_work():
            left = issued.deadline - today
            if issued.kind == messages.TRAIN and left > 0:
                work = Work(issued.work, issued.device, issued.kind, issued.version, issued.bits, now, now + left)
                work.kept = issued.kept
                self.book.restore(work)
                self.registry.devices.setdefault(issued.device, Device(issued.device)).work = issued.work
            else:
                closed.append(Closed(issued.work))
        self._store.write(closed)

    def checkpoint(self) -> Checkpoint | None:
        """The state as a checkpoint, or None in the middle of a batch."""
        return None if self._meta.pending else Checkpoint(self.updates, self.version, self.weights.copy())

    @property
    def rounds_left(self) -> int | None:
        """Updates still to be accepted, or None if the run has no end."""
        rounds = self.config.run.rounds
        return max(0, rounds - self.updates) if rounds else None

    @property
    def finished(self) -> bool:
        """All rounds are done, and the final version is published and evaluated."""
        return self.rounds_left == 0 and self._evaluation is None and self._evaluated_at == self.updates

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
        if problem and status["state"] == "online":
            _log.warning("device %s gets no work: %s", device_id, problem)
            status = status | {"state": "unfit", "error": problem}
        before = self.registry.devices.get(device_id)
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

    def _keep(self, device: Device) -> None:
        """What is known of ``device`` now goes into the journal, in one transaction with what brought it about."""
        device.seen = time.time()
        self._record(device.known(), None)

    def _failed(self, device: Device) -> None:
        """``device`` has sent what could not be taken."""
        device.refused += 1
        self.registry.failed(device, self._clock())
        self._keep(device)

    # Updates

    def take_update(self, device_id: str, index: int, update: dict[str, Any]) -> None:
        """One chunk of an update, an evaluation, or word of progress; ``update`` has been checked."""
        number = update["work"]
        try:
            work = self._open_work(device_id, number)
            if work is None:
                return
            if "error" in update:
                self.refusals["device error"] += 1
                _log.info("device %s: %s", device_id, update["error"])
                self._forget(work)
                self._failed(self.registry.devices[device_id])
            elif "fetched" in update:
                self.publication.unpin(number)
            elif "evaluation" in update:
                self._take_evaluation(work, update["evaluation"])
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
            self._failed(device)
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
            if number >= self._first_work or not self._store.is_accepted(number, device_id):
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
        tau = self.version - report["version"]
        rounds = self.config.run.rounds
        weight, moves = self._meta.weigh(self.updates / rounds if rounds else 0.0, tau)
        moves = moves or self.rounds_left == 1  # the last batch may be a short one
        self._meta.fold(self.weights, delta, weight, moves)
        row = Accepted(
            work=work.id,
            updates=self.updates,
            device=work.device,
            version=report["version"],
            tau=tau,
            weight=weight,
            moved=moves,
            loss=float(report["loss"]),
            samples=report["samples"],
            bits=work.bits,
            gains=tuple(report["gains"]),
            delta=packed,
            at=time.time(),
            kept=work.kept,
        )
        self.updates += 1
        self.version += moves
        self.losses.append(row.loss)
        self.taus.append(tau)
        self.round_trips.append(self._clock() - work.issued)
        self.book.close(work)
        self.publication.unpin(work.id)
        self._remember(work, True, _PENDING)
        device = self.registry.devices[work.device]
        device.accepted += 1
        device.failures = 0
        device.round_trip = self._clock() - work.issued
        self._keep(device)

        def durable() -> None:
            self._remember(work, True, "")
            self._acknowledge(work.device, work.id, True, "")
            self.registry.assign(device, 0)  # idle only now: what it gets next follows the acknowledgement

        self._record(row, durable)
        if self.updates % CHECKPOINT_EVERY == 0 and (checkpoint := self.checkpoint()):
            self._record(checkpoint, None)

    # Work

    def publish_at(self) -> float | None:
        """When the current version may go on the wire; None if it is there already."""
        if self.publication.version == self.version:
            return None
        now = self._clock()
        at = self.publication.free_at(now)
        if self.config.learning.mode == "asynchronous" and self.rounds_left != 0 and not self._lags():
            at = max(at, self._published_at + self.config.learning.publish_interval)
        return at

    def _lags(self) -> bool:
        """Whether what is on the wire is so old that nothing should be learned from it."""
        return self.version - self.publication.version >= MAX_LAG * self.config.learning.in_flight

    def published(self, version: int, data: bytes) -> dict[str, Any]:
        """``version`` is on the wire; returns its manifest."""
        self._published_at = self._clock()
        manifest = self.publication.finish(version, data, self.model, self.config.learning.encoding)
        return manifest | {"beta": self.config.evaluation.beta or self.config.learning.beta}

    def next_work(self) -> bool:
        """Hand out one piece of training if it is time and a device is idle; whether one was handed out."""
        learning = self.config.learning
        if self.publication.version < 0:
            return False
        if self._lags() if learning.mode == "asynchronous" else self.publication.version != self.version:
            return False
        limit = {
            "serial": 1,
            "asynchronous": learning.in_flight,
            "batch": learning.batch - self._meta.pending,
        }[learning.mode]
        if self.rounds_left is not None:
            limit = min(limit, self.rounds_left)
        if self.book.count(messages.TRAIN) >= limit or (device := self.registry.next_idle(messages.TRAIN)) is None:
            return False
        self._issue(device, messages.TRAIN)
        return True

    def _issue(self, device: Device, kind: str) -> Work:
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
        self.publication.pin(work.id, self._clock(), self.registry.devices[work.device].round_trip)
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
        if work.kind == messages.EVALUATE and self._evaluation:
            self._evaluation.waiting.discard(work.id)
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

    # Evaluation

    def evaluate(self) -> None:
        """Begin an evaluation round if one is due, or close the one that nobody is left to wait for."""
        if self._evaluation is None:
            every = self.config.evaluation.every
            last = self.rounds_left == 0
            if self._evaluated_at == self.updates or self.publication.version < 0:
                return
            if not last and not (every and self.updates // every != self._evaluated_at // every):
                return
            if last and (self.publication.version != self.version or self._await_evaluators()):
                return
            self._evaluation = EvaluationRound(self.updates, self.publication.version)
            for device in self.registry.idle(messages.EVALUATE):
                self._evaluation.waiting.add(self._issue(device, messages.EVALUATE).id)
        round_ = self._evaluation
        if not round_.waiting:
            self._evaluated_at = round_.updates
            self._evaluation = None
            if round_.results:
                self._summarize(round_)

    def _await_evaluators(self) -> bool:
        """Whether held-out devices are known but away just now, and the end may wait a little for them."""
        if self._ended_at is None:
            self._ended_at = self._clock()
        known = any(device.role == messages.EVALUATE for device in self.registry.devices.values())
        return known and not self.registry.idle(messages.EVALUATE) and self._clock() < self._ended_at + LINGER

    def _summarize(self, round_: EvaluationRound) -> None:
        summary = round_.summary()
        self.evaluations.append(summary)
        self._record(Evaluated(round_.updates, round_.version, summary, time.time()), None)

    def _take_evaluation(self, work: Work, message: Any) -> None:
        if work.kind != messages.EVALUATE or self._evaluation is None:
            raise Refusal("malformed", "no evaluation was asked for")
        classes = self.model.outputs if self.model.loss == "cross_entropy" else 0
        try:
            result = check_evaluation(message, classes)
        except messages.MessageError as error:
            raise Refusal("malformed", f"evaluation: {error}") from None
        self._evaluation.results.append(result)
        self._forget(work)
        self._remember(work, True, "")
        self._acknowledge(work.device, work.id, True, "")

    # Report

    def status(self, state: str) -> dict[str, Any]:
        """The run's status message."""
        latest = self.evaluations[-1] if self.evaluations else {}
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
            **({"loss": float(np.mean(self.losses)), "staleness": float(np.mean(self.taus))} if self.losses else {}),
            "round_trip_p50": float(np.quantile(trips, 0.5)),
            "round_trip_p99": float(np.quantile(trips, 0.99)),
            "refusals": dict(self.refusals),
            "evaluation": latest,
        }
