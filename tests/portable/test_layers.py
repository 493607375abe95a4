"""A step of every kind of layer against float implementations: our own in numpy, and PyTorch where it is installed."""

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np
import pytest

from tinyreptile.model import Model

from ..environment import need_module
from .float_bounds import can_be_told, error_bounds
from .float_twin import FloatTwin, flat
from .networks import FORMATS, NETWORKS, Q10, Q18, Drawn, draw, mean_step

pytestmark = pytest.mark.usefixtures("compiled")
weights_of = pytest.mark.parametrize("weights", FORMATS)
BETA = 0.02


@pytest.mark.parametrize("name", NETWORKS)
def test_the_float_twins_gradient_agrees_with_finite_differences(name: str) -> None:
    twin, x, y = draw(NETWORKS[name], seed=3).twin()
    analytic = flat(twin.gradient(x, y))
    point = twin.get()
    numeric = np.empty_like(point)
    for i in range(len(point)):
        losses = []
        for h in (1e-6, -1e-6):
            moved = point.copy()
            moved[i] += h
            twin.set(moved)
            losses.append(twin.loss(x, y))
        numeric[i] = (losses[0] - losses[1]) / 2e-6
    assert np.abs(analytic).max() > 1e-3
    np.testing.assert_allclose(numeric, analytic, atol=1e-6, rtol=1e-5)


@weights_of
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_is_the_float_gradient_step_within_what_the_formats_allow(name: str, weights: str) -> None:
    checked = 0
    for seed in range(400):
        drawn = draw(NETWORKS[name], seed, weights)
        twin, x, y = drawn.twin()
        bounds, clearance = error_bounds(drawn, twin, x, y, BETA)
        wanted = -BETA * flat(twin.gradient(x, y))
        activations = twin.forward(x)
        clipped = max(np.abs(delta).max() for delta in twin.deltas(activations, y)) * BETA * Q18 > 32000
        if clipped or clearance <= 0 or not can_be_told(drawn, wanted, bounds):
            continue  # a delta at its limit, near ReLU's corner, or too small to tell it from rounding
        taken = mean_step(drawn, BETA)
        assert (np.abs(taken - wanted) <= bounds).all(), np.abs(taken - wanted).max()
        checked += 1
        if checked == 2:
            return
    pytest.fail(f"{checked} samples of these could be told from rounding")


