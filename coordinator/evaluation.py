"""Evaluation on the held-out devices: when, of which version, who was asked, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyreptile import messages, reports
from tinyreptile.evaluation import COUNTED_CLASSES

from .entries import Evaluated
from .guards import drifted
from .store import EVALUATED_KEPT
from .work import Refusal, Work

if TYPE_CHECKING:
    from .run import Run

DRIFT_WINDOW = EVALUATED_KEPT - 1  # evaluations that the last is compared with, as far as one can go back
CHANCE = 0.05  # share of the last loss by which an earlier one may be lower by chance
LINGER = 30.0  # seconds that a finished run waits for held-out devices which are away


def check_evaluation(message: Any, classes: int) -> dict[str, Any]:
    """``message`` if it is an evaluation of a model of ``classes`` classes (0: regression), else `MessageError`."""
    evaluation: dict[str, Any] = messages.check(reports.EVALUATION, message)
    if classes > COUNTED_CLASSES:
        classes = 0
    for name in ("seen", "hits_before", "hits_after"):
        counts = reports.check_ints(name, evaluation.setdefault(name, []), 0, 1_000_000)
        if len(counts) != classes:
            raise messages.MessageError(f"{name} has {len(counts)} counts, the model {classes} classes")
        if any(count > seen for count, seen in zip(counts, evaluation["seen"], strict=True)):
            raise messages.MessageError(f"{name} counts more samples of a class than were seen")
    return evaluation


@dataclass
class EvaluationRound:
    """All devices that were idle when it began adapt the same version."""

    updates: int
    version: int
    waiting: set[int] = field(default_factory=set)  # work ids
    results: list[dict[str, Any]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Means over the devices: query loss ``before`` and ``after`` adaptation; with classes, accuracies too.

        Balanced accuracy is the mean over the classes of the share predicted right, all devices' queries together.
        """
        result: dict[str, Any] = {
            "updates": self.updates,
            "version": self.version,
            "devices": len(self.results),
            "before": float(np.mean([r["before"] for r in self.results])),
            "after": float(np.mean([r["after"] for r in self.results])),
        }
        seen = np.sum([r.get("seen", []) for r in self.results], axis=0)
        if np.any(seen):
            for moment in ("before", "after"):
                hits = np.sum([r[f"hits_{moment}"] for r in self.results], axis=0)
                result[f"balanced_accuracy_{moment}"] = float(np.mean(hits[seen > 0] / seen[seen > 0]))
        return result


class Evaluations:
    """The evaluations of ``run``, one at a time.

    Attributes:
        summaries: of all that anything came of, in order.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._round: EvaluationRound | None = None
        self._at = 0  # updates at the last one
        self._ended_at: float | None = None
        self.summaries: list[dict[str, Any]] = []
        self._losses: list[tuple[int, float]] = []  # of the latest: version, loss after adaptation

    def restore(self, past: Iterable[Evaluated]) -> None:
        """Take up those of earlier starts."""
        for entry in past:
            self._at = entry.updates
            self._remember(entry.summary)

    def _remember(self, summary: dict[str, Any]) -> None:
        self.summaries.append(summary)
        self._losses.append((summary["version"], summary["after"]))
        del self._losses[: -DRIFT_WINDOW - 1]

    @property
    def latest(self) -> dict[str, Any]:
        """The last summary; empty before the first."""
        return self.summaries[-1] if self.summaries else {}

    @property
    def done(self) -> bool:
        """Whether none is under way, and the last was of all updates."""
        return self._round is None and self._at == self._run.updates

    def step(self) -> None:
        """Begin one if it is due, or close the one that nobody is left to wait for."""
        run = self._run
        if self._round is None:
            if not self._due():
                return
            self._round = EvaluationRound(run.updates, run.version)
            run.keep_version()
            for device in run.registry.idle(messages.EVALUATE):
                self._round.waiting.add(run.issue(device, messages.EVALUATE).id)
        if not self._round.waiting:
            self._close(self._round)

    def _due(self) -> bool:
        run, every = self._run, self._run.config.evaluation.every
        if self._at == run.updates or run.published_version < 0:
            return False
        if run.rounds_left == 0:
            return not self._absent()
        return bool(every) and run.updates // every != self._at // every

    def _absent(self) -> bool:
        """Whether held-out devices are known but away just now, and the end may wait a little for them."""
        registry, now = self._run.registry, self._run.now()
        if self._ended_at is None:
            self._ended_at = now
        known = any(device.role == messages.EVALUATE for device in registry.devices.values())
        return known and not registry.idle(messages.EVALUATE) and now < self._ended_at + LINGER

    def take(self, work: Work, message: Any) -> dict[str, Any]:
        """What one device found, checked; raises `Refusal`."""
        if self._round is None:
            raise Refusal("malformed", "no evaluation was asked for")
        model = self._run.model
        try:
            result = check_evaluation(message, model.outputs if model.loss == "cross_entropy" else 0)
        except messages.MessageError as error:
            raise Refusal("malformed", f"evaluation: {error}") from None
        self._round.results.append(result)
        return result

    def closed(self, work: Work) -> None:
        """``work`` is done with, whatever came of it."""
        if self._round is not None:
            self._round.waiting.discard(work.id)

    def _close(self, ended: EvaluationRound) -> None:
        self._at, self._round = ended.updates, None
        if ended.results:
            summary = ended.summary()
            self._remember(summary)
            self._run.record(Evaluated(ended.updates, ended.version, summary, time.time()))
            self._mind_drift()
            if self._run.rounds_left == 0 and self._run.config.evaluation.best:
                self._end_with_best(summary)

    def _end_with_best(self, last: dict[str, Any]) -> None:
        """Go back to the best version if the ``last`` one is worse by more than chance.

        What fewer devices found does not count.
        """
        there = self._run.evaluated_versions()
        comparable = [s for s in self.summaries if s["version"] in there and s["devices"] >= last["devices"]]
        best = min(comparable, key=lambda summary: summary["after"], default=last)
        if best["after"] < (1 - CHANCE) * last["after"]:
            self._run.end_with(
                best["version"], f"loss {last['after']:.4g} on unseen devices, {best['after']:.4g} at {best['version']}"
            )

    def _mind_drift(self) -> None:
        """Raise the alarm if the last evaluation was much worse than the best before it."""
        guards = self._run.config.guards
        if not drifted([loss for _, loss in self._losses], guards.drift, DRIFT_WINDOW):
            return
        best, loss = min(self._losses[:-1], key=lambda pair: pair[1])
        text = f"loss {self._losses[-1][1]:.4g} on unseen devices, {loss:.4g} at version {best}"
        self._run.drifted(text, best)
        if guards.on_drift == "rollback":
            # What the best version comes to from now on is the new measure: if the devices' data have changed, it is as
            # bad as the last one, and to go back again and again would stop learning for good.
            self._losses.clear()
