"""One run of one variant with one seed: from its settings to its result, whoever runs it and wherever."""

from __future__ import annotations

import math
import platform
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from coordinator.initialization import random_weights
from coordinator.rules import Weights
from simulator.algorithms import Algorithm, algorithm_class
from simulator.algorithms.fleet import ANY, Counts, Delays, Fleet
from simulator.offline import Device, Replay, adaptation
from simulator.tasks import Task, task_class
from tinyreptile import __version__
from tinyreptile.cpython_compile import compile_kernels
from tinyreptile.geometry import multiplications
from tinyreptile.model import Model

from . import StudyError, checkpoint
from .devices import make_device
from .result import Cost, Look, Point, Result

Watch = Callable[[int], bool]

SAVE_SECONDS = 15.0  # between two checkpoints of a job
SAVED = ("number", "counts", "curve", "cpu_seconds", "phi", "norms")  # what is in one, beside the settings

_IN_FLIGHT = 100  # pieces of work whose samples are drawn, and whose round is still to come


class Stopped(Exception):
    """A job was told to stop, and has saved what it had."""


@dataclass(frozen=True)
class Job:
    """A run to be made.

    Attributes:
        settings: all that its result depends on, stored with it: JSON's types only.
        title, group: how its variant is called, and the comparison it belongs to.
    """

    settings: dict[str, Any]
    title: str
    group: str

    @property
    def name(self) -> str:
        """Its file's name, without an ending."""
        return f"{self.settings['task']}-{self.settings['variant']}-{self.settings['seed']}"

    @property
    def rounds(self) -> int:
        """Rounds from beginning to end."""
        return int(self.settings["rounds"])

    @property
    def looks(self) -> list[int]:
        """The rounds after which the learning curve has a point, from 0 to the last."""
        points: int = self.settings["checkpoints"]
        return sorted({round(self.rounds * i / points) for i in range(points + 1)})


def check(jobs: Iterable[Job], data: Path | None) -> None:
    """Raise what is wrong with the tasks, data sets or settings of ``jobs``, before any of them runs."""
    seen = set()
    for job in jobs:
        s = job.settings
        algorithm_class(s["algorithm"]).settings_with(s["learning"])
        if s["task"] not in seen:
            seen.add(s["task"])
            task_class(s["task"])(data, **s["arguments"])


def saved_state(job: Job, path: Path) -> tuple[dict[str, Any], checkpoint.Arrays] | None:
    """The record and arrays from which ``job`` goes on, None if there are none; raises `StudyError` for others."""
    return checkpoint.load(path, job.settings, SAVED)


def run(job: Job, data: Path | None, saved: Path | None, watch: Watch) -> Result:
    """Run ``job`` and return its result, JSON's types only.

    ``data`` is the folder of data sets. In the file ``saved`` its state is kept while it runs, and from there it goes
    on, to the same bits; None: it is not kept. ``watch`` is told the rounds done, often, and says whether to stop:
    then `Stopped` is raised, the state saved.
    """
    return _Run(job, data).finish(saved, watch)


