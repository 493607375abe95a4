"""A piece of training: its loss, and when it has diverged."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

from coordinator.initialization import encode, random_weights
from simulator.offline import run_now
from tinyreptile import episodes
from tinyreptile.learner import ONE, Learner
from tinyreptile.model import Model
from tinyreptile.streams import Stream

pytestmark = pytest.mark.usefixtures("compiled")

HOT = [["input", 2], ["dense", 4, "relu"], ["dense", 2], ["cross_entropy"]]


class Repeated(Stream):
    """The same inputs again and again, with labels in turn from a list."""

    inputs, outputs = 2, 2

    def __init__(self, x: list[int], labels: list[int]) -> None:
        self._x, self._labels, self._at = x, labels, 0

    async def sample(self, x: memoryview, y: array[int]) -> None:
        x[:] = array("h", self._x)
        y[0] = self._labels[self._at % len(self._labels)]
        self._at += 1


def learner_with(spec: list[list[object]], scale: float, beta: float) -> Learner:
    model = Model(spec)
    learner = Learner(model)
    weights = random_weights(model, 1) * scale
    learner.wire[:] = encode(model, weights)
    learner.receive()
    learner.load()
    learner.set_rate(beta)
    return learner


def test_a_step_whose_activations_end_at_32_is_counted_until_the_next_load() -> None:
    learner = learner_with(HOT, 1.0, 0.01)
    learner.step([ONE, ONE], [0])
    assert learner.saturated() == 0
    hot = learner_with(HOT, 11.0, 0.01)
    for steps in (1, 2, 3):
        hot.step([20 * ONE, 20 * ONE], [0])
        assert hot.saturated() == steps
    hot.load()
    assert hot.saturated() == 0


def test_logits_however_large_are_no_saturation() -> None:
    learner = learner_with([["input", 2], ["dense", 2], ["cross_entropy"]], 10.0, 0.0)
    learner.step([30 * ONE, -30 * ONE], [0])
    assert learner.saturated() == 0


class Noise(Stream):
    """Inputs up to 20 and targets up to 3, or labels, that have nothing to do with each other."""

    inputs = 4

    def __init__(self, classes: int) -> None:
        self._rng = np.random.default_rng(1)
        self._classes = classes

    async def sample(self, x: memoryview, y: array[int]) -> None:
        x[:] = array("h", self._rng.integers(-20 * ONE, 20 * ONE, 4).tolist())
        if self._classes:
            y[0] = int(self._rng.integers(self._classes))
        else:
            y[:] = array("h", self._rng.integers(-3 * ONE, 3 * ONE, 2).tolist())


HEADS = {0: [["dense", 2], ["squared_error"]], 3: [["dense", 3], ["cross_entropy"]]}


@pytest.mark.parametrize("beta", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("classes", HEADS)
def test_training_whose_rate_is_far_too_large_diverges(classes: int, beta: float) -> None:
    learner = learner_with([["input", 4], ["dense", 8, "relu"], *HEADS[classes]], 1.0, beta)
    with pytest.raises(episodes.Diverged, match="a smaller beta"):
        run_now(episodes.train(learner, Noise(classes), 128))


@pytest.mark.parametrize("classes", HEADS)
def test_training_with_a_small_rate_does_not_diverge(classes: int) -> None:
    learner = learner_with([["input", 4], ["dense", 8, "relu"], *HEADS[classes]], 1.0, 0.001)
    for _ in range(10):
        run_now(episodes.train(learner, Noise(classes), 64))


def test_a_loss_that_rises_within_the_formats_is_no_divergence() -> None:
    learner = learner_with(HOT, 1.0, 0.0)
    loss = run_now(episodes.train(learner, Repeated([5 * ONE, ONE], [0] * 8 + [1] * 8), 16))
    assert np.isfinite(loss)


def test_saturation_without_a_loss_is_no_divergence() -> None:
    learner = learner_with(HOT, 11.0, 0.05)
    run_now(episodes.train(learner, Repeated([20 * ONE, 20 * ONE], [0]), 16))  # learns that it is always label 0
    run_now(episodes.train(learner, Repeated([20 * ONE, 20 * ONE], [0]), 16))
    assert learner.saturated() == 32
