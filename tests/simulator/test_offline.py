from __future__ import annotations

import asyncio
from itertools import repeat

import numpy as np
import pytest

from coordinator.initialization import random_weights
from coordinator.rules import MetaUpdate, discount, schedule
from simulator.offline import IntegerDevice, evaluate, meta_train, run_now, take
from simulator.tasks.sine import Sine
from tinyreptile.model import Model
from tinyreptile.streams import Stream

TASK = Sine()
MODEL = Model(TASK.model)


def meta() -> MetaUpdate:
    return MetaUpdate(schedule("linear", 0.3, 0.0), discount("constant"))


def start() -> np.ndarray:
    return random_weights(MODEL.tensors, MODEL.parameters, 1)


def learned(rounds: int, **options: object) -> np.ndarray:
    device = IntegerDevice(MODEL, beta=0.005, bits=16)
    return meta_train(device, start(), repeat(TASK.train_stream(0, 1)), rounds, meta(), steps=32, **options)  # type: ignore[arg-type]


def loss_after(weights: np.ndarray) -> float:
    unseen = [TASK.unseen_stream(i, 1) for i in range(20)]
    results = evaluate(IntegerDevice(MODEL, beta=0.005, bits=16), weights, unseen, steps=32, shots=10, queries=30)
    return float(np.mean([result["after"] for result in results]))


def test_meta_training_makes_unseen_sines_easier_to_adapt_to() -> None:
    assert loss_after(learned(600)) < 0.5 * loss_after(start())


def test_the_same_seeds_learn_the_same_bits() -> None:
    assert np.array_equal(learned(20), learned(20))


def test_the_weights_given_are_left_as_they_are() -> None:
    weights = start()
    before = weights.copy()
    meta_train(IntegerDevice(MODEL, beta=0.005, bits=8), weights, repeat(TASK.train_stream(0, 1)), 3, meta(), steps=4)
    assert np.array_equal(weights, before)


def test_every_round_is_told_with_its_loss() -> None:
    told: list[tuple[int, float]] = []
    learned(5, on_round=lambda number, loss, weights: told.append((number, loss)))
    assert [number for number, _ in told] == [1, 2, 3, 4, 5]
    assert all(loss > 0 for _, loss in told)


def test_training_ends_with_the_streams() -> None:
    told: list[int] = []
    device = IntegerDevice(MODEL, beta=0.005, bits=8)
    streams = [TASK.train_stream(i, 1) for i in range(3)]
    meta_train(
        device, start(), streams, 10, meta(), steps=4, on_round=lambda number, loss, weights: told.append(number)
    )
    assert told == [1, 2, 3]


def test_evaluation_leaves_no_trace_in_the_next_one() -> None:
    device = IntegerDevice(MODEL, beta=0.005, bits=8)
    stream = TASK.unseen_stream(3, 1)
    options = {"steps": 32, "shots": 10, "queries": 20}
    first = evaluate(device, start(), [stream], **options)
    assert evaluate(device, start(), [stream], **options) == first


class Slow(Stream):
    async def sample(self, x: memoryview, y: object) -> None:
        await asyncio.sleep(0)


def test_a_stream_that_waits_is_refused_offline() -> None:
    learner = IntegerDevice(MODEL, beta=0.005, bits=8).learner
    with pytest.raises(RuntimeError, match="waits for its samples"):
        take(Slow(), learner.x, learner.y)


def test_a_coroutine_that_does_not_wait_gives_its_result() -> None:
    async def answer() -> int:
        return 42

    assert run_now(answer()) == 42
