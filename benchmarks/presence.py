"""What meta-learning is worth on real data: presence on unseen days, learned initialization against a random start.

Serial, all training devices, the task's own settings. The learned initialization adapts with the task's rate, the
random start with whichever rate is best for it on these very devices, which is generous to it. Both get the same
samples and steps.
"""

from __future__ import annotations

import statistics

import numpy as np

from coordinator.evaluation import EvaluationRound
from coordinator.initialization import random_weights
from coordinator.rules import Weights
from simulator.algorithms.fleet import Fleet
from simulator.algorithms.tinyreptile import TinyReptile
from simulator.offline import IntegerDevice, evaluate
from simulator.tasks import TaskError
from simulator.tasks.presence import Presence
from tinyreptile.model import Model

from .report import Figure, Progress, Result, Unavailable

BUDGETS = ((4, 8), (10, 20), (20, 40))  # support samples, steps
RATES = (0.02, 0.05, 0.1, 0.2, 0.4)
QUERIES = 100


def accuracy(task: Presence, weights: Weights, beta: float, shots: int, steps: int) -> tuple[float, float]:
    """Balanced accuracy in percent over all unseen devices, before and after adaptation."""
    unseen = [task.unseen_stream(index, 1) for index in range(task.evaluators or 0)]
    device = IntegerDevice(Model(task.model), beta=beta, bits=8)
    results = evaluate(device, weights, unseen, steps=steps, shots=shots, queries=QUERIES)
    summary = EvaluationRound(0, 0, results=results).summary()
    return 100 * summary["balanced_accuracy_before"], 100 * summary["balanced_accuracy_after"]


def learn(task: Presence, seed: int, rounds: int) -> Weights:
    """An initialization after ``rounds`` rounds."""
    settings = task.settings["learning"]
    model = Model(task.model)
    device = IntegerDevice(model, beta=settings["beta"], bits=settings["bits"])
    weights = random_weights(model, seed)
    learning = {name: settings[name] for name in ("steps", "alpha", "alpha_end")}
    algorithm = TinyReptile(Fleet(task, device, seed), learning, rounds)
    for number in range(1, rounds + 1):
        algorithm.round(weights, number)
    return weights


def run(quick: bool, progress: Progress) -> Result:
    """Measure."""
    try:
        task = Presence(None)
    except TaskError as error:
        raise Unavailable(str(error)) from None
    rounds, seeds, starts = (1000, 2, 2) if quick else (5000, 5, 10)
    model = Model(task.model)
    beta = task.settings["learning"]["beta"]
    learned = []
    for seed in range(1, seeds + 1):
        progress((seed - 1) / (seeds + len(BUDGETS)), f"{rounds:,} rounds, seed {seed} of {seeds}")
        learned.append(learn(task, seed, rounds))
    figures, raw = [], {}
    for number, (shots, steps) in enumerate(BUDGETS):
        progress((seeds + number) / (seeds + len(BUDGETS)), f"{shots} samples, {steps} steps")
        scores = [accuracy(task, weights, beta, shots, steps) for weights in learned]
        by_rate = []
        for rate in RATES:
            randoms = [random_weights(model, seed) for seed in range(1, starts + 1)]
            by_rate.append([accuracy(task, weights, rate, shots, steps)[1] for weights in randoms])
        best = max(by_rate, key=statistics.fmean)
        before, after = np.mean(scores, axis=0)
        what = f"presence, {shots} samples, {steps} steps"
        figures += [
            Figure(f"{what}: balanced accuracy, random start", f"{statistics.fmean(best):.1f} %"),
            Figure("learned, before / after adaptation", f"{before:.1f} / {after:.1f} %"),
        ]
        raw[f"{shots}/{steps}"] = {"learned": scores, "random": dict(zip(RATES, by_rate, strict=True))}
    return Result(figures, raw)
