"""Evaluation on the held-out devices: when, of which version, who was asked, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyreptile import messages, reports
from tinyreptile.evaluation import COUNTED_CLASSES

from .entries import Evaluated
from .work import Refusal, Work

if TYPE_CHECKING:
    from .run import Run

IN_A_ROW = 3  # evaluations that are much worse raise the alarm: one or two may be so by chance
WINDOW = 30  # evaluations before these that show what is usual: with ten, a slow decay would seem usual, too
CHANCE = 0.05  # share of the last loss by which an earlier one may be lower by chance
LINGER = 30.0  # seconds that a finished run waits for held-out devices which are away
HUGE = 10.0  # times its own usual loss, and what the median device has: such a report is noted
LEAST_LOSS = 1e-9  # lower ones are as good
FEWEST = 5  # evaluations of a device before its usual loss is known
NAMED = 5  # devices in one sentence

Losses = Mapping[str, float]  # after adaptation, by device


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


def worse(now: Losses, then: Losses) -> float:
    """Return how many times the losses of ``now`` are those of ``then``: the median over the devices of both.

    0 where these are half of the present ones or fewer. Each device is compared with itself: as long as more than half
    of those of both tell the truth, the median lies between two true ones, whatever the others report.
    """
    both = now.keys() & then.keys()
    return median(_times(now[name], then[name]) for name in both) if 2 * len(both) > len(now) else 0.0


def usual_losses(evaluations: Sequence[Losses]) -> dict[str, float]:
    """Return the median loss of each device that took part in `FEWEST` of ``evaluations`` or more."""
    losses: dict[str, list[float]] = {}
    for evaluation in evaluations:
        for name, loss in evaluation.items():
            losses.setdefault(name, []).append(loss)
    return {name: median(those) for name, those in losses.items() if len(those) >= FEWEST}


def _times(now: float, then: float) -> float:
    return max(now, LEAST_LOSS) / max(then, LEAST_LOSS)


def _names(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    shown = [first, *others[: NAMED - 1]]
    more = 1 + len(others) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


@dataclass
class EvaluationRound:
    """All devices that were idle when it began adapt the same version.

    Attributes:
        asked: work ids that may still be answered; waiting: those of them without which it does not end.
        results: what was found; losses: after adaptation, by device.
    """

    updates: int
    version: int
    asked: set[int] = field(default_factory=set)
    waiting: set[int] = field(default_factory=set)
    results: list[dict[str, Any]] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Means and medians over the devices: query loss before and after adaptation; with classes, accuracies too.

        Balanced accuracy is the mean over the classes of the share predicted right, all devices' queries together.
        """
        result: dict[str, Any] = {
            "updates": self.updates,
            "version": self.version,
            "devices": len(self.results),
            "before": float(np.mean([r["before"] for r in self.results])),
            "after": float(np.mean([r["after"] for r in self.results])),
            "median_before": float(median(r["before"] for r in self.results)),
            "median_after": float(median(r["after"] for r in self.results)),
        }
        seen = np.sum([r.get("seen", []) for r in self.results], axis=0)
        if np.any(seen):
            for moment in ("before", "after"):
                hits = np.sum([r[f"hits_{moment}"] for r in self.results], axis=0)
                result[f"balanced_accuracy_{moment}"] = float(np.mean(hits[seen > 0] / seen[seen > 0]))
        return result


