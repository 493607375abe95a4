"""The heads, softmax and the losses, against floats; and the learning rate's format."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest

from coordinator.initialization import encode
from tinyreptile import kernels, plan
from tinyreptile.learner import ONE, Learner
from tinyreptile.model import Model

from .networks import FORMATS, NETWORKS, Q10, draw, mean_step

pytestmark = pytest.mark.usefixtures("compiled")


def run_softmax(logits: list[int], carry: int = 16384) -> np.ndarray:
    learner = Learner(Model([["input", 1], ["dense", len(logits)], ["cross_entropy"]]))
    learner._outputs[:] = array("h", logits)
    kernels.softmax(learner._p, learner._a, carry)
    return np.array(learner._outputs) / 32767


def float_softmax(logits: np.ndarray) -> np.ndarray:
    exact = np.exp((logits - logits.max()) / Q10)
    shares: np.ndarray = exact / exact.sum()
    return shares


# Of many classes, a few that are likely: the others are below the last bit, but not all of them together.
TAILS = [
    31 * Q10 - np.where(np.arange(4095) % 1000 == 7, 0, gap * Q10) for gap in (0, 1, 8, 10, 11, 12, 14, 16, 20, 31, 62)
]


@pytest.mark.parametrize("classes", [1, 2, 5, 10, 100, 3000, 4095])
@pytest.mark.parametrize("spread", [0, 100, 1024, 8000, 32767])
def test_softmax_is_the_float_softmax_within_a_thousandth(classes: int, spread: int) -> None:
    rng = np.random.default_rng(classes)
    logits = rng.integers(-spread, spread + 1, classes)
    # A share is rounded to 2^-15, from exponentials and a sum that are off by 1e-4 of themselves.
    exact = float_softmax(logits)
    assert (np.abs(run_softmax(logits.tolist()) - exact) < 4e-4 * exact + 2.0**-14).all()


@pytest.mark.parametrize("logits", [[32767] * 5, [-32767] * 5, [32767, -32767, -32767], [-32767, 32767]])
def test_softmax_of_saturated_logits_is_a_distribution(logits: list[int]) -> None:
    shares = run_softmax(logits)
    assert (shares >= 0).all()
    assert shares.sum() == pytest.approx(1, abs=2.0**-13)


@pytest.mark.parametrize("logits", TAILS)
@pytest.mark.parametrize("carry", [0, 16384, 32767])
def test_however_many_classes_there_are_their_probabilities_sum_to_one(logits: np.ndarray, carry: int) -> None:
    shares = run_softmax(logits.tolist(), carry)
    assert shares.sum() == pytest.approx(1, abs=2e-4)
    exact = float_softmax(logits)
    likely = logits == 31 * Q10
    assert shares[likely].sum() == pytest.approx(exact[likely].sum(), abs=4e-4)


def test_a_probability_below_a_unit_is_met_on_average() -> None:
    logits = np.array([0, *[-11 * Q10] * 4000, -9 * Q10])
    shares = np.mean([run_softmax(logits.tolist(), carry) for carry in range(64, 32768, 128)], axis=0)
    np.testing.assert_allclose(shares, float_softmax(logits), rtol=0.03)


def cross_entropy_of(logits: np.ndarray, label: int) -> tuple[float, np.ndarray]:
    """Loss in nats, and the deltas per unit of error, with a rate of 2^-3."""
    learner = Learner(Model([["input", 1], ["dense", len(logits)], ["cross_entropy"]]))
    learner.set_rate(0.125)  # a unit of delta is one of error
    learner._outputs[:] = array("h", logits.tolist())
    learner.y[0] = label
    loss = kernels.loss(learner._p, learner._a, learner._y) / 65536
    return loss, np.array(learner._outputs) / 32767


@pytest.mark.parametrize("gap", [0, 1, 2, 5, 9, 10, 10.4, 11, 15.9, 16, 17, 22, 31.9, 40, 62.7])
@pytest.mark.parametrize("classes", [2, 5, 100, 4095])
def test_cross_entropy_is_the_float_one_however_unlikely_the_label(classes: int, gap: float) -> None:
    logits = np.random.default_rng(classes).integers(-200, 200, classes) + 31 * Q10
    logits[1] -= round(gap * Q10)
    for label in (0, 1):
        loss, deltas = cross_entropy_of(logits, label)
        exact = float_softmax(logits)
        assert loss == pytest.approx(np.log(np.exp((logits - logits[label]) / Q10).sum()), abs=0.002)
        exact[label] -= 1
        assert (np.abs(deltas - exact) < 4e-4 * np.abs(exact) + 2.0**-14).all()
        assert abs(deltas.sum()) < 2.0**-14


def learner_of_logits(logits: list[int], weights: str) -> Learner:
    """A learner whose sixteen inputs of 32.0 give ``logits``, multiples of 8, whatever their size."""
    learner = Learner(Model([["input", 16], ["dense", len(logits)], ["cross_entropy"]], weights), encoding=weights)
    learner.wire[:] = encode(
        learner.model, np.array([value / 512 for value in logits] * 16 + [0.0] * len(logits)), weights
    )
    learner.receive()
    learner.load()
    return learner


@pytest.mark.parametrize("weights", ["int16", "int8"])
@pytest.mark.parametrize("top", [0, 32, 40, 104, 520])
def test_logits_beyond_the_range_of_activations_are_told_apart(top: int, weights: str) -> None:
    logits = [top, top - 8, top - 16]
    learner = learner_of_logits(logits, weights)
    x = [32 * ONE - 1] * 16
    loss, label = learner.evaluate(x, [1])
    assert label == 0
    assert loss == pytest.approx(8, abs=0.05)
    learner.set_rate(0.001)
    before = learner.weights[:]
    learner.step(x, [0])
    moved = np.frombuffer(learner.weights, np.int8 if weights == "int8" else "<i2").astype(int)
    moved -= np.frombuffer(before, np.int8 if weights == "int8" else "<i2")
    assert abs(moved).max() < 0.001 * 32 * 4096, "what is told apart teaches next to nothing"


def test_the_loss_of_a_sure_and_right_prediction_is_zero_and_leaves_no_delta() -> None:
    loss, deltas = cross_entropy_of(np.array([32767, -32767, -32767]), 0)
    assert loss == 0
    assert not deltas.any()


def test_the_loss_of_a_sure_and_wrong_prediction_is_what_the_logits_differ_by() -> None:
    loss, deltas = cross_entropy_of(np.array([32767, -32767]), 1)
    assert loss == pytest.approx(2 * 32767 / Q10, abs=0.001)
    assert deltas.tolist() == [1, -1]


def test_a_huge_error_saturates_the_delta_but_keeps_its_sign() -> None:
    learner = Learner(Model([["input", 1], ["dense", 40], ["squared_error"]]))
    learner.set_rate(1.0)
    learner._outputs[:] = array("h", [32767, -32767] * 20)
    learner.y[:] = array("h", [-32768, 32767] * 20)
    assert kernels.loss(learner._p, learner._a, learner._y) == 40 * 32767**2 >> 4 + 6
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
