"""What a study has come to: every variant's results over its seeds, as the tables and pictures ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .job import Job
from .result import Count, Point, Result
from .statistics import Estimate, estimate


@dataclass(frozen=True)
class Outcome:
    """One variant of one task: ``results``, one a seed and at least one, in the order of the seeds."""

    task: str
    name: str
    title: str
    group: str
    results: list[Result]

    @property
    def seeds(self) -> set[int]:
        """Those it was run with."""
        return {result["settings"]["seed"] for result in self.results}

    @property
    def metric(self) -> str:
        """What the task is measured by: "accuracy", or for a regression "loss"."""
        return "accuracy" if "accuracy" in self.results[0]["adaptation"][0] else "loss"

    def over_seeds(self, value: Callable[[Result], float]) -> Estimate:
        """The mean of ``value`` over the seeds."""
        return estimate([value(result) for result in self.results])

    def score(self, point: Callable[[Result], Any]) -> Estimate:
        """The task's metric at a ``point`` of the adaptation: accuracy in percent, or loss."""
        return self.over_seeds(lambda result: shown(point(result)))

    @property
    def before(self) -> Estimate:
        """The metric on unseen devices before they adapt."""
        return self.score(lambda result: result["adaptation"][0])

    @property
    def after(self) -> Estimate:
        """The metric on unseen devices after they have adapted."""
        return self.score(lambda result: result["adaptation"][-1])

    @property
    def also(self) -> list[str]:
        """What else the end looked at."""
        return list(self.results[0]["also"])

    def shots(self, also: str | None = None) -> int:
        """Support samples that an unseen device adapts to."""
        evaluation = self.results[0]["settings"]["evaluation"]
        return int((evaluation["also"][also] if also else evaluation)["shots"])

    def points(self, also: str | None = None) -> list[tuple[int, Estimate]]:
        """(one-sample steps, the metric after them) of the adaptation, or of what the end looked at ``also``."""
        of_seeds = [result["also"][also] if also else result["adaptation"] for result in self.results]
        return [(here[0]["step"], estimate([shown(point) for point in here])) for here in zip(*of_seeds, strict=True)]

    def count(self, name: Count) -> float:
        """The mean over the seeds of one of `simulator.algorithms.fleet.Counts`."""
        return self.over_seeds(lambda result: float(result["counts"][name])).mean

    def work_cost(self) -> float:
        """Multiply-accumulates that a device computes for one update, on the average."""
        each = int(self.results[0]["multiply_accumulates"])
        return each * self.count("gradients") / max(1.0, self.count("updates"))

    def work_seconds(self) -> float:
        """Measured processor time of one update, on the average."""
        return self.over_seeds(lambda r: r["cpu_seconds"] / max(1, r["counts"]["updates"])).mean

    def curve(self, x: str, value: Callable[[Any], float]) -> tuple[list[float], list[Estimate]]:
        """The learning curve: means of count ``x`` and of ``value`` of the point, one a checkpoint."""
        points = list(zip(*(result["curve"] for result in self.results), strict=True))
        at = [estimate([point[x] for point in here]).mean for here in points]
        return at, [estimate([value(point) for point in here]) for here in points]


def shown(point: Point) -> float:
    """A point's accuracy in percent, or its loss where there are no classes."""
    return 100 * point["accuracy"] if "accuracy" in point else point["loss"]


def seconds_to(outcome: Outcome, loss: float) -> float | None:
    """Simulated seconds until the mean loss on unseen devices after adaptation has fallen to ``loss``; None: never."""
    seconds, losses = outcome.curve("seconds", lambda point: point["after"]["loss"])
    means = [e.mean for e in losses]
    for i, mean in enumerate(means):
        if mean <= loss:
            if i == 0:
                return seconds[0]
            share = (means[i - 1] - loss) / (means[i - 1] - mean)
            return seconds[i - 1] + share * (seconds[i] - seconds[i - 1])
    return None


def gather(runs: Iterable[tuple[Job, Result]]) -> dict[str, dict[str, Outcome]]:
    """The outcomes of ``runs``, by task and by variant, both in the order they come in."""
    outcomes: dict[str, dict[str, Outcome]] = {}
    for job, result in runs:
        task, name = job.settings["task"], job.settings["variant"]
        of_task = outcomes.setdefault(task, {})
        of_task.setdefault(name, Outcome(task, name, job.title, job.group, [])).results.append(result)
    return outcomes
