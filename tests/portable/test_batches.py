"""Mini-batches: all samples of one see the same weights, and `BatchLearner` learns from stored samples."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

from tinyreptile import kernels, kernels8
from tinyreptile import plan as fields
from tinyreptile.batch import BatchLearner, keep_weights
from tinyreptile.learner import Learner
from tinyreptile.model import Model
from tinyreptile.portable import view8, view16

from .float_bounds import can_be_told, error_bounds
from .float_twin import flat
from .networks import DRAWS, FORMATS, LIMITS, NETWORKS, Drawn, begin_rounding, cells_of, draw

weights_of = pytest.mark.parametrize("weights", FORMATS)
BETA = 0.02


@weights_of
@pytest.mark.parametrize("back", [0, fields.BEHIND_RELU, fields.LINEAR])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (5, 1), (1, 6), (7, 9), (33, 40)])
def test_a_convolution_of_one_cell_gives_a_dense_layers_bits(
    inputs: int, outputs: int, back: int, weights: str
) -> None:
    module, view = (kernels, view16) if weights == "int16" else (kernels8, view8)
    model = Model([["input", inputs], ["dense", outputs], ["squared_error"]], weights)
    rng = np.random.default_rng(inputs)
    for span in (2000, 32767):
        learner = Learner(model, encoding=weights)
        if weights == "int8":
            model.scale(learner._plan, rng.integers(4, 13, 2).tolist())
        learner._plan[fields.HEADER + fields.BACK] = back
        activations = rng.integers(-span, span + 1, model.activations).astype(np.int16)
        activations[:inputs] *= rng.integers(0, 2, inputs, np.int16)
        limit = LIMITS[weights]
        start = rng.integers(-limit, limit + 1, model.parameters).astype(np.int8 if weights == "int8" else "<i2")
        results = []
        for kind in ("dense", "convolution"):
            learner.seed(span)
            w = bytearray(start.tobytes())
            learner._activations[:] = array("h", activations.tolist())
            if kind == "dense":
                module.dense_backward(learner._p, fields.HEADER, view(w), learner._a)
            else:
                module.convolution_backward(learner._p, fields.HEADER, view(w), view(w), learner._a, learner._s)
            results.append((bytes(w), bytes(learner._activations), learner._plan[fields.RANDOM]))
        assert results[0] == results[1]
        assert results[0][0] != start.tobytes() or not activations[:inputs].any()


def batch_step(learner: Learner, samples: list[Drawn], number: int | None = None) -> bytes:
    """The updates that the samples make of the learner's weights, which stay; as draw ``number`` of the rounding."""
    updated = bytearray(learner.weights)
    u = (view8 if learner.model.weights == "int8" else view16)(updated)
    keep_weights(learner._plan)
    for i, sample in enumerate(samples):
        if number is not None:
            begin_rounding(learner, (number + 85 * i) % DRAWS)
        learner.x[:] = array("h", sample.x.tolist())
        learner.y[:] = array("h", sample.y.tolist())
        learner._kernels.step(learner._p, learner._w, u, learner._a, learner._s, learner._y)
    return bytes(updated)


@weights_of
@pytest.mark.parametrize("name", NETWORKS)
def test_the_samples_of_a_batch_leave_the_weights_as_they_are(name: str, weights: str) -> None:
    drawn = draw(NETWORKS[name], 2, weights)
    learner = drawn.learner()
    learner.set_rate(0.5)
    updated = batch_step(learner, [drawn])
    assert bytes(learner.weights) == bytes(learner.initialization)
    assert updated != learner.weights


@weights_of
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("compiled")
def test_a_batch_of_one_sample_gives_the_bits_of_a_step(name: str, weights: str) -> None:
    drawn = draw(NETWORKS[name], 3, weights)
    learner = drawn.learner()
    learner.set_rate(0.1)
    plan = array("i", learner._plan)
    learner.seed(99)
    updated = batch_step(learner, [drawn])
    learner._plan[:] = plan
    learner.seed(99)
    learner.step(learner.x, learner.y)
    assert learner.weights == updated


