"""How old versions are that updates were learned from: a real swarm on Mosquitto against the study's simulated clock.

100 devices, 50 at work at once, with the learning settings that the study has for so many, and a device's time for a
piece of work log-normal around half a second. On one side everything is real: coordinator with its store, broker, and
the clients of a swarm that take their time. On the other `simulator.algorithms.asynchronous` draws the same times.
Staleness is the mean over all updates but the first thousand; the loss is that of 50 unseen devices after adaptation,
from the versions that the run's journal leads to.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.config import BrokerConfig, Config, load_config
from coordinator.initialization import random_weights
from coordinator.replay import replay
from coordinator.rules import MetaUpdate, Weights, discount, schedule
from coordinator.service import Coordinator
from coordinator.store import Store
from simulator.algorithms.asynchronous import Asynchronous
from simulator.algorithms.fleet import Delays, Fleet
from simulator.conditions import Conditions
from simulator.offline import IntegerDevice, evaluate
from simulator.study.experiments import EXPERIMENTS, OLD_ONES_LESS
from simulator.swarm import Swarm, SwarmSpec
from simulator.tasks.sine import Sine
from tinyreptile.model import Model

from .report import Figure, Progress, Result
from .service import START_SECONDS, broker, child, receive

TARGET = 1.15
DEVICES, IN_FLIGHT = 100, 50
THINK = 0.5  # seconds, a mean
SIGMA = 0.5  # of the logarithm: what `Conditions` have
UNSEEN = 50
SEED = 1
STUDY = EXPERIMENTS["sine"]
LEARNING = {
    **{name: STUDY.learning[name] for name in ("steps", "alpha_end")},
    **{name: STUDY.device[name] for name in ("beta", "bits")},
    **OLD_ONES_LESS,
    "schedule": "cooldown",
    "in_flight": IN_FLIGHT,
}
ROUNDS = round(1.5 * STUDY.updates)  # over which alpha falls


def run(quick: bool, progress: Progress) -> Result:
    """Measure."""
    looks = (300, 1000) if quick else (1000, 3000, 10_000)
    progress(0.0, "the simulated clock")
    ideal = offline(looks)
    progress(0.2, "the swarm")
    with tempfile.TemporaryDirectory() as folder, broker(Path(folder)) as port:
        real = service(looks, port, Path(folder))
    ratio = real["staleness"] / ideal["staleness"]
    losses = [" / ".join(f"{loss:.2f}" for loss in side["losses"]) for side in (real, ideal)]
    at = " / ".join(f"{look:,}" for look in looks)
    return Result(
        [
            Figure("mean staleness: swarm / simulated clock", f"{real['staleness']:.1f} / {ideal['staleness']:.1f}"),
            Figure("their ratio", f"{ratio:.2f}", f"≤ {TARGET:g}", ratio <= TARGET),
            Figure(f"swarm: loss at {at} updates", losses[0]),
            Figure("simulated clock: the same", losses[1]),
            Figure("swarm: updates/s", f"{real['rate']:.0f}"),
        ],
        {"service": real, "offline": ideal, "ratio": ratio, "looks": looks},
    )


def _skipped(looks: tuple[int, ...]) -> int:
    """Updates at the beginning that do not count: staleness has to grow to what it is."""
    return min(1000, looks[-1] // 2)


def loss(weights: Weights) -> float:
    """Mean over unseen devices, after adaptation."""
    device = IntegerDevice(Model(Sine.model), beta=STUDY.device["beta"], bits=STUDY.device["bits"])
    task, setting = Sine(), STUDY.evaluation
    streams = [task.unseen_stream(i, SEED) for i in range(UNSEEN)]
    sizes = {name: setting[name] for name in ("steps", "shots", "queries")}
    return statistics.fmean(result["after"] for result in evaluate(device, weights, streams, **sizes))


# The simulated clock


def offline(looks: tuple[int, ...], think: float = THINK, in_flight: int = IN_FLIGHT) -> dict[str, Any]:
    """Mean staleness, and the losses at ``looks``."""
    model = Model(Sine.model)
    device = IntegerDevice(model, beta=STUDY.device["beta"], bits=STUDY.device["bits"])
    fleet = Fleet(Sine(), device, SEED, Delays(median=think * math.exp(-SIGMA * SIGMA / 2), sigma=SIGMA))
    learning = {name: LEARNING[name] for name in ("steps", "alpha", "alpha_end", "schedule", "staleness")}
    algorithm = Asynchronous(fleet, learning | {"in_flight": in_flight}, ROUNDS)
    taus: list[int] = []
    move = algorithm.move

    def noted(
        phi: Weights, deltas: Sequence[Weights | None], devices: Sequence[int], number: int, tau: int = 0
    ) -> None:
        taus.append(tau)
        move(phi, deltas, devices, number, tau)

    algorithm.move = noted  # type: ignore[method-assign]
    phi = random_weights(model, SEED)
    losses = []
    for number in range(1, looks[-1] + 1):
        algorithm.round(phi, number)
        if number in looks:
            losses.append(loss(phi))
    return {"staleness": float(np.mean(taus[_skipped(looks) :])), "losses": losses}


# The service


def service(looks: tuple[int, ...], port: int, folder: Path) -> dict[str, Any]:
    """Mean staleness, the losses at ``looks``, and updates a second."""
    config = _config(port, folder)
    with child(_devices, port) as devices, child(_coordinate, config, looks[-1]) as coordinator:
        rate = receive(coordinator, START_SECONDS + 60 + looks[-1] / 10)
        devices.send("stop")
    store = Store(config.store_location(), config.run.name, create=False)
    try:
        taus = [row.tau for row in store.accepted_since(_skipped(looks))]
        model = Model(Sine.model)
        losses = []
        for look in looks:
            state = replay(store, model, MetaUpdate(schedule("constant", 1, 1), discount("constant")), look)
            assert state is not None
            losses.append(loss(state.weights))
    finally:
        store.close()
    return {"staleness": float(np.mean(taus)), "losses": losses, "rate": rate}


def _config(port: int, folder: Path) -> Config:
    run = {"name": "staleness", "rounds": ROUNDS, "seed": SEED, "store": str(folder / "staleness.sqlite")}
    return load_config(
        overrides={
            "run": run,
            "broker": {"port": port},
            "learning": {"mode": "asynchronous", **LEARNING},
            "evaluation": {"every": 0},
            "guards": {"clip": 0.0, "refuse": 0.0},  # which the simulated clock does not have
            "journal": {"history": 0, "rows": 0},
        }
    )


def _coordinate(config: Config, updates: int, pipe: Connection) -> None:
    async def serve() -> None:
        coordinator = Coordinator(config)
        run = coordinator.run_state
        serving = asyncio.create_task(coordinator.run())
        loop = asyncio.get_running_loop()
        began = before = 0.0
        while run.updates < updates and not serving.done():
            await asyncio.sleep(0.02)
            if not began and run.updates:
                began, before = loop.time(), run.updates
        rate = (run.updates - before) / (loop.time() - began)
        coordinator.stop()
        await serving
        pipe.send(rate)

    asyncio.run(serve())


def _devices(port: int, pipe: Connection) -> None:
    async def live() -> None:
        conditions = Conditions(think=THINK)
        swarm = Swarm(SwarmSpec("staleness", BrokerConfig(port=port), "sine", DEVICES, conditions=conditions))
        stop = asyncio.Event()
        living = asyncio.create_task(swarm.run(stop))
        stopped = asyncio.create_task(asyncio.to_thread(pipe.recv))
        await asyncio.wait([living, stopped], return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        await living

    asyncio.run(live())
