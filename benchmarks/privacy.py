"""What private updates cost: the error of the sine task against epsilon, with the noise that each epsilon takes.

A fleet of 20,000 devices sends one update each. A device learns from 128 samples of its sine at beta 0.005, bounds its
change and adds its noise; 400 such changes are averaged into one version, 50 times, at a constant alpha of 1: few and
large steps, for noise adds up over the versions and is averaged within one. Then the initialization is adapted to 200
unseen sines by 32 one-sample steps on 10 shots.
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed

from coordinator.accounting import DELTA, epsilon_of, rho_of
from coordinator.errors import CoordinatorError
from coordinator.initialization import random_weights
from simulator.algorithms.fleet import Fleet
from simulator.algorithms.synchronous import Synchronous
from simulator.offline import IntegerDevice, evaluate
from simulator.tasks.sine import Sine
from tinyreptile.model import Model
from tinyreptile.privacy import Privacy

from .report import Figure, Progress, Result, Unavailable

BETA, BITS, STEPS, ALPHA, CLIP = 0.005, 8, 128, 1.0, 0.5
VERSIONS, BATCH = 50, 400
SHOTS, QUERIES, UNSEEN, ADAPTATION = 10, 50, 200, 32
NOISES = (None, 0.25, 0.5, 1.0, 2.0)  # None: plain updates, neither bound nor noise
SEED = 1


def study(noise: float | None, versions: int) -> tuple[float, float]:
    """Mean squared errors on unseen sines after adaptation: of the first initialization, and of the last."""
    task = Sine()
    model = Model(task.model)
    privacy = None if noise is None else Privacy(CLIP, noise, source=random.Random(SEED).randbytes)
    device = IntegerDevice(model, beta=BETA, bits=BITS, privacy=privacy)
    weights = random_weights(model, SEED)
    unseen = [task.unseen_stream(i, SEED) for i in range(UNSEEN)]
    errors = []
    settings = {"steps": STEPS, "alpha": ALPHA, "alpha_end": ALPHA, "meta_batch": BATCH}
    algorithm = Synchronous(Fleet(task, device, SEED), settings, versions)
    for number in range(versions + 1):
        if number:
            algorithm.round(weights, number)
        if number in (0, versions):
            results = evaluate(device, weights, unseen, steps=ADAPTATION, shots=SHOTS, queries=QUERIES)
            errors.append(statistics.fmean(result["after"] for result in results))
    return errors[0], errors[-1]


def run(quick: bool, progress: Progress) -> Result:
    """Measure."""
    versions = 5 if quick else VERSIONS
    errors = {}
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {pool.submit(study, noise, versions): noise for noise in NOISES}
        for done, job in enumerate(as_completed(jobs), start=1):
            errors[jobs[job]] = job.result()
            progress(done / len(jobs), f"{done} of {len(jobs)} runs of {versions * BATCH:,} updates")
    first, plain = errors[None]
    where = f"sine, {versions * BATCH:,} devices, one update each"
    figures = [
        Figure(f"{where}: MSE before learning", f"{first:.2f}"),
        Figure("MSE with plain updates", f"{plain:.2f}"),
    ]
    raw = {"plain": plain, "first": first}
    for noise in NOISES[1:]:
        try:
            epsilon = epsilon_of(rho_of(noise))
        except CoordinatorError as error:
            raise Unavailable(str(error)) from None
        figures.append(
            Figure(f"MSE with noise {noise:g}, epsilon {epsilon:.1f} at delta {DELTA:g}", f"{errors[noise][1]:.2f}")
        )
        raw[str(noise)] = errors[noise][1]
    return Result(figures, raw)