@weights_of
@pytest.mark.parametrize("name", ["one hidden layer", "two classes", "averaged", "depthwise, stride 2", "series"])
def test_a_batchs_mean_step_is_the_mean_of_its_samples_steps(name: str, weights: str) -> None:
    for seed in range(0, 900, 3):
        samples = [draw(NETWORKS[name], seed + i, weights) for i in range(3)]
        drawn = samples[0]
        bounds, wanted = np.zeros(drawn.model.parameters), np.zeros(drawn.model.parameters)
        clearances = []
        for sample in samples:
            sample.cells, sample.fractions = drawn.cells, drawn.fractions
            twin, x, y = sample.twin()
            bound, clearance = error_bounds(sample, twin, x, y, BETA / 3)
            bounds += bound
            wanted -= BETA / 3 * flat(twin.gradient(x, y))
            clearances.append(clearance)
        if min(clearances) > 0 and can_be_told(drawn, wanted, bounds):
            break
    else:
        pytest.fail("no samples of these could be told from rounding")
    learner = drawn.learner()
    learner.set_rate(BETA / 3)
    total = np.zeros(drawn.model.parameters)
    for number in range(DRAWS):
        updated = batch_step(learner, samples, number)
        total += np.frombuffer(updated, np.int8 if weights == "int8" else "<i2") - cells_of(learner)
    assert (np.abs(total / DRAWS * drawn.units - wanted) <= bounds).all()


def batch_learner(drawn: Drawn, shots: int) -> BatchLearner:
    learner = BatchLearner(drawn.model, shots, encoding=drawn.model.weights)
    learner.wire[:] = drawn.wire()
    learner.receive()
    learner.load()
    learner.set_rate(0.05)
    return learner


@weights_of
@pytest.mark.usefixtures("compiled")
def test_a_batch_learner_with_one_sample_learns_what_a_learner_does(weights: str) -> None:
    drawn = draw(NETWORKS["depthwise separable"], 0, weights)
    learner, other = batch_learner(drawn, 1), drawn.learner()
    other.set_rate(0.05)
    learner.store(drawn.x.tolist(), drawn.y.tolist())
    loss = learner.train(batch=1, epochs=4)
    assert loss == pytest.approx(sum(other.step(drawn.x.tolist(), drawn.y.tolist()) for _ in range(4)) / 4)
    assert learner.weights == other.weights


@pytest.mark.parametrize("batch", [1, 2, 5, 7])
@pytest.mark.usefixtures("compiled")
def test_training_on_stored_samples_lowers_their_loss(batch: int) -> None:
    drawn = draw(NETWORKS["five classes, one hidden layer"], 1)
    learner = batch_learner(drawn, 5)
    rng = np.random.default_rng(0)
    for label in range(5):
        learner.store(rng.integers(-1500, 1500, 6).tolist(), [label])
    first = learner.train(batch, 1)
    learner.train(batch, 100)
    assert learner.train(batch, 1) < first / 4


def test_a_batch_learner_with_nothing_stored_says_so() -> None:
    learner = BatchLearner(Model([["input", 1], ["dense", 1], ["squared_error"]]), 3)
    with pytest.raises(ValueError, match="no sample is stored to learn from"):
        learner.train(1, 1)


@pytest.mark.usefixtures("compiled")
def test_a_batch_learner_without_room_says_so() -> None:
    drawn = draw(NETWORKS["linear"], 1)
    learner = batch_learner(drawn, 1)
    learner.store(drawn.x.tolist(), drawn.y.tolist())
    with pytest.raises(ValueError, match="room for 1 samples"):
        learner.store(drawn.x.tolist(), drawn.y.tolist())
    learner.clear()
    learner.store(drawn.x.tolist(), drawn.y.tolist())
    assert learner.count == 1