class _Run:
    """The state of a run between two rounds: phi, round, counts, curve, and what the algorithm keeps."""

    def __init__(self, job: Job, data: Path | None) -> None:
        s = job.settings
        self.job = job
        self.data = data
        self.task = self._task({})
        self.model = Model(s["model"])
        compile_kernels(s["device"]["format"])  # in one of several processes, which the others wait for
        self.phi: Weights = random_weights(self.model, s["seed"])
        kind = algorithm_class(s["algorithm"])
        self.fleet = Fleet(
            self.task,
            make_device(s["model"], s["device"], kind.shots(s["learning"])),
            s["seed"],
            Delays(**s["delays"]),
        )
        self.algorithm: Algorithm = kind(self.fleet, s["learning"], job.rounds)
        # Whatever trained, an unseen device adapts online.
        self.unseen_device: Device = make_device(s["model"], s["device"])
        self.few_unseen = list(self._unseen(self.task, s["evaluation"], s["evaluation"]["unseen"]))
        self.training = list(self._tuning()) if len(s["evaluation"]["rates"]) > 1 else []
        self.number = 0
        self.training_loss = math.nan
        self.curve: list[Look] = []

    def finish(self, saved: Path | None, watch: Watch) -> Result:
        """All rounds that are left, then the large evaluation."""
        if saved:
            self._restore(saved)
        looks = set(self.job.looks)
        last_save = time.monotonic()
        if not self.curve:
            self._look()
        while self.number < self.job.rounds:
            self.training_loss = self.algorithm.round(self.phi, self.number + 1)
            self.number += 1
            if not np.isfinite(self.phi).all():
                raise StudyError(f"{self.job.name} diverged in round {self.number}: give it a smaller beta or alpha")
            if self.number in looks:
                self._look()
            stop = watch(self.number)
            if saved and (stop or time.monotonic() - last_save > SAVE_SECONDS):
                self._save(saved)
                last_save = time.monotonic()
            if stop:
                raise Stopped
        return self._result()

    def _look(self) -> None:
        """A point of the learning curve, on a few unseen devices."""
        evaluation = self.job.settings["evaluation"]
        self._check_budget()
        points, rate = self._adapt(self.few_unseen, [0, evaluation["steps"]])
        self.curve.append(
            {
                "round": self.number,
                **cast("Cost", asdict(self.fleet.counts)),
                "training_loss": self.training_loss if math.isfinite(self.training_loss) else None,
                "rate": rate,
                "before": points[0],
                "after": points[-1],
            }
        )

    def _check_budget(self) -> None:
        """What is compared has drawn as many samples as the others: as many as its `works` has promised."""
        learning, samples = self.job.settings["learning"], self.fleet.counts.samples
        works = self.algorithm.works(learning)
        if samples > learning["steps"] * (2 * works * self.number + _IN_FLIGHT):
            raise StudyError(
                f"{self.job.name} has drawn {samples:,} samples in {self.number:,} rounds, but by "
                f"{type(self.algorithm).__name__}.works a round has {works} pieces of work of {learning['steps']} "
                "samples; let works say how many there are, so that every algorithm gets equally many samples"
            )

    def _adapt(self, unseen: Iterable[Replay], at: list[int]) -> tuple[list[Point], float]:
        """The mean over ``unseen`` devices after ``at`` steps, and the learning rate: the best on training devices."""
        evaluation = self.job.settings["evaluation"]
        device, rates = self.unseen_device, evaluation["rates"]
        if len(rates) > 1:
            losses = []
            for rate in rates:
                device.learner.set_rate(rate)
                losses.append(adaptation(device, self.phi, self.training, [evaluation["steps"]])[0]["loss"])
            rates = [rates[int(np.argmin(losses))]]
        device.learner.set_rate(rates[0])
        points = adaptation(device, self.phi, unseen, at)
        if not all(math.isfinite(point["loss"]) for point in points):
            raise StudyError(f"{self.job.name} diverged by round {self.number}: give it a smaller beta or alpha")
        return cast("list[Point]", points), rates[0]

    def _task(self, arguments: dict[str, Any]) -> Task:
        """The task, with other ``arguments`` where they are given."""
        s = self.job.settings
        return task_class(s["task"])(self.data, **s["arguments"] | arguments)

    def _unseen(self, task: Task, evaluation: dict[str, Any], devices: int) -> Iterator[Replay]:
        """The first ``devices`` unseen ones of ``task``, or as many as there are."""
        for i in range(min(devices, task.evaluators or devices)):
            stream = task.unseen_stream(i, self.job.settings["seed"])
            yield Replay.of_unseen(stream, self.unseen_device.learner, evaluation["shots"], evaluation["queries"])

    def _tuning(self) -> Iterator[Replay]:
        """Training devices to choose a learning rate on: of a piece of work, what is not support is query."""
        s, shots = self.job.settings, self.job.settings["evaluation"]["shots"]
        rng = random.Random(f"{s['seed']}/rates")
        for _ in range(s["evaluation"]["tuning"]):
            stream = self.task.train_stream(rng.randrange(self.task.devices or ANY), rng.getrandbits(31))
            yield Replay.of_training(stream, self.unseen_device.learner, shots, max(1, s["learning"]["steps"] - shots))

    def _result(self) -> Result:
        evaluation = self.job.settings["evaluation"]
        devices = evaluation["unseen_end"]
        points, rate = self._adapt(self._unseen(self.task, evaluation, devices), evaluation["at"])
        also = {
            name: adaptation(
                self.unseen_device, self.phi, self._unseen(self._task(other["arguments"]), other, devices), other["at"]
            )
            for name, other in evaluation["also"].items()
        }
        device = self.fleet.device
        result = {
            "settings": self.job.settings,
            "versions": {"tinyreptile": __version__, "python": platform.python_version(), "numpy": np.__version__},
            "adaptation": points,
            "also": also,
            "rate": rate,
            "counts": asdict(self.fleet.counts),
            "parameters": self.model.parameters,
            "ram": device.ram(),
            "multiply_accumulates": multiplications(self.model),
            "cpu_seconds": self.fleet.cpu_seconds,
            "curve": self.curve,
        }
        return cast("Result", result)

    def _save(self, path: Path) -> None:
        record = {
            "settings": self.job.settings,
            "number": self.number,
            "counts": asdict(self.fleet.counts),
            "curve": self.curve,
            "cpu_seconds": self.fleet.cpu_seconds,
        }
        norms = np.array([(int(device), norm) for device, norm in self.algorithm.guard.norms])
        checkpoint.save(path, record, {"phi": self.phi, "norms": norms, **self.algorithm.state()})

    def _restore(self, path: Path) -> None:
        found = saved_state(self.job, path)
        if found is None:
            return
        record, arrays = found
        self.phi = arrays.pop("phi")
        for device, norm in arrays.pop("norms").tolist():
            self.algorithm.guard.add(str(int(device)), norm)
        self.algorithm.resume(arrays)
        self.number = record["number"]
        for name, value in asdict(Counts(**record["counts"])).items():
            setattr(self.fleet.counts, name, value)
        self.curve = record["curve"]
        self.fleet.cpu_seconds = record["cpu_seconds"]
