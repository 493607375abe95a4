"""One training step of 1-32-32-1 on CPython: `Learner.step` against PyTorch eager on one thread, side by side.

Both begin from the same random weights and do forward pass, squared error, backward pass and SGD update, on a new
point of a sine every step: the learner has it written into its buffers, PyTorch has its tensors ready. PyTorch gets
its fastest way of saying so: every candidate below is tried first, and the best one is raced. Repeats alternate
between the two, and the figure is the median of their ratios.
"""

from __future__ import annotations

import math
import statistics
import timeit
from collections.abc import Callable
from itertools import cycle
from typing import Any

from coordinator.initialization import encode, random_weights
from simulator.tasks.sine import Sine
from tinyreptile.learner import Learner, fixed
from tinyreptile.model import Model
from tinyreptile.portable import RUNNER

from .report import Figure, Progress, Result, Unavailable

TARGET = 25.0
BETA = 0.005
SAMPLES = [(x / 10, 2 * math.sin(x / 10 + 1)) for x in range(-50, 51, 7)]
STEPS, TORCH_STEPS = 5000, 250  # in one repeat, about as long

Step = Callable[[], object]


def run(quick: bool, progress: Progress) -> Result:
    """Measure."""
    if RUNNER != "numba":
        raise Unavailable("numba is not installed; pip install 'tinyreptile[swarm]'")
    progress(0.0, "compiling")
    ours = _learner_step()
    candidates = _torch_steps()
    trials = {}
    for i, (name, step) in enumerate(candidates.items()):
        progress(0.3 * i / len(candidates), f"PyTorch, {name}")
        timeit.timeit(step, number=TORCH_STEPS)
        trials[name] = min(timeit.repeat(step, number=TORCH_STEPS, repeat=3 if quick else 10)) / TORCH_STEPS
    best = min(trials, key=trials.__getitem__)
    torch_step = candidates[best]
    repeats = 10 if quick else 60
    pairs = []
    for i in range(repeats):
        progress(0.3 + 0.7 * i / repeats, f"against {best}")
        pairs.append(
            (timeit.timeit(ours, number=STEPS) / STEPS, timeit.timeit(torch_step, number=TORCH_STEPS) / TORCH_STEPS)
        )
    ratio = statistics.median(theirs / mine for mine, theirs in pairs)
    mine, theirs = (statistics.median(times) * 1e6 for times in zip(*pairs, strict=True))
    return Result(
        [
            Figure("training step, 1-32-32-1, CPython + numba", f"{mine:.1f} µs"),
            Figure(f"the same in PyTorch eager, one thread ({best})", f"{theirs:.0f} µs"),
            Figure("times faster than PyTorch", f"{ratio:.1f}", f"≥ {TARGET:g}", ratio >= TARGET),
        ],
        {"ratio": ratio, "seconds": pairs, "torch_candidates_seconds": trials, "raced": best},
    )


def _learner_step() -> Step:
    model = Model(Sine.model)
    learner = Learner(model)
    learner.initialization[:] = encode(random_weights(model.tensors, model.parameters, seed=1))
    learner.load()
    learner.set_rate(BETA)
    x, y = learner.x, learner.y
    samples = cycle([(fixed(value), fixed(target)) for value, target in SAMPLES])

    def step() -> object:
        x[0], y[0] = next(samples)
        return learner.step(x, y)

    step()
    return step


def _torch_steps() -> dict[str, Step]:
    try:
        import torch
    except ImportError:
        raise Unavailable("PyTorch is not installed; pip install torch==2.13.0") from None
    torch.set_num_threads(1)
    functional = torch.nn.functional
    samples = cycle([(torch.tensor([[x]]), torch.tensor([[y]])) for x, y in SAMPLES])
    model = Model(Sine.model)
    start = torch.tensor(random_weights(model.tensors, model.parameters, seed=1), dtype=torch.float32)

    def network() -> Any:
        nn = torch.nn
        net = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
        nn.utils.vector_to_parameters(start.clone(), net.parameters())
        return net

    def with_optimizer(**options: bool) -> Step:
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=BETA, **options)

        def step() -> None:
            x, y = next(samples)
            optimizer.zero_grad(set_to_none=True)
            functional.mse_loss(net(x), y).backward()
            optimizer.step()

        return step

    def by_hand(*, foreach: bool) -> Step:
        parameters = list(network().parameters())
        w1, b1, w2, b2, w3, b3 = parameters
        linear, relu = functional.linear, functional.relu

        def step() -> None:
            x, y = next(samples)
            out = linear(relu(linear(relu(linear(x, w1, b1)), w2, b2)), w3, b3)
            gradients = torch.autograd.grad(functional.mse_loss(out, y), parameters)
            with torch.no_grad():
                if foreach:
                    torch._foreach_add_(parameters, gradients, alpha=-BETA)
                else:
                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        parameter.add_(gradient, alpha=-BETA)

        return step

    return {
        "optim.SGD": with_optimizer(),
        "optim.SGD, foreach": with_optimizer(foreach=True),
        "optim.SGD, fused": with_optimizer(fused=True),
        "no_grad update": by_hand(foreach=False),
        "no_grad update, foreach": by_hand(foreach=True),
    }
