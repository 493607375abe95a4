"""What is compared: for every task its budget, its evaluation, and a table of named variants.

All settings are our own; the paper's were not to be had. A variant is an algorithm with what differs from the task's
common settings. Its budget counts updates, not rounds, so that all of one budget draw equally many samples from the
devices; what they compute with them, they are free in, and it is counted too.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from simulator.algorithms import algorithm_class
from simulator.tasks import task_class, task_settings

from . import StudyError
from .job import Job
from .settings import check_settings

Settings = dict[str, Any]

ALGORITHMS, FORMATS, WIRE, CLOCK = "algorithms", "number formats", "on the wire", "against the clock"
FAR = "as far as it goes"
SWEEP = "sweep"


@dataclass(frozen=True)
class Variant:
    """An algorithm with settings.

    Attributes:
        title: its name in tables and legends.
        group: the comparison it belongs to.
        algorithm: a name of `simulator.algorithms`, or "package.module.Class".
        learning, device, evaluation, arguments: what differs from the task's settings.
        model: its own model list; None: the task's.
        budget: updates, in multiples of the task's.
    """

    title: str
    group: str
    algorithm: str = "tinyreptile"
    learning: Settings = field(default_factory=dict)
    device: Settings = field(default_factory=dict)
    evaluation: Settings = field(default_factory=dict)
    arguments: Settings = field(default_factory=dict)
    model: list[list[Any]] | None = None
    budget: float = 1.0


@dataclass(frozen=True)
class Experiment:
    """What is common to a task's variants.

    Attributes:
        updates, quick: the budget of a run, and of one with ``--quick``.
        learning: settings of the algorithms.
        device: of the devices: weight format, delta bits, share ``top`` of a delta that is sent, learning rate beta.
        evaluation: ``shots`` support samples, ``steps`` one-sample steps over them, ``queries``; how many ``unseen``
            devices at the ``checkpoints`` and ``unseen_end`` at the end; numbers of steps ``at`` which the end looks;
            learning ``rates``, of which the best on so many training devices for ``tuning`` is taken;
            ``also``, what else the end looks at, by name: the task's ``arguments``, and ``shots``, ``queries``, ``at``.
        variants: by name.
        arguments: of the task's class, beside the data's folder.
        model: the model list; None: the task's own.
    """

    updates: int
    quick: int
    learning: Settings
    device: Settings
    evaluation: Settings
    variants: dict[str, Variant]
    arguments: Settings = field(default_factory=dict)
    model: list[list[Any]] | None = None


# Log-normal delays around one second, a tenth of all works lost: for every algorithm alike.
DELAYS: Settings = {"median": 1.0, "sigma": 0.75, "drop": 0.1, "deadline": 10.0}
CHECKPOINTS = 16

# With --quick an evaluation has a share of its devices, the learning curve fewer points, and no variant many updates.
QUICK_CHECKPOINTS = 4
QUICK_SHARE = 5
QUICK_BUDGET = 2.0


# How fifty devices at once are held in check: alpha so small that the oldest updates do no harm, or a discount of them.
SMALL_STEPS: Settings = {"alpha": 0.1, "staleness": "constant"}
OLD_ONES_LESS: Settings = {"alpha": 0.22, "staleness": "hinge"}


def variants(
    steps: int,
    rates: list[float],
    batch: Settings,
    batch_beta: float,
    sgd_beta: float,
    joint_beta: float,
    many: Settings = SMALL_STEPS,
) -> dict[str, Variant]:
    """The comparisons of the study.

    Baselines do not learn with the rate that they adapt with: each chooses from ``rates``, on training devices.
    ``steps`` are a work's samples. ``batch`` are settings of training on stored ones and ``batch_beta`` its learning
    rate, larger than an online learner's as its steps are fewer; ``sgd_beta`` and ``joint_beta`` are those of FedSGD's
    one gradient and of the joint model. ``many`` are settings of many devices at once.
    """
    tuned: Settings = {"rates": rates}
    return {
        "tinyreptile": Variant("TinyReptile", ALGORITHMS),
        "reptile": Variant(
            "Reptile", ALGORITHMS, "reptile", learning=batch, device={"beta": batch_beta}, evaluation=tuned
        ),
        "tinymetafed": Variant(
            "TinyMetaFed",
            ALGORITHMS,
            "tinymetafed",
            learning={"local_steps": steps // 2, "alpha": 0.6},
            device={"bits": 4, "top": 0.1},
            evaluation=tuned,
        ),
        "fedavg": Variant(
            "FedAvg", ALGORITHMS, "fedavg", learning=batch, device={"beta": batch_beta}, evaluation=tuned
        ),
        "fedsgd": Variant("FedSGD", ALGORITHMS, "fedsgd", device={"beta": sgd_beta, "bits": 16}, evaluation=tuned),
        "transfer": Variant(
            "transfer (joint model)", ALGORITHMS, "transfer", device={"beta": joint_beta, "bits": 16}, evaluation=tuned
        ),
        "scratch": Variant("from scratch", ALGORITHMS, "scratch", evaluation=tuned),
        "float32": Variant("float32 twin (PyTorch)", FORMATS, device={"format": "float32", "bits": 16}),
        "int8": Variant("int8 weights", FORMATS, device={"format": "int8", "encoding": "int8"}),
        "delta-16": Variant("16-bit deltas", WIRE, device={"bits": 16}),
        "delta-4": Variant("4-bit deltas", WIRE, device={"bits": 4}),
        "delta-4-top-10": Variant("4-bit deltas, top 10 %", WIRE, device={"bits": 4, "top": 0.1}),
        "asynchronous": Variant(
            "asynchronous, 50 in flight",
            CLOCK,
            "asynchronous",
            learning={"in_flight": 50, "schedule": "cooldown", **many},
            budget=1.5,
        ),
        "synchronous": Variant(
            "synchronous, meta-batch 50", CLOCK, "synchronous", learning={"meta_batch": 50, "alpha": 1.0}, budget=4.0
        ),
    }


EXPERIMENTS: dict[str, Experiment] = {
    "sine": Experiment(
        updates=20_000,
        quick=2_000,
        learning={"steps": 32, "alpha": 0.3, "alpha_end": 0.0, "schedule": "linear"},
        device={"beta": 0.005, "bits": 8, "format": "int16", "encoding": "int16", "top": 1.0},
        evaluation={
            "steps": 32,
            "shots": 10,
            "queries": 50,
            "unseen": 50,
            "unseen_end": 500,
            "at": [0, 1, 2, 4, 7, 10, 16, 24, 32],
            "rates": [0.005],
            "tuning": 50,
            "also": {},
        },
        variants=variants(
            32, [0.002, 0.005, 0.01, 0.02, 0.05], {"batch": 10, "epochs": 4}, 0.015, 0.02, 0.001, OLD_ONES_LESS
        ),
    ),
    "omniglot": Experiment(
        updates=10_000,
        quick=200,
        learning={"steps": 50, "alpha": 0.3, "alpha_end": 0.0, "schedule": "linear"},
        device={"beta": 0.02, "bits": 8, "format": "int16", "encoding": "int16", "top": 1.0},
        evaluation={
            "steps": 100,
            "shots": 25,
            "queries": 75,
            "unseen": 20,
            "unseen_end": 200,
            "at": [0, 5, 10, 15, 25, 50, 100],
            "rates": [0.02],
            "tuning": 20,
            "also": {
                "5-way 1-shot": {
                    "arguments": {"shots": 1},
                    "shots": 5,
                    "queries": 95,
                    "at": [0, 5, 10, 25, 50],
                },
            },
        },
        variants=variants(50, [0.005, 0.01, 0.02, 0.05, 0.1], {"batch": 10, "epochs": 4}, 0.06, 0.1, 0.01)
        | {
            "far": Variant(
                "TinyReptile, larger, 20 drawings each",
                FAR,
                learning={"steps": 100},
                arguments={"drawings": 20},
                model=[
                    ["input", 28, 28, 1],
                    *(["conv2d", channels, 3, 2, 1, "relu"] for channels in (24, 32, 48, 48)),
                    ["flatten"],
                    ["dense", 5],
                    ["cross_entropy"],
                ],
                budget=4.0,
            ),
        },
    ),
    "keywords": Experiment(
        updates=6_000,
        quick=200,
        learning={"steps": 40, "alpha": 0.3, "alpha_end": 0.0, "schedule": "linear"},
        device={"beta": 0.02, "bits": 8, "format": "int16", "encoding": "int16", "top": 1.0},
        evaluation={
            "steps": 80,
            "shots": 20,
            "queries": 40,
            "unseen": 20,
            "unseen_end": 200,
            "at": [0, 4, 8, 12, 20, 40, 80],
            "rates": [0.02],
            "tuning": 20,
            "also": {
                "unseen words": {
                    "arguments": {"unseen": "words"},
                    "shots": 20,
                    "queries": 40,
                    "at": [0, 4, 8, 12, 20, 40, 80],
                },
            },
        },
        variants=variants(40, [0.005, 0.01, 0.02, 0.05, 0.1], {"batch": 10, "epochs": 4}, 0.06, 0.1, 0.01)
        | {
            "far": Variant(
                "TinyReptile, larger, 20 clips each, half of them spliced, moved",
                FAR,
                learning={"steps": 80},
                arguments={"drawings": 20, "spliced": 0.5, "time_shift": 3, "frequency_shift": 1},
                model=[
                    ["input", 49, 20, 1],
                    *(["conv2d", channels, 3, 2, 1, "relu"] for channels in (24, 32, 48, 40)),
                    ["flatten"],
                    ["dense", 4],
                    ["cross_entropy"],
                ],
                budget=2.0,
            ),
        },
    ),
    "presence": Experiment(
        updates=5_000,
        quick=1_000,
        learning={"steps": 16, "alpha": 0.3, "alpha_end": 0.0, "schedule": "linear"},
        device={"beta": 0.02, "bits": 8, "format": "int16", "encoding": "int16", "top": 1.0},
        evaluation={
            "steps": 20,
            "shots": 10,
            "queries": 100,
            "unseen": 10,
            "unseen_end": 10,
            "at": [0, 1, 2, 4, 6, 8, 10, 14, 20],
            "rates": [0.02],
            "tuning": 50,
            "also": {},
        },
        variants=variants(16, [0.02, 0.05, 0.1, 0.2, 0.4], {"batch": 8, "epochs": 4}, 0.06, 0.2, 0.02),
    ),
}


def experiment(task: str) -> Experiment:
    """The experiment of ``task``, or one for a task of your own, "package.module.Class", from the settings it has.

    Raises `StudyError` or `TaskError`.
    """
    if task in EXPERIMENTS:
        return EXPERIMENTS[task]
    if "." not in task:
        raise StudyError(
            f"there is an experiment for {', '.join(EXPERIMENTS)}, for all of them, and for a task of yours as "
            f"package.module.Class, not for {task!r}"
        )
    given = task_settings(task)
    try:
        return _experiment_of(given["learning"], given["evaluation"])
    except KeyError as error:
        raise StudyError(
            f"{task}.settings has no {error}: a study needs learning.steps, beta, bits, alpha and alpha_end, and "
            "evaluation.steps, shots and queries"
        ) from None


def _experiment_of(given: Settings, evaluation: Settings) -> Experiment:
    """An experiment with a task's own tables "learning" and "evaluation"."""
    beta, steps = given["beta"], evaluation["steps"]
    return Experiment(
        updates=5_000,
        quick=500,
        learning={name: given[name] for name in ("steps", "alpha", "alpha_end")},
        device={"beta": beta, "bits": given["bits"], "format": "int16", "encoding": "int16", "top": 1.0},
        evaluation={
            **{name: evaluation[name] for name in ("steps", "shots", "queries")},
            "unseen": 20,
            "unseen_end": 100,
            "at": sorted({0, steps, *(1 << i for i in range(12) if 1 << i < steps)}),
            "rates": [beta],
            "tuning": 20,
            "also": {},
        },
        variants=variants(
            given["steps"],
            [beta * factor for factor in (0.5, 1.0, 2.0, 5.0)],
            {"batch": 8, "epochs": 4},
            min(1.0, 3 * beta),
            min(1.0, 4 * beta),
            beta,
        ),
    )