def gradient_by_pytorch(spec: list[list[Any]], twin: FloatTwin, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The gradient of the twin's loss, flat, by PyTorch's own layers and its autograd."""
    torch = need_module("torch")
    parameters = [
        torch.tensor(part, requires_grad=True)
        for weight, bias in zip(twin.weights, twin.biases, strict=True)
        for part in (weight, bias)
        if part.size
    ]
    following = iter(parameters)
    values = torch.tensor(x).reshape(len(x), *spec[0][1:])  # samples, positions, channels
    for item in spec[1:-1]:
        name, *numbers = [value for value in item if value != "relu"]
        if name == "dense":
            values = torch.nn.functional.linear(values, next(following).T, next(following))
        elif name == "flatten":
            values = values.flatten(1)
        elif name == "average":
            values = values.mean(tuple(range(1, values.dim() - 1)))
        else:
            weight, bias = next(following), next(following)
            stride, pad = numbers[-2:]
            groups = 1
            if name.startswith("depthwise"):
                groups = weight.shape[-1]
                weight = weight.unsqueeze(2)
            if name.endswith("1d"):
                weight = weight[0]
            weight = weight.movedim((-1, -2), (0, 1))  # outputs, inputs, taps
            convolve = getattr(torch.nn.functional, "conv" + name[-2:])
            values = convolve(values.movedim(-1, 1), weight, bias, stride, pad, groups=groups).movedim(1, -1)
        if item[-1] == "relu":
            values = values.relu()
    if spec[-1] == ["cross_entropy"]:
        loss = torch.nn.functional.cross_entropy(values, torch.tensor(y).long())
    else:
        loss = torch.nn.functional.mse_loss(values, torch.tensor(y))
    loss.backward()
    return np.concatenate([part.grad.numpy().ravel() for part in parameters])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_float_twins_gradient_is_pytorchs(name: str) -> None:
    twin, x, y = draw(NETWORKS[name], seed=7).twin()
    by_pytorch = gradient_by_pytorch(NETWORKS[name], twin, x, y)
    np.testing.assert_allclose(flat(twin.gradient(x, y)), by_pytorch, rtol=1e-9, atol=1e-12)


def small(spec: list[list[Any]], cells: list[int], x: list[int], y: list[int]) -> Drawn:
    model = Model(spec)
    fractions = [12] * len(model.offsets)
    return Drawn(model, np.array(cells), fractions, np.array(x, np.int16), np.array(y, np.int16), spec)


def test_a_linear_unit_whose_output_is_zero_still_passes_its_delta_on() -> None:
    spec = [["input", 1], ["dense", 1], ["dense", 1], ["squared_error"]]
    change = mean_step(small(spec, [0, 0, 4096, 0], [1024], [1024]), BETA)  # the hidden output is exactly 0
    assert change[0] == pytest.approx(BETA * 2, rel=0.01)


@pytest.mark.parametrize("layer", [["conv1d", 1, 1, 1, 0], ["depthwise1d", 1, 1, 0], ["average"]])
def test_a_linear_output_of_zero_passes_its_delta_on_through_every_layer(layer: list[Any]) -> None:
    spec = [["input", 1, 1], ["conv1d", 1, 1, 1, 0], layer, ["flatten"], ["dense", 1], ["squared_error"]]
    if layer == ["average"]:
        spec.remove(["flatten"])
    identity = [] if layer == ["average"] else [4096, 0]
    change = mean_step(small(spec, [0, 0, *identity, 4096, 0], [1024], [1024]), BETA)
    assert change[0] == pytest.approx(BETA * 2, rel=0.01)


@pytest.mark.parametrize(
    "spec",
    [
        [["input", 1], ["dense", 2, "relu"], ["dense", 1], ["squared_error"]],
        [["input", 1, 1], ["conv1d", 2, 1, 1, 0, "relu"], ["flatten"], ["dense", 1], ["squared_error"]],
        [["input", 1, 1], ["conv1d", 2, 1, 1, 0, "relu"], ["average"], ["dense", 1], ["squared_error"]],
        [["input", 1, 1], ["conv1d", 2, 1, 1, 0, "relu"], ["conv1d", 1, 1, 1, 0], ["flatten"], ["squared_error"]],
    ],
)
def test_a_relu_unit_that_is_off_neither_learns_nor_passes_its_delta_on(spec: list[list[Any]]) -> None:
    # The second unit is off.
    change = mean_step(small(spec, [4096, -4096, 0, 0, 4096, 4096, 0], [1024], [0]), BETA)
    assert list(change[[1, 3, 5]]) == [0, 0, 0]
    assert (change[[0, 2, 4, 6]] < 0).all()


def test_a_relu_unit_that_is_off_passes_no_delta_on_through_a_depthwise_layer() -> None:
    spec = [["input", 1, 1], ["conv1d", 2, 1, 1, 0, "relu"], ["depthwise1d", 1, 1, 0], ["average"], ["squared_error"]]
    change = mean_step(small(spec, [4096, -4096, 0, 0, 4096, 4096, 0, 0], [1024], [0, -1024]), BETA)
    assert list(change[[1, 3, 5]]) == [0, 0, 0]
    assert (change[[0, 2, 4, 6, 7]] < 0).all()


@weights_of
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_leaves_its_sample_as_it_is(name: str, weights: str) -> None:
    drawn = draw(NETWORKS[name], 1, weights)
    learner = drawn.learner()
    learner.set_rate(0.5)
    learner.step(array("h", drawn.x.tolist()), array("h", drawn.y.tolist()))
    assert list(learner.x) == drawn.x.tolist()
    assert list(learner.y) == drawn.y.tolist()


@pytest.mark.parametrize("cell", [32767, -32767, -32768, 1, 0])
@pytest.mark.parametrize("positions", [1, 2, 3, 5, 1000, 1365, 2731, 4095])
def test_the_average_of_equal_inputs_is_that_input_and_never_wraps_around(positions: int, cell: int) -> None:
    spec = [["input", positions, 1], ["average"], ["dense", 1], ["squared_error"]]
    learner = small(spec, [4096, 0], [0] * positions, [0]).learner()
    learner.predict(array("h", [cell] * positions))
    assert abs(learner._activations[positions] - max(-32767, cell)) <= 1 + abs(cell) * 2.0**-13


@pytest.mark.parametrize("width", [1, 2, 31, 32, 33, 255, 784, 1023, 2047, 4095])
@pytest.mark.parametrize("kind", ["zero", "sparse", "dense"])
def test_a_wide_sum_carries_no_bias(width: int, kind: str) -> None:
    spec = [["input", width], ["dense", 16], ["squared_error"]]
    drawn = draw(spec, width)
    drawn.cells[-16:] = 0
    rng = np.random.default_rng(width)
    x = np.rint(rng.uniform(-1, 1, width) * Q10).astype(np.int16)
    if kind != "dense":
        x[rng.random(width) < (1 if kind == "zero" else 0.8)] = 0
    outputs = np.array(drawn.learner().predict(array("h", x.tolist())))
    exact = x @ drawn.cells[:-16].reshape(width, 16) / 4096
    # One product's rounding, half a unit of 2^(s - 12); the mean of 16 sums of `width` of them, five deviations.
    spread = 5 * math.sqrt(max(1, np.count_nonzero(x)) / 12 / 16) * 2.0 ** (width.bit_length() - 1 - 12)
    assert abs((outputs - exact).mean()) <= spread + 5 * math.sqrt(1 / 12 / 16)


@pytest.mark.parametrize("weights", FORMATS)
def test_three_thousand_integer_steps_end_at_the_loss_of_as_many_float_steps(weights: str) -> None:
    spec = [["input", 1], ["dense", 32, "relu"], ["dense", 32, "relu"], ["dense", 1], ["squared_error"]]
    rng = np.random.default_rng(0)
    ends = {"integer": 0.0, "float": 0.0}
    for seed in range(3):
        drawn = draw(spec, seed, weights)
        learner = drawn.learner()
        learner.set_rate(0.01)
        twin, _, _ = drawn.twin()
        for step in range(3000):
            value = rng.uniform(-1.5, 1.5)
            x, y = round(value * Q10), round(math.sin(2 * value) * Q10)
            exact = np.array([[x / Q10]]), np.array([[y / Q10]])
            loss = learner.step(array("h", [x]), array("h", [y]))
            if step >= 2000:
                ends["integer"] += loss / 3000
                ends["float"] += twin.loss(*exact) / 3000
            twin.step(*exact, 0.01)
    assert ends["float"] < 0.02  # it has learned
    assert ends["integer"] == pytest.approx(ends["float"], rel=0.2) if weights == "int16" else ends["integer"] < 0.04