class Evaluations:
    """The evaluations of ``run``, one at a time.

    A device whose last evaluation passed its deadline without a word is asked like the others, and not waited for as
    long as there are others: it may not be let write what it finds, as one that only claims to be held out.

    Attributes:
        summaries: of all that anything came of, in order.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._round: EvaluationRound | None = None
        self._at = 0  # updates at the last one
        self._ended_at: float | None = None
        self.summaries: list[dict[str, Any]] = []
        self._since = 0  # version that was gone back to last, as a new one: earlier evaluations are no measure for it
        self._latest: list[tuple[int, Losses]] = []  # by version, since then; the alarm compares the newest with them
        self._best: tuple[float, int, Losses] | None = None  # of all: median loss, version, losses
        self._mute: set[str] = set()  # devices whose last evaluation passed its deadline
        self._noted: set[str] = set()  # devices whose loss is huge, and that was noted

    def restore(self, past: Iterable[Evaluated], gone_back: int) -> None:
        """Take up those of earlier starts; ``gone_back`` is the version that a version was gone back to as, or 0."""
        self._since = gone_back
        for entry in past:
            self._at = entry.updates
            medians = {"median_before": entry.summary["before"], "median_after": entry.summary["after"]}
            summary = medians | entry.summary  # of a store of an earlier release
            self._remember(summary, summary.pop("losses", {}))

    def _remember(self, summary: dict[str, Any], losses: Losses) -> None:
        self.summaries.append(summary)
        if summary["version"] >= self._since:
            self._latest.append((summary["version"], losses))
            del self._latest[: -WINDOW - IN_A_ROW]
        if self._best is None or summary["median_after"] < self._best[0]:
            self._best = summary["median_after"], summary["version"], losses

    def gone_back(self, version: int) -> None:
        """Measure anew from ``version`` on, which is an earlier one again.

        If the devices' data have changed it is as bad as the last one, and to go back again and again would stop
        learning for good; and what an operator goes back to may be worse than what there was.
        """
        self._since = version
        self._latest.clear()

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
            devices = run.registry.idle(messages.EVALUATE)
            silent = all(device.id in self._mute for device in devices)
            for device in devices:
                work = run.issue(device, messages.EVALUATE)
                self._round.asked.add(work.id)
                if silent or device.id not in self._mute:
                    self._round.waiting.add(work.id)
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
        self._mute.discard(work.device)
        if self._round is None or work.id not in self._round.asked:
            raise Refusal("late", "the evaluation has ended without it")
        model = self._run.model
        try:
            result = check_evaluation(message, model.outputs if model.loss == "cross_entropy" else 0)
        except messages.MessageError as error:
            raise Refusal("malformed", f"evaluation: {error}") from None
        if result["version"] not in work.versions:
            raise Refusal("wrong version", f"version {result['version']} was not sent with work {work.id}")
        self._round.results.append(result)
        self._round.losses[work.device] = result["after"]
        return result

    def closed(self, work: Work) -> None:
        """``work`` is done with, whatever came of it."""
        if self._round is not None:
            self._round.asked.discard(work.id)
            self._round.waiting.discard(work.id)

    def missed(self, work: Work) -> None:
        """Nothing came of ``work``: it was late, refused, or lost with a start of its device."""
        if work.kind == messages.EVALUATE:
            self._mute.add(work.device)

    def forget(self, device_id: str) -> None:
        """Nothing is known of ``device_id`` any more."""
        self._mute.discard(device_id)
        self._noted.discard(device_id)

    def _close(self, ended: EvaluationRound) -> None:
        self._at, self._round = ended.updates, None
        if ended.results:
            summary = ended.summary()
            entry = Evaluated(ended.updates, ended.version, summary | {"losses": ended.losses}, time.time())
            earlier = self._earlier()
            self._mind_outliers(ended.losses)
            self._remember(summary, ended.losses)
            self._run.record(entry)
            self._mind_drift(earlier)
            if self._run.rounds_left == 0 and self._run.config.evaluation.best:
                self._end_with_best(ended.version, ended.losses, earlier)

    def _mind_outliers(self, now: Losses) -> None:
        """Note who reports a huge loss, by its own usual one, where the median device does not."""
        usual = usual_losses([losses for _, losses in self._latest])
        times = {name: _times(loss, usual[name]) for name, loss in now.items() if name in usual}
        most = HUGE * max(1.0, median(times.values())) if times else 0.0
        huge = {name for name, value in times.items() if value > most}
        if new := huge - self._noted:
            reports = (f"{now[name]:.4g} of {name}, usually {usual[name]:.4g}" for name in sorted(new)[:NAMED])
            self._run.disagreed(f"others do not find the losses that {_names(new)} reports: {'; '.join(reports)}")
        self._noted = huge

    def _earlier(self) -> dict[int, Losses]:
        """Return what was found of the latest versions and the best one, by version."""
        earlier = dict(self._latest)
        if self._best is not None:
            earlier.setdefault(self._best[1], self._best[2])
        return earlier

    def _better(self, last: int, now: Losses, earlier: Mapping[int, Losses]) -> dict[int, float]:
        """Return how many times worse the ``last`` version is, by what was found ``now``, than ``earlier`` ones.

        Of these only such as can be gone back to.
        """
        there = self._run.evaluated_versions() - {last}
        return {version: worse(now, losses) for version, losses in earlier.items() if version in there}

    def _end_with_best(self, last: int, now: Losses, earlier: Mapping[int, Losses]) -> None:
        """Go back to the best of the ``earlier`` versions if the ``last`` one is worse by more than chance."""
        times = self._better(last, now, earlier)
        best = max(times, key=times.__getitem__, default=last)
        if times.get(best, 0.0) > 1 / (1 - CHANCE):
            self._run.end_with(best, _text(now, earlier[best], best))

    def _mind_drift(self, earlier: Mapping[int, Losses]) -> None:
        """Raise the alarm if the newest evaluations were all much worse than what is usual for their devices.

        What is usual is found from the evaluations before these. Gone back to is the best of the ``earlier`` versions
        that were evaluated since a version was last gone back to.
        """
        guards = self._run.config.guards
        newest = self._latest[-IN_A_ROW:]
        usual = usual_losses([losses for _, losses in self._latest[:-IN_A_ROW]])
        if not guards.drift or not usual or any(worse(losses, usual) < guards.drift for _, losses in newest):
            return
        last, now = newest[-1]
        times = self._better(last, now, {v: losses for v, losses in earlier.items() if v >= self._since})
        if not times:
            return
        best = max(times, key=lambda version: (times[version], version))
        both = now.keys() & usual.keys()
        found, before = (median(losses[name] for name in both) for losses in (now, usual))
        text = (
            f"loss {found:.4g} on unseen devices after {IN_A_ROW} bad evaluations, usually {before:.4g}; "
            f"the best was version {best}"
        )
        most = {name: max(_times(losses.get(name, 0.0), usual[name]) for _, losses in newest) for name in both}
        calm = [name for name, times_usual in most.items() if times_usual <= 1 + CHANCE]
        if calm:
            text += f"; nothing got worse at {_names(calm)}"
        self._run.drifted(text, best)


def _text(now: Losses, then: Losses, version: int) -> str:
    """Return what the devices of both found, by their medians."""
    both = now.keys() & then.keys()
    losses = [median(losses[name] for name in both) for losses in (now, then)]
    return f"loss {losses[0]:.4g} on unseen devices, {losses[1]:.4g} at version {version}"