def own(algorithms: Iterable[str]) -> dict[str, Variant]:
    """Variants of ``algorithms`` of yours, each "package.module.Class", by the classes' names in small letters.

    Raises `AlgorithmError`, and `StudyError` for two of one name.
    """
    variants: dict[str, Variant] = {}
    for name in dict.fromkeys(algorithms):
        title = algorithm_class(name).__name__
        if title.lower() in variants:
            raise StudyError(f"there are two algorithms {title}: give them different names")
        variants[title.lower()] = Variant(title, ALGORITHMS, name)
    return variants


def plan(
    tasks: Iterable[str],
    seeds: Iterable[int],
    *,
    updates: int | None = None,
    quick: bool = False,
    only: Iterable[str] | None = None,
    extra: dict[str, Variant] | None = None,
    sweep: Mapping[str, Sequence[Any]] | None = None,
) -> list[Job]:
    """All runs of ``tasks``: every variant with every one of ``seeds``.

    ``updates`` override the tasks' budgets; ``only`` names the variants that are wanted; ``extra`` are more of them.
    ``sweep`` gives settings by name, as "device.beta", the values to try: each variant is run with every combination,
    in place of its own settings. Raises `StudyError` for an unknown task, variant or name, `AlgorithmError` for a
    setting that an algorithm lacks.
    """
    seeds, only, sweep = list(seeds), list(only or []), sweep or {}
    choices = [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]
    jobs = []
    for task in tasks:
        common = experiment(task)
        taken = [name for name in extra or {} if name in common.variants]
        if taken:
            raise StudyError(f"{task} has a variant {taken[0]!r} already: give your class another name")
        variants = common.variants | (extra or {})
        unknown = [name for name in only if name not in variants]
        if unknown:
            raise StudyError(f"{task} has no variant {unknown[0]!r}; it has {', '.join(variants)}")
        wanted = [name for name in variants if name in only or name in (extra or {}) or not only]
        budget = updates or (common.quick if quick else common.updates)
        if quick:
            shares = {name: common.evaluation[name] // QUICK_SHARE for name in ("unseen", "unseen_end", "tuning")}
            few = {name: max(5 if name == "tuning" else 10, share) for name, share in shares.items()}
            common = replace(common, evaluation=common.evaluation | few)
            variants = {n: replace(v, budget=min(v.budget, QUICK_BUDGET)) for n, v in variants.items()}
        points = QUICK_CHECKPOINTS if quick else CHECKPOINTS
        jobs += [
            _job(task, common, variants[name], name, seed, budget, points, choice)
            for name in wanted
            for choice in choices
            for seed in seeds
        ]
    return jobs


def _job(
    task: str,
    common: Experiment,
    variant: Variant,
    name: str,
    seed: int,
    updates: int,
    checkpoints: int,
    choice: Settings,
) -> Job:
    """One run, all its settings spelled out."""
    algorithm = algorithm_class(variant.algorithm)
    chosen = {
        "learning": algorithm.settings_with(common.learning | algorithm.defaults | variant.learning),
        "device": common.device | variant.device,
        "delays": DELAYS,
        "evaluation": common.evaluation | variant.evaluation,
    }
    for path, value in choice.items():
        chosen = _choose(chosen, path, value)
    title, group = variant.title, variant.group
    if choice:
        name = "+".join([name, *(f"{path}={value}" for path, value in choice.items())])
        title = ", ".join([title, *(f"{path.partition('.')[2]} {value}" for path, value in choice.items())])
        group = SWEEP
    settings = {
        "task": task,
        "arguments": common.arguments | variant.arguments,
        "model": variant.model or common.model or task_class(task).model,
        "variant": name,
        "seed": seed,
        "algorithm": variant.algorithm,
        "rounds": max(1, round(variant.budget * updates / algorithm.works(chosen["learning"]))),
        "checkpoints": checkpoints,
        **chosen,
    }
    check_settings(f"{task}, {title}", settings)
    sources = {name: _source(name) for name in (task, variant.algorithm) if "." in name}
    if sources:
        settings["source"] = sources
    # What JSON makes of them, so that stored ones compare equal.
    return Job(json.loads(json.dumps(settings)), title, group)


def _choose(chosen: Mapping[str, Settings], path: str, value: Any) -> dict[str, Settings]:
    """``chosen`` with ``value`` as the setting at ``path``; raises `StudyError` for one that is not there.

    Of the learning rates to adapt with, "evaluation.rates", ``value`` is the only one left.
    """
    section, _, key = path.partition(".")
    there = [
        f"{name}.{k}"
        for name, settings in chosen.items()
        for k, v in settings.items()
        if k == "rates" or not isinstance(v, (list, dict))
    ]
    if path not in there:
        raise StudyError(f"there is no setting {path!r} to choose; there are {', '.join(there)}")
    return {**chosen, section: chosen[section] | {key: [value] if key == "rates" else value}}


def _source(name: str) -> str:
    """What tells one state of a user's own file from another: the first digits of its SHA-256."""
    path = sys.modules[name.rpartition(".")[0]].__file__
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12] if path else "unknown"
