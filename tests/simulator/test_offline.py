from __future__ import annotations

import asyncio

import numpy as np
import pytest

from coordinator.deltas import decode
from coordinator.initialization import random_weights
from simulator.offline import IntegerDevice, Replay, adaptation, evaluate, run_now, take
from simulator.tasks.sine import Sine
from tinyreptile.coding import Coded
from tinyreptile.learner import ONE
from tinyreptile.model import Model
from tinyreptile.streams import QUERY, SUPPORT, Stream, StreamError

pytestmark = pytest.mark.usefixtures("compiled")

TASK = Sine()
MODEL = Model(TASK.model)


def start() -> np.ndarray:
    return random_weights(MODEL, 1)


def test_evaluation_leaves_no_trace_in_the_next_one() -> None:
    device = IntegerDevice(MODEL, beta=0.005, bits=8)
    stream = TASK.unseen_stream(3, 1)
    options = {"steps": 32, "shots": 10, "queries": 20}
    first = evaluate(device, start(), [stream], **options)
    assert evaluate(device, start(), [stream], **options) == first


def replays(device: IntegerDevice, count: int) -> list[Replay]:
    return [Replay.of_unseen(TASK.unseen_stream(i, 1), device.learner, 10, 20) for i in range(count)]


def test_an_adaptation_measures_what_an_evaluation_does() -> None:
    device = IntegerDevice(MODEL, beta=0.005, bits=8)
    unseen = [TASK.unseen_stream(i, 1) for i in range(3)]
    results = evaluate(device, start(), unseen, steps=32, shots=10, queries=20)
    points = adaptation(device, start(), replays(device, 3), [0, 7, 32])
    assert [point["step"] for point in points] == [0, 7, 32]
    assert points[0]["loss"] == np.mean([result["before"] for result in results])
    assert points[2]["loss"] == np.mean([result["after"] for result in results])


def test_looking_on_the_way_changes_no_adaptation() -> None:
    device = IntegerDevice(MODEL, beta=0.005, bits=8)
    held = replays(device, 1)
    often, once = (adaptation(device, start(), held, at) for at in ([0, 3, 11, 25], [25]))
    assert often[-1] == once[0]


def test_a_piece_of_training_is_held_with_no_sample_twice() -> None:
    learner = IntegerDevice(MODEL, beta=0.005, bits=8).learner
    held = Replay.of_training(TASK.train_stream(0, 1), learner, 10, 20)
    samples = []
    for part, count in ((SUPPORT, 10), (QUERY, 20)):
        held.begin(part)
        for _ in range(count):
            take(held, learner.x, learner.y)
            samples.append((learner.x[0], learner.y[0]))
    assert len(set(samples)) == 30


def test_a_delta_says_how_many_bytes_left_the_device() -> None:
    for bits in (16, 8, 4):
        device = IntegerDevice(MODEL, beta=0.005, bits=bits)
        device.load(start(), 1)
        device.learner.step([ONE] * MODEL.inputs, [1])
        device.delta()
        delta = device.learner.delta(bits)
        coded = Coded(delta)
        chunks = [bytearray(size) for size in coded.sizes]
        for index, chunk in enumerate(chunks):
            coded.pack(index, memoryview(chunk))
        packed = bytearray(delta.size)
        delta.pack(0, packed)
        assert decode(MODEL, list(map(bytes, chunks)), bits) == packed
        assert device.sent == sum(map(len, chunks))


class Slow(Stream):
    async def sample(self, x: memoryview, y: object) -> None:
        await asyncio.sleep(0)


def test_a_stream_that_waits_is_refused_offline() -> None:
    learner = IntegerDevice(MODEL, beta=0.005, bits=8).learner
    with pytest.raises(RuntimeError, match="waits for its samples"):
        take(Slow(), learner.x, learner.y)


class Broken(Stream):
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def begin(self, part: str) -> None:
        raise self._error

    async def sample(self, x: memoryview, y: object) -> None:
        raise self._error


@pytest.mark.parametrize("error", [SystemExit("bye"), asyncio.CancelledError("bye"), OSError("bye")])
def test_whatever_a_stream_raises_offline_is_its_own(error: BaseException) -> None:
    learner = IntegerDevice(MODEL, beta=0.005, bits=8).learner
    stream = Broken(error)
    for use in (lambda: take(stream, learner.x, learner.y), lambda: Replay.of_unseen(stream, learner, 1, 1)):
        with pytest.raises(StreamError, match=f"stream Broken: {type(error).__name__}: bye"):
            use()


def test_a_coroutine_that_does_not_wait_gives_its_result() -> None:
    async def answer() -> int:
        return 42

    assert run_now(answer()) == 42
