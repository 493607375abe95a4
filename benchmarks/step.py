"""One training step on CPython: `Learner.step` against PyTorch eager on one thread, the same network, side by side.

Both begin from random weights and do forward pass, loss, backward pass and SGD update on a new sample every step: the
learner has it written into its buffers, PyTorch has its tensors ready. PyTorch gets its fastest way of saying so: every
candidate below is tried first, and the best one is raced. Repeats alternate between the two, and the figure is the
median of their ratios. The integer kernels pass over zeros, so the samples are real ones.
"""

from __future__ import annotations

import statistics
import timeit
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from coordinator.initialization import encode, random_weights
from simulator.offline import take
from simulator.tasks import Task, TaskError, make_task
from tinyreptile.geometry import layers
from tinyreptile.learner import ONE, Learner
from tinyreptile.model import Model
from tinyreptile.portable import RUNNER
from tinyreptile.streams import TRAIN

from .report import Figure, Progress, Result, Unavailable

SAMPLES = 1000

Step = Callable[[], object]


@dataclass(frozen=True)
class Race:
    """A task's network, and how many steps of either make one repeat, about as long."""

    task: str
    network: str
    target: float
    steps: int
    torch_steps: int


RACES = (
    Race("sine", "1-32-32-1", 25.0, 5000, 250),
    Race("omniglot", "four convolutions, 23,941 parameters", 2.5, 1000, 200),
)


def run(quick: bool, progress: Progress) -> Result:
    """Measure."""
    if RUNNER != "numba":
        raise Unavailable("numba is not installed; pip install 'tinyreptile[swarm]'")
    figures: list[Figure] = []
    raw: dict[str, Any] = {}
    for i, race in enumerate(RACES):

        def part(share: float, text: str, i: int = i, race: Race = race) -> None:
            progress((i + share) / len(RACES), f"{race.network}: {text}")

        try:
            task = make_task(race.task)
        except TaskError as error:
            raise Unavailable(str(error)) from None
        found, numbers = _race(race, task, quick, part)
        figures += found
        raw[race.task] = numbers
    return Result(figures, raw)


def _race(race: Race, task: Task, quick: bool, progress: Progress) -> tuple[list[Figure], dict[str, Any]]:
    progress(0.0, "compiling")
    x, y = _samples(task)
    ours = _learner_step(task, x, y)
    candidates = _torch_steps(task, x, y)
    trials = {}
    for i, (name, step) in enumerate(candidates.items()):
        progress(0.3 * i / len(candidates), f"PyTorch, {name}")
        timeit.timeit(step, number=race.torch_steps)
        trials[name] = min(timeit.repeat(step, number=race.torch_steps, repeat=3 if quick else 10)) / race.torch_steps
    best = min(trials, key=trials.__getitem__)
    repeats = 10 if quick else 60
    pairs = []
    for i in range(repeats):
        progress(0.3 + 0.7 * i / repeats, f"against {best}")
        pairs.append(
            (
                timeit.timeit(ours, number=race.steps) / race.steps,
                timeit.timeit(candidates[best], number=race.torch_steps) / race.torch_steps,
            )
        )
    ratio = statistics.median(theirs / mine for mine, theirs in pairs)
    mine, theirs = (statistics.median(times) * 1e6 for times in zip(*pairs, strict=True))
    return [
        Figure(f"training step, {race.network}, CPython + numba", f"{mine:.1f} µs"),
        Figure(f"the same in PyTorch eager, one thread ({best})", f"{theirs:.0f} µs"),
        Figure("times faster than PyTorch", f"{ratio:.1f}", f"≥ {race.target:g}", ratio >= race.target),
    ], {"ratio": ratio, "seconds": pairs, "torch_candidates_seconds": trials, "raced": best}


def _samples(task: Task) -> tuple[list[array[int]], list[array[int]]]:
    """Inputs and targets as training devices draw them."""
    model = Model(task.model)
    stream = task.train_stream(0, 1)
    stream.begin(TRAIN)
    xs, ys = [], []
    for _ in range(SAMPLES):
        x, y = array("h", bytes(2 * model.inputs)), array("h", bytes(2 * model.target_cells()))
        take(stream, memoryview(x), y)
        xs.append(x)
        ys.append(y)
    return xs, ys


def _learner_step(task: Task, xs: list[array[int]], ys: list[array[int]]) -> Step:
    model = Model(task.model)
    learner = Learner(model)
    learner.wire[:] = encode(model, random_weights(model, seed=1))
    learner.receive()
    learner.load()
    learner.set_rate(task.settings["learning"]["beta"])
    x, y = learner.x, learner.y
    samples = cycle(zip(xs, ys, strict=True))

    def step() -> object:
        x[:], y[:] = next(samples)
        return learner.step(x, y)

    step()
    return step


def _torch_steps(task: Task, xs: list[array[int]], ys: list[array[int]]) -> dict[str, Step]:
    try:
        import torch
    except ImportError:
        raise Unavailable("PyTorch is not installed; pip install torch==2.13.0") from None
    torch.set_num_threads(1)
    functional = torch.nn.functional
    beta = task.settings["learning"]["beta"]
    labels = task.model[-1] == ["cross_entropy"]
    criterion = functional.cross_entropy if labels else functional.mse_loss
    shape = Model(task.model).shape
    if len(shape) == 3:
        shape = (shape[2], shape[0], shape[1])  # channels first
    samples = cycle(
        [
            (
                torch.tensor(np.array(x, np.float32).reshape(1, *shape) / ONE),
                torch.tensor([y[0]]).long() if labels else torch.tensor([[y[0] / ONE]]),
            )
            for x, y in zip(xs, ys, strict=True)
        ]
    )

    def with_optimizer(**options: bool) -> Step:
        net = _torch_network(task.model)
        optimizer = torch.optim.SGD(net.parameters(), lr=beta, **options)

        def step() -> None:
            x, y = next(samples)
            optimizer.zero_grad(set_to_none=True)
            criterion(net(x), y).backward()
            optimizer.step()

        return step

    def by_hand(*, foreach: bool) -> Step:
        net = _torch_network(task.model)
        parameters = list(net.parameters())

        def step() -> None:
            x, y = next(samples)
            gradients = torch.autograd.grad(criterion(net(x), y), parameters)
            with torch.no_grad():
                if foreach:
                    torch._foreach_add_(parameters, gradients, alpha=-beta)
                else:
                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        parameter.add_(gradient, alpha=-beta)

        return step

    return {
        "optim.SGD": with_optimizer(),
        "optim.SGD, foreach": with_optimizer(foreach=True),
        "optim.SGD, fused": with_optimizer(fused=True),
        "no_grad update": by_hand(foreach=False),
        "no_grad update, foreach": by_hand(foreach=True),
    }


def _torch_network(spec: list[list[Any]]) -> Any:
    """The network as PyTorch users write it: channels first, its own random weights."""
    from torch import nn

    modules: list[Any] = []
    shapes = layers(Model(spec))
    place = 0
    for item in spec[1:-1]:
        if item[0] == "flatten":
            modules.append(nn.Flatten())
            continue
        layer = shapes[place]
        place += 1
        if item[0] == "dense":
            modules.append(nn.Linear(layer.channels, layer.out_channels))
        else:
            modules.append(nn.Conv2d(layer.channels, layer.out_channels, *item[2:5]))
        if layer.relu:
            modules.append(nn.ReLU())
    return nn.Sequential(*modules)
