"""Convolutions, 8-bit weights and sparse deltas over a real broker, with MicroPython among the devices."""

from __future__ import annotations

import asyncio
import random
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.initialization import decode, encode
from coordinator.observer import fetch
from coordinator.service import Coordinator
from simulator.micropython import micropython_device
from tests.environment import Mosquitto, need_program
from tests.fleet import finish, run_config
from tinyreptile.client import Client
from tinyreptile.learner import ONE, Learner
from tinyreptile.model import Model
from tinyreptile.streams import Stream

pytestmark = pytest.mark.usefixtures("compiled")

SIDE = 6
MODEL: list[list[Any]] = [
    ["input", SIDE, SIDE, 1],
    ["conv2d", 8, 3, 1, 1, "relu"],
    ["depthwise2d", 3, 2, 1, "relu"],
    ["conv2d", 8, 1, 1, 0, "relu"],
    ["flatten"],
    ["dense", 2],
    ["cross_entropy"],
]
ROUNDS = 80


class Bars(Stream):
    """A bar somewhere in a noisy image: does it lie or stand?"""

    inputs = SIDE * SIDE
    outputs = 2

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    async def sample(self, x: Any, y: Any) -> None:
        label, place = self._random.randrange(2), self._random.randrange(SIDE)
        for row in range(SIDE):
            for column in range(SIDE):
                ink = ONE if (row if label == 0 else column) == place else self._random.randrange(ONE // 4)
                x[row * SIDE + column] = ink
        y[0] = label


async def write_rows(path: Path) -> None:
    stream, x, y = Bars(99), array("h", [0] * Bars.inputs), array("h", [0])
    with path.open("w") as file:
        for _ in range(300):
            await stream.sample(x, y)
            file.write(",".join([*(repr(value / ONE) for value in x), str(y[0])]) + "\n")


@pytest.mark.parametrize(
    ("weights", "encoding", "bits", "top"),
    [("int8", "int8", 4, 1.0), ("int8", "int8", 8, 0.1), ("int16", "int8", 4, 0.25), ("int16", "int16", 16, 1.0)],
)
async def test_a_fleet_learns_with_convolutions_in_every_format(
    broker: Mosquitto, tmp_path: Path, weights: str, encoding: str, bits: int, top: float
) -> None:
    config = run_config(
        broker,
        tmp_path,
        run={"model": MODEL, "weights": weights, "rounds": ROUNDS},
        learning={"steps": 32, "beta": 0.05, "alpha": 0.5, "bits": bits, "top": top, "encoding": encoding},
        evaluation={"every": 0, "steps": 8, "shots": 8, "queries": 50},
    )
    await write_rows(tmp_path / "rows.csv")
    # Where the kernels have never been compiled, that takes longer than a deadline, and here it would stop everybody.
    learner = Learner(Model(MODEL, weights), encoding=encoding)
    learner.step(learner.x, learner.y)
    learner.delta(bits, 1 if top < 1 else None).pack(0, bytearray(2))
    settings = {
        "id": "micropython",
        "run": config.run.name,
        "host": config.broker.host,
        "port": config.broker.port,
        "weights": weights,
        "stream": {
            "kind": "rows",
            "path": str(tmp_path / "rows.csv"),
            "inputs": Bars.inputs,
            "outputs": 2,
            "labels": True,
        },
    }
    coordinator = Coordinator(config)
    losses = []
    fold = coordinator.run_state.take_update

    def recorded(*arguments: Any) -> None:
        fold(*arguments)
        losses.append(coordinator.run_state.losses[-1] if coordinator.run_state.losses else np.nan)

    coordinator.run_state.take_update = recorded  # type: ignore[method-assign]
    devices = [
        Client(f"d{i}", config.run.name, Bars(i), host=config.broker.host, port=config.broker.port) for i in range(2)
    ]
    async with micropython_device(need_program("micropython"), tmp_path, settings):
        running = [asyncio.create_task(device.run()) for device in devices]
        try:
            status = await finish(coordinator)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
    run = coordinator.run_state
    assert status["updates"] == ROUNDS
    assert status["refusals"] == {}
    accepted = {name: device.accepted for name, device in run.registry.devices.items()}
    assert all(accepted.get(name) for name in ("d0", "d1", "micropython")), (
        accepted,
        (tmp_path / "micropython.log").read_text(),
    )
    assert np.nanmean(losses[-20:]) < 0.5 * np.log(2)
    model, _, published = await fetch(config)
    assert (model.spec, model.weights) == (MODEL, weights)
    assert np.array_equal(published, decode(run.model, encode(run.model, run.weights, encoding), encoding))
