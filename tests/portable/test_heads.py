"""The heads, softmax and the losses, against floats; and the learning rate's format."""

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np
import pytest

from tinyreptile import kernels, plan
from tinyreptile.learner import Learner
from tinyreptile.model import Model

from .networks import FORMATS, NETWORKS, Q10, draw, mean_step


def run_softmax(logits: list[int]) -> np.ndarray:
    learner = Learner(Model([["input", 1], ["dense", len(logits)], ["cross_entropy"]]))
    learner._outputs[:] = array("h", logits)
    kernels.softmax(learner._p, learner._a)
    return np.array(learner._outputs) / 32767


@pytest.mark.parametrize("classes", [1, 2, 5, 10, 100, 4095])
@pytest.mark.parametrize("spread", [100, 1024, 8000, 32767])
def test_softmax_is_the_float_softmax_within_a_thousandth(classes: int, spread: int) -> None:
    rng = np.random.default_rng(classes)
    logits = rng.integers(-spread, spread + 1, classes)
    exact = np.exp((logits - logits.max()) / Q10)
    exact /= exact.sum()
    # A share is floored to 2^-15 after exponentials of 15 bits, each off by 1e-4 of the largest or a unit.
    tolerance = 4e-4 + 2.0**-15
    assert np.abs(run_softmax(logits.tolist()) - exact).max() < tolerance


@pytest.mark.parametrize("logits", [[32767] * 5, [-32767] * 5, [32767, -32767, -32767], [-32767, 32767]])
def test_softmax_of_saturated_logits_is_a_distribution(logits: list[int]) -> None:
    shares = run_softmax(logits)
    assert (shares >= 0).all()
    assert shares.sum() == pytest.approx(1, abs=len(logits) * 2.0**-14)


def cross_entropy_of(probability: int) -> float:
    """Loss in nats for the label's probability in units of 2^-15."""
    learner = Learner(Model([["input", 1], ["dense", 2], ["cross_entropy"]]))
    learner._outputs[0] = probability
    learner.y[0] = 0
    return kernels.loss(learner._p, learner._a, learner._y) / 65536


@pytest.mark.parametrize("probability", [1, 2, 3, 10, 100, 1000, 16383, 16384, 20000, 32766, 32767])
def test_cross_entropy_is_the_logarithm_of_the_labels_probability(probability: int) -> None:
    # 12 bits of a binary logarithm, each squaring floored at 14.
    assert cross_entropy_of(probability) == pytest.approx(-math.log(probability / 32768), abs=0.002)


def test_cross_entropy_of_an_impossible_label_saturates() -> None:
    assert cross_entropy_of(0) == cross_entropy_of(1) == pytest.approx(10.4, abs=0.01)


def test_a_huge_error_saturates_the_loss_and_the_delta_but_keeps_its_sign() -> None:
    learner = Learner(Model([["input", 1], ["dense", 40], ["squared_error"]]))
    learner.set_rate(1.0)
    learner._outputs[:] = array("h", [32767, -32767] * 20)
    learner.y[:] = array("h", [-32768, 32767] * 20)
    assert kernels.loss(learner._p, learner._a, learner._y) == (1 << 30) - 1
    assert list(learner._outputs[:2]) == [32767, -32767]


@pytest.mark.parametrize(
    ("spec", "per_unit"),
    [
        ([["input", 1], ["dense", 1], ["squared_error"]], 512),
        ([["input", 1], ["dense", 3], ["squared_error"]], 512 / 3),
        ([["input", 1], ["dense", 5], ["cross_entropy"]], 8),
    ],
)
def test_a_learning_rate_keeps_fifteen_bits(spec: list[list[Any]], per_unit: float) -> None:
    learner = Learner(Model(spec))
    for exponent in range(-500, 1):
        beta = 10 ** (exponent / 100)
        learner.set_rate(beta)
        stored = learner._plan[plan.RATE] / 2 ** learner._plan[plan.RATE_SHIFT]
        assert stored == pytest.approx(beta * per_unit, rel=2.0**-14.9), beta


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_learning_rate_of_zero_changes_nothing(name: str, weights: str) -> None:
    assert not mean_step(draw(NETWORKS[name], 0, weights), 0.0, draws=16).any()
