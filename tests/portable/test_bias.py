"""No rounding of a step has a bias: the mean over its random numbers is the exact result, in every admitted shape."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tinyreptile import plan as fields
from tinyreptile.geometry import layers
from tinyreptile.layers import MAX_SUM
from tinyreptile.learner import Learner
from tinyreptile.model import FRACTION, LEAST_FRACTION, Model

from .float_twin import Average, Convolution, Dense, FloatTwin
from .networks import FORMATS, Q10, Drawn, cells_of

pytestmark = pytest.mark.usefixtures("compiled")
weights_of = pytest.mark.parametrize("weights", FORMATS)
SIZES = (1, 2, 33, 129, 784, 2000, MAX_SUM)
DRAWS = 400
DEVIATIONS = 6.0  # that a mean may lie from the exact result

# Layers whose sums have n products (or nearly as many); they are behind one that takes their deltas.
SHAPES: dict[str, Callable[[int], list[Any]]] = {
    "dense, inputs": lambda n: [["input", 1, n], ["flatten"], ["dense", 3]],
    "dense, outputs": lambda n: [["input", 1, 3], ["flatten"], ["dense", n]],
    "convolution, positions": lambda n: [["input", n, 2], ["conv1d", 3, 1, 1, 0]],
    "convolution, positions of three taps": lambda n: [["input", n, 1], ["conv1d", 2, 3, 1, 1]],
    "convolution, outputs": lambda n: [["input", 5, 1], ["conv1d", n, 1, 1, 0]],
    "convolution, taps": lambda n: [["input", 33, 1], ["conv1d", max(1, n // 33), 33, 1, 32]],
    "depthwise, positions": lambda n: [["input", n, 3], ["depthwise1d", 1, 1, 0]],
    "depthwise, taps": lambda n: [["input", 1, 2], ["depthwise1d", n, 1, n - 1]],
    "average": lambda n: [["input", n, 3], ["average"]],
}


class Trial:
    """One layer's way back, from small deltas: what it does with other random numbers each time, and what it should.

    ``fraction`` is that of the weights. Results are vectors: the changes of the layer's ``parameters``, in their units,
    then the deltas of its inputs, in theirs.
    """

    def __init__(self, shape: list[Any], weights: str, fraction: int, rng: np.random.Generator) -> None:
        head = [] if shape[-1][0] in ("dense", "average") else [["average"]]
        spec = [shape[0], [f"depthwise{len(shape[0]) - 2}d", 1, 1, 0], *shape[1:], *head, ["squared_error"]]
        self._learner = Learner(Model(spec, weights), encoding=weights)
        self._kernels = self._learner._kernels
        model = self._learner.model
        model.scale(self._learner._plan, [fraction] * len(model.offsets))
        layer = layers(model)[1]
        self._kind = layer.kind
        x, y, end = layer.x, layer.x + layer.inputs(), layer.x + layer.inputs() + layer.outputs()
        self._inputs, self._outputs = slice(x, y), slice(y, end)
        self._weights = np.frombuffer(self._learner.weights, "<i2" if weights == "int16" else np.int8)
        self._activations = np.frombuffer(self._learner._activations, np.int16)
        limit = {"int16": 2000, "int8": 60}[weights]
        self._start = rng.integers(-limit, limit + 1, len(self._weights))
        self._cells = np.zeros(len(self._activations), np.int16)
        self._cells[:y] = rng.integers(-300, 900, y)
        deltas = rng.integers(-3, 5, layer.outputs())
        self._cells[self._outputs] = np.where(rng.random(layer.outputs()) < 0.5, deltas, 0)
        self._cells[y] = 2
        self._own = slice(layer.weights, layer.biases + layer.out_channels)
        if layer.kind == fields.AVERAGE:
            self._own = slice(0, 0)
        self.parameters = self._own.stop - self._own.start
        self._fraction = fraction
        self._twin = FloatTwin(spec, np.float64).layers[2 if shape[1] == ["flatten"] else 1]

    def set(self, inputs: int, deltas: int) -> None:
        """Let all inputs, and all deltas of the outputs, be these."""
        self._cells[self._inputs] = inputs
        self._cells[self._outputs] = deltas

    def exact(self) -> np.ndarray:
        """The result without any rounding."""
        twin, fraction = self._twin, self._fraction
        deltas = self._cells[self._outputs].astype(float).reshape(1, *twin.out)
        if isinstance(twin, Average):
            return twin.back(deltas, np.zeros(0)).ravel()
        assert isinstance(twin, Dense | Convolution)
        image = twin.image if isinstance(twin, Convolution) else twin.shape[:1]
        inputs = self._cells[self._inputs].astype(float).reshape(1, *image)
        w = self._start[self._own][: np.prod(twin.shape)].reshape(twin.shape) * 2.0**-fraction
        gradient = twin.gradient(inputs, deltas).ravel() * 2.0 ** (fraction - 28)
        bias = deltas.reshape(-1, deltas.shape[-1]).sum(axis=0) * 2.0 ** (fraction - 18)
        return np.concatenate([-gradient, -bias, twin.back(deltas, w).ravel()])

    def draw(self, random: int, dither: int) -> np.ndarray:
        """The result with these random numbers."""
        learner, kernels, at = self._learner, self._kernels, fields.HEADER + fields.FIELDS
        self._weights[:] = self._start
        self._activations[:] = self._cells
        learner._plan[fields.RANDOM], learner._plan[fields.DITHER] = random, dither
        if self._kind == fields.AVERAGE:
            kernels.average_backward(learner._p, at, learner._a)
        else:
            if self._kind == fields.DEPTHWISE:
                kernels.depthwise_backward(learner._p, at, learner._w, learner._w, learner._a, learner._s)
            elif self._kind == fields.CONVOLUTION:
                kernels.convolution_backward(learner._p, at, learner._w, learner._w, learner._a, learner._s)
            else:
                kernels.dense_backward(learner._p, at, learner._w, learner._a)
            kernels.bias_backward(learner._p, at, learner._w, learner._a)
        change = (self._weights - self._start)[self._own]
        return np.concatenate([change, self._activations[self._inputs]]).astype(float)


def assert_mean(draws: np.ndarray, exact: np.ndarray) -> None:
    """The mean of ``draws`` (number, cells) is ``exact``, cell by cell and on the whole."""
    part = exact - np.floor(exact)
    variance = np.maximum(draws.var(axis=0), part * (1 - part))  # a rare step may never have been drawn
    deviations = (draws.mean(axis=0) - exact) / np.sqrt(np.maximum(variance, 1e-9) / len(draws))
    assert np.abs(deviations).max() < DEVIATIONS
    # How much of the exact result was reached, in each draw.
    shares = draws @ exact / (exact @ exact)
    spread = max(shares.var(), exact**2 @ variance / (exact @ exact) ** 2, 1e-9)
    assert abs(shares.mean() - 1) < DEVIATIONS * np.sqrt(spread / len(draws))


@pytest.mark.parametrize(("weights", "fraction"), [("int16", FRACTION), ("int8", LEAST_FRACTION), ("int8", FRACTION)])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", SHAPES)
def test_small_deltas_move_weights_and_are_passed_on_as_exact_sums_would_be(
    name: str, n: int, weights: str, fraction: int
) -> None:
    rng = np.random.default_rng(n)
    trial = Trial(SHAPES[name](n), weights, fraction, rng)
    draws = np.array([trial.draw(*numbers) for numbers in rng.integers(0, 65536, (DRAWS, 2)).tolist()])
    exact = trial.exact()
    for part in (slice(0, trial.parameters), slice(trial.parameters, None)):
        if len(exact[part]):
            assert_mean(draws[:, part], exact[part])


# 8-bit weights of few fraction bits, where a weight's unit is up to 2^24 products

TINY: dict[str, list[Any]] = {
    "dense_backward": [["input", 1, 1], ["flatten"], ["dense", 1]],
    "convolution_backward": [["input", 1, 1], ["conv1d", 1, 1, 1, 0]],
    "depthwise_backward": [["input", 1, 1], ["depthwise1d", 1, 1, 0]],
}


@pytest.mark.parametrize("product", [1, 2, 100, 255, -1, -2, -100, -255])
@pytest.mark.parametrize("kind", TINY)
def test_a_product_of_one_moves_one_weight_in_sixteen_million(kind: str, product: int) -> None:
    trial = Trial(TINY[kind], "int8", LEAST_FRACTION, np.random.default_rng(0))
    trial.set(inputs=1, deltas=product)
    # Of the 2^16 values of the coarse part only that next to a step can take it.
    edge = (0xFFFF if product > 0 else 0) - 0x9E37
    moved = sum(trial.draw(edge & 0xFFFF, fine << 8)[0] for fine in range(256))
    assert moved == -product


@weights_of
@pytest.mark.parametrize("positions", [1, 2, 3, 1000, 2731, MAX_SUM])
def test_an_averages_share_is_rounded_by_as_many_bits_as_it_has(positions: int, weights: str) -> None:
    trial = Trial([["input", positions, 1], ["average"]], weights, FRACTION, np.random.default_rng(0))
    for delta in (1, -1):
        trial.set(inputs=1, deltas=delta)
        shares = trial.draw(*divmod(0x12345678, 65536))
        # The sequence spreads the shares over the positions: their sum is the delta, to two.
        assert abs(shares.sum() - delta) <= 2
        assert set(shares) <= {0, delta}


# The heads


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("beta", [0.1, 1e-2, 1e-4, 1e-6])
def test_errors_below_a_unit_of_a_delta_are_met_on_average(loss: str, beta: float) -> None:
    spec = [["input", 1], ["dense", 40], [loss]]
    learner = Learner(Model(spec))
    learner.set_rate(beta)
    rng = np.random.default_rng(1)
    outputs = rng.integers(-3000, 3000, 40)
    target = outputs + rng.integers(-9, 10, 40) if loss == "squared_error" else np.array([7])
    learner.y[:] = array("h", target.tolist())
    draws = []
    for random, dither in rng.integers(0, 65536, (4000, 2)).tolist():
        learner._plan[fields.RANDOM], learner._plan[fields.DITHER] = random, dither
        learner._outputs[:] = array("h", outputs.tolist())
        learner._kernels.loss(learner._p, learner._a, learner._y)
        draws.append(list(learner._outputs))
    if loss == "squared_error":
        exact = (outputs - target) / Q10 * 2 / 40 * beta * 2**18
        assert_mean(np.array(draws, float), exact)
    else:
        exact = np.exp((outputs - outputs.max()) / Q10)
        exact /= exact.sum()
        exact[7] -= 1
        exact *= beta * 2**18
        mean, deviation = np.mean(draws, axis=0), np.std(draws, axis=0)
        part = exact - np.floor(exact)
        spread = np.sqrt(np.maximum(deviation**2, part * (1 - part)) / len(draws))
        assert (np.abs(mean - exact) < DEVIATIONS * spread + 4e-4 * np.abs(exact)).all()


# What is summed forward


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("n", [2, 33, 129, 255, 784, 2000, MAX_SUM])
@pytest.mark.parametrize("layer", ["dense", "convolution", "depthwise"])
@pytest.mark.parametrize(("value", "weight"), [(512, 1), (512, 3), (1024, 1), (-512, 1), (300, -1), (8, 1), (77, 5)])
def test_a_sum_of_equal_products_is_the_product_many_times(
    layer: str, n: int, value: int, weight: int, weights: str
) -> None:
    shape = {
        "dense": [["input", n], ["dense", 1]],
        "convolution": [["input", n, 1], ["conv1d", 1, n, 1, 0], ["flatten"]],
        "depthwise": [["input", n, 1], ["depthwise1d", n, 1, 0], ["flatten"]],
    }[layer]
    learner = Learner(Model([*shape, ["squared_error"]], weights), encoding=weights)
    np.frombuffer(learner.weights, "<i2" if weights == "int16" else np.int8)[:n] = weight
    output = learner.predict([value] * n)[0]
    assert abs(output - n * value * weight * 2.0**-FRACTION) <= 3  # of 1/1024


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("outputs", [1, 2, 3, 16, 17, 64, 1024, 1025, 4095])
@pytest.mark.parametrize("largest", [0.02, 1.0, 31.9])
def test_a_loss_is_the_mean_squared_error_of_however_many_outputs(weights: str, outputs: int, largest: float) -> None:
    learner = Learner(Model([["input", 1], ["dense", outputs], ["squared_error"]], weights), encoding=weights)
    targets = np.random.default_rng(outputs).uniform(-largest, largest, outputs)
    cells = np.round(targets * 1024).astype(int)
    exact = np.square(cells / 1024).mean()
    for loss in (learner.evaluate([0], cells)[0], learner.step([0], cells)):
        assert loss == pytest.approx(exact, rel=1e-4, abs=3 * 2**-16)


# The random numbers


def generator(learner: Learner) -> tuple[int, int]:
    return learner._plan[fields.LAST], learner._plan[fields.BEFORE]


def test_the_generator_comes_back_to_its_start_after_all_pairs_of_words_but_zero() -> None:
    learner = Learner(Model([["input", 1], ["dense", 1], ["squared_error"]]))
    columns = []  # the step is linear over bits: a matrix, a column a bit
    for bit in range(32):
        learner._plan[fields.LAST], learner._plan[fields.BEFORE] = (1 << bit) & 0xFFFF, 1 << bit >> 16
        learner.step([0], [0])
        last, before = generator(learner)
        columns.append(last | before << 16)

    def apply(matrix: list[int], word: int) -> int:
        result = 0
        for bit in range(32):
            if word >> bit & 1:
                result ^= matrix[bit]
        return result

    def power(exponent: int) -> list[int]:
        result, square = [1 << bit for bit in range(32)], columns
        while exponent:
            if exponent & 1:
                result = [apply(square, column) for column in result]
            square = [apply(square, column) for column in square]
            exponent >>= 1
        return result

    identity = [1 << bit for bit in range(32)]
    assert power(2**32 - 1) == identity
    assert all(power((2**32 - 1) // prime) != identity for prime in (3, 5, 17, 257, 65537))


@pytest.mark.parametrize("seed", [0, 1, 7073, 12345, 65535, 65536, 2**31 - 1, 2**32 + 5])
@pytest.mark.parametrize("sizes", [(4, 1), (3, 1), (1, 1), (7, 9), (16, 16), (32, 32)])
def test_no_seed_and_no_number_of_weights_repeats_the_rounding(seed: int, sizes: tuple[int, int]) -> None:
    inputs, outputs = sizes
    learner = Learner(Model([["input", inputs], ["dense", outputs], ["dense", 2], ["squared_error"]]), seed)
    learner.set_rate(0)
    seen = []
    x, y = [1] * inputs, [0, 0]
    for _ in range(4000):
        learner.step(x, y)
        seen.append(learner._plan[fields.RANDOM])
    # As many as of that many draws of 65,536, and as evenly spread.
    assert len(set(seen)) > 3800
    counts = np.bincount(np.array(seen) >> 12, minlength=16)
    assert ((counts - 250) ** 2 / 250).sum() < 50


@weights_of
@pytest.mark.parametrize("seed", [1, 7073])
def test_a_long_lived_learner_of_four_weights_moves_them_by_the_exact_mean(seed: int, weights: str) -> None:
    learner = Learner(Model([["input", 4], ["dense", 1], ["squared_error"]], weights), seed, weights)
    learner.set_rate(0.001)
    steps = 40000
    total = np.zeros(5)
    for _ in range(steps):
        learner.load()  # zeros; only the rounding differs from one step to the next
        learner.step([700, -300, 90, 1000], [200])
        total += cells_of(learner)
    exact = 2 * 0.001 * 200 / Q10 * np.array([700, -300, 90, 1000, 1024]) / Q10 * 2**FRACTION
    part = np.abs(exact) % 1
    assert (np.abs(total / steps - exact) < DEVIATIONS * np.sqrt(part * (1 - part) / steps)).all()


@weights_of
def test_a_convolution_over_four_thousand_positions_learns_as_in_floats(weights: str) -> None:
    spec = [["input", 4000, 1], ["conv1d", 8, 16, 1, 0, "relu"], ["average"], ["dense", 2], ["cross_entropy"]]
    model = Model(spec, weights)
    rng = np.random.default_rng(3)
    fractions = [FRACTION] * 4 if weights == "int16" else [6, 8, 6, 8]
    units = np.repeat([2.0**-fraction for fraction in fractions], [128, 8, 16, 2])
    start = np.concatenate([rng.normal(0, 0.25, 128), np.zeros(8), rng.normal(0, 0.5, 16), np.zeros(2)])
    drawn = Drawn(model, np.rint(start / units).astype(np.int64), fractions, np.zeros(0), np.zeros(0), spec)
    learner = drawn.learner()
    learner.set_rate(0.02)
    twin = FloatTwin(spec, np.float32)
    twin.set(drawn.parameters)
    for _ in range(400):
        label = int(rng.integers(2))
        wave = np.arange(4000) / (12, 40)[label] + rng.random()
        x = np.rint(0.4 * np.sin(2 * np.pi * wave) * Q10).astype(np.int16)
        learner.step(array("h", x.tobytes()), [label])
        twin.step(x[None] / np.float32(Q10), np.array([label]), 0.02)
    moved = (cells_of(learner) - drawn.cells) * units
    wanted = twin.get() - drawn.parameters
    for tensor in (slice(0, 128), slice(136, 152)):
        share = moved[tensor] @ wanted[tensor] / (wanted[tensor] @ wanted[tensor])
        assert share == pytest.approx(1, abs=0.1)
