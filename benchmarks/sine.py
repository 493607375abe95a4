"""What integers cost: the serial sine study with int16 learners and quantized deltas, and with a float32 twin.

The three learn from the same first initialization and the same samples: 32 one-sample steps at beta 0.005 a round,
alpha from 0.3 to 0 linearly, amplitude 0.1 to 5, phase 0 to pi, inputs in [-5, 5]. Each is then adapted to 500 unseen
sines by 32 one-sample steps over 10 shots. Figures are means over the seeds, outliers included.
"""

from __future__ import annotations

import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.util import find_spec

from coordinator.initialization import random_weights
from simulator.algorithms.fleet import Fleet
from simulator.algorithms.tinyreptile import TinyReptile
from simulator.offline import Device, IntegerDevice, evaluate
from simulator.study.float_twin import TwinDevice
from simulator.tasks.sine import Sine
from tinyreptile.model import Model

from .report import Figure, Progress, Result, Unavailable

BETA, STEPS, SHOTS, QUERIES, UNSEEN = 0.005, 32, 10, 100, 500
SEEDS = (1, 2, 3)
KINDS = ("int16, 16-bit deltas", "int16, 4-bit deltas", "float32")


def study(kind: str, seed: int, rounds: int) -> float:
    """Mean squared error on the unseen sines after ``rounds`` rounds and adaptation."""
    task = Sine()
    model = Model(task.model)
    device: Device
    if kind == "float32":
        device = TwinDevice(model, beta=BETA)
    else:
        device = IntegerDevice(model, beta=BETA, bits=4 if "4-bit" in kind else 16)
    weights = random_weights(model, seed)
    algorithm = TinyReptile(Fleet(task, device, seed), {"steps": STEPS, "alpha": 0.3, "alpha_end": 0.0}, rounds)
    for number in range(1, rounds + 1):
        algorithm.round(weights, number)
    unseen = [task.unseen_stream(i, seed) for i in range(UNSEEN)]
    results = evaluate(device, weights, unseen, steps=STEPS, shots=SHOTS, queries=QUERIES)
    return statistics.fmean(result["after"] for result in results)


def run(quick: bool, progress: Progress) -> Result:
    """Measure."""
    if find_spec("torch") is None:
        raise Unavailable("the float32 twin needs PyTorch: pip install -r requirements-bench.txt")
    rounds = 2000 if quick else 20_000
    seeds = SEEDS[:1] if quick else SEEDS
    errors: dict[str, dict[int, float]] = {kind: {} for kind in KINDS}
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        # The float twin takes longest, so it comes first.
        jobs = {pool.submit(study, kind, seed, rounds): (kind, seed) for kind in KINDS[::-1] for seed in seeds}
        progress(0.0, f"{len(jobs)} runs of {rounds:,} rounds")
        for done, job in enumerate(as_completed(jobs), start=1):
            kind, seed = jobs[job]
            errors[kind][seed] = job.result()
            progress(done / len(jobs), f"{done} of {len(jobs)} runs of {rounds:,} rounds")
    wide, narrow, floats = (statistics.fmean(errors[kind].values()) for kind in KINDS)
    where = f"sine, {rounds:,} rounds, {len(seeds)} seeds"
    return Result(
        [
            Figure(f"{where}: MSE, {KINDS[0]}", f"{wide:.3f}", "≤ 0.15", wide <= 0.15),
            Figure(f"MSE, {KINDS[2]} twin, same samples", f"{floats:.3f}"),
            Figure("int16 / float32", f"{wide / floats:.2f}", "≤ 1.2", wide / floats <= 1.2),
            Figure(f"MSE, {KINDS[1]}", f"{narrow:.3f}"),
            Figure("4-bit / 16-bit deltas", f"{narrow / wide:.2f}", "≤ 1.25", narrow / wide <= 1.25),
        ],
        {"mse": errors, "rounds": rounds},
    )
