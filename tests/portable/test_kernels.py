"""The integer arithmetic against float implementations, and the proof that no accumulator leaves int32."""

from __future__ import annotations

import ast
import itertools
import math
import random
from array import array
from typing import Any

import numpy as np
import pytest

from benchmarks.float_twin import FloatTwin
from tinyreptile import kernels
from tinyreptile.delta import Delta
from tinyreptile.learner import Learner
from tinyreptile.model import MAX_PARAMETERS, MAX_WIDTH, Model

from ..environment import PACKAGE

Q12, Q10, Q18 = 4096, 1024, 1 << 18

NETWORKS: dict[str, list[list[Any]]] = {
    "linear": [["input", 4], ["dense", 1], ["squared_error"]],
    "linear, three outputs": [["input", 4], ["dense", 3], ["squared_error"]],
    "one hidden layer": [["input", 3], ["dense", 9, "relu"], ["dense", 1], ["squared_error"]],
    "two hidden layers": [["input", 2], ["dense", 8, "relu"], ["dense", 8, "relu"], ["dense", 1], ["squared_error"]],
    "two hidden layers, three outputs": [
        ["input", 2],
        ["dense", 8, "relu"],
        ["dense", 6, "relu"],
        ["dense", 3],
        ["squared_error"],
    ],
    "linear hidden layer": [["input", 3], ["dense", 5], ["dense", 4, "relu"], ["dense", 2], ["squared_error"]],
    "wide": [["input", 70], ["dense", 40, "relu"], ["dense", 1], ["squared_error"]],
    "two classes": [["input", 4], ["dense", 2], ["cross_entropy"]],
    "five classes, one hidden layer": [["input", 6], ["dense", 10, "relu"], ["dense", 5], ["cross_entropy"]],
    "five classes, two hidden layers": [
        ["input", 3],
        ["dense", 8, "relu"],
        ["dense", 8, "relu"],
        ["dense", 5],
        ["cross_entropy"],
    ],
}


def draw(spec: list[list[Any]], seed: int) -> tuple[Model, np.ndarray, np.ndarray, np.ndarray]:
    """A model, parameters (int16, Q3.12), a sample (int16, Q5.10) and its target (Q5.10, or a label)."""
    model = Model(spec)
    rng = np.random.default_rng(seed)
    parameters = np.empty(model.parameters, "<i2")
    for n_in, n_out, offset, _, _ in model.layers:
        weights = rng.normal(0, math.sqrt(2 / n_in), n_in * n_out)
        biases = rng.normal(0, 0.3, n_out)
        part = np.concatenate((weights, biases))
        parameters[offset : offset + len(part)] = np.clip(np.rint(part * Q12), -32000, 32000)
    x = np.rint(rng.uniform(-1.5, 1.5, model.inputs) * Q10).astype(np.int16)
    if model.loss == "cross_entropy":
        y = rng.integers(0, model.outputs, 1).astype(np.int16)
    else:
        y = np.rint(rng.uniform(-2, 2, model.outputs) * Q10).astype(np.int16)
    return model, parameters, x, y


def twin_of(model: Model, parameters: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[FloatTwin, Any, Any]:
    """The float64 twin with the same parameters, and the sample as it takes it."""
    twin = FloatTwin(model.spec, np.float64)
    twin.set(parameters / Q12)
    return twin, x[None] / Q10, (y if model.loss == "cross_entropy" else y[None] / Q10)


def learner_of(model: Model, parameters: np.ndarray) -> Learner:
    learner = Learner(model)
    learner.initialization[:] = parameters.astype("<i2").tobytes()
    learner.load()
    return learner


def mean_step(learner: Learner, x: np.ndarray, y: np.ndarray, beta: float, draws: int = 512) -> np.ndarray:
    """The change of each parameter (units of 2^-12) by one step, averaged over starts of the rounding sequence.

    Evenly spread starts: the sequence is a bijection of its start, so rounding's mean is met to 1 / draws.
    """
    learner.set_rate(beta)
    sample, target = array("h", x.tolist()), array("h", y.tolist())
    before = np.frombuffer(learner.initialization, "<i2").astype(np.float64)
    total = np.zeros_like(before)
    for seed in range(0, 65536, 65536 // draws):
        learner.load()
        learner.seed(seed)
        learner.step(sample, target)
        total += np.frombuffer(learner.weights, "<i2") - before
    return total / draws


def error_bounds(model: Model, twin: FloatTwin, x: Any, y: Any, beta: float) -> tuple[np.ndarray, float]:
    """How far the formats allow each parameter's step to lie from the float one (units of 2^-12).

    Interval arithmetic over the two passes: every stored value is rounded to half a unit of its format, every product
    of a sum to half a unit of its shifted format. The second value is the smallest distance of a pre-activation from
    ReLU's corner less its error: where it is negative, the two may disagree on which units are on.
    """
    activations = twin.forward(x)
    units = [a[0] * Q10 for a in activations]
    error = np.zeros(model.inputs)
    errors = [error]
    clearance = math.inf
    for layer, (n_in, _, _, _, relu) in enumerate(model.layers):
        weights = np.abs(twin.weights[layer])
        noise = 0.5 + (n_in + 1) * 2.0 ** (n_in.bit_length() - 2 - 12)
        error = weights @ error + noise
        errors.append(error)
        if relu:
            z = (twin.weights[layer] @ activations[layer][0] + twin.biases[layer]) * Q10
            clearance = min(clearance, float((np.abs(z) - error).min()))
    if model.loss == "cross_entropy":
        # A probability moves by half of what a logit moves at most; the cubic and the shares add their own.
        head = errors[-1].max() / Q10 / 2 + 3e-4
        largest = 1.0
        scale = beta * Q18
    else:
        head = errors[-1].max() / Q10 * 2 / model.outputs
        largest = float(np.abs(activations[-1] - y).max()) * 2 / model.outputs
        scale = beta * Q18
    delta_error = np.full(model.outputs, head * scale + largest * scale * 2.0**-14 + 0.5)
    gradient = twin.gradient(x, y)
    bounds = []
    for layer in reversed(range(len(model.layers))):
        delta = np.abs(gradient[layer][1]) * scale
        inputs = np.abs(units[layer])
        weight_error = (
            np.outer(delta_error, inputs) + np.outer(delta, errors[layer]) + np.outer(delta_error, errors[layer])
        )
        bounds.append((weight_error / 65536, delta_error * 1024 / 65536))
        n_out = model.layers[layer][1]
        noise = 0.5 + n_out * 2.0 ** (n_out.bit_length() - 2 - 12)
        delta_error = np.abs(twin.weights[layer]).T @ delta_error + noise
    flat = [part.ravel() for pair in reversed(bounds) for part in pair]
    return np.concatenate(flat) + 1 / 256, clearance


@pytest.mark.parametrize("name", NETWORKS)
def test_the_float_twins_gradient_agrees_with_finite_differences(name: str) -> None:
    model, parameters, x, y = draw(NETWORKS[name], seed=3)
    twin, x, y = twin_of(model, parameters, x, y)
    analytic = np.concatenate([part.ravel() for pair in twin.gradient(x, y) for part in pair])
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


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_is_the_float_gradient_step_within_what_the_formats_allow(name: str) -> None:
    beta = 0.02
    checked = 0
    for seed in range(50):
        model, parameters, sample, target = draw(NETWORKS[name], seed)
        twin, x, y = twin_of(model, parameters, sample, target)
        bounds, clearance = error_bounds(model, twin, x, y, beta)
        gradient = twin.gradient(x, y)
        wanted = -beta * Q12 * np.concatenate([part.ravel() for pair in gradient for part in pair])
        clipped = max(np.abs(bias).max() for _, bias in gradient) * beta * Q18 > 32000
        if clipped or clearance <= 0 or np.abs(wanted).max() < 20 * bounds.max():
            continue  # a delta at its limit, near ReLU's corner, or too small to tell it from rounding
        taken = mean_step(learner_of(model, parameters), sample, target, beta)
        assert (np.abs(taken - wanted) <= bounds).all(), np.abs(taken - wanted).max()
        checked += 1
        if checked == 3:
            return
    pytest.fail("no sample of these could be told from rounding")


def test_a_linear_unit_whose_output_is_zero_still_passes_its_delta_on() -> None:
    model = Model([["input", 1], ["dense", 1], ["dense", 1], ["squared_error"]])
    parameters = np.array([0, 0, 4096, 0], np.int16)  # the hidden output is exactly 0
    change = mean_step(learner_of(model, parameters), np.array([1024]), np.array([1024]), 0.02)
    assert change[0] == pytest.approx(0.02 * 2 * Q12, rel=0.01)


def test_a_relu_unit_that_is_off_neither_learns_nor_passes_its_delta_on() -> None:
    model = Model([["input", 1], ["dense", 2, "relu"], ["dense", 1], ["squared_error"]])
    parameters = np.array([4096, -4096, 0, 0, 4096, 4096, 0], np.int16)  # the second unit is off
    change = mean_step(learner_of(model, parameters), np.array([1024]), np.array([0]), 0.02)
    assert list(change[[1, 3, 5]]) == [0, 0, 0]
    assert (change[[0, 2, 4, 6]] < 0).all()


@pytest.mark.parametrize("width", [1, 2, 31, 32, 33, 255, 784, 1023, 2047, 4095])
@pytest.mark.parametrize("kind", ["zero", "sparse", "dense"])
def test_a_wide_sum_carries_no_bias(width: int, kind: str) -> None:
    model = Model([["input", width], ["dense", 16], ["squared_error"]])
    rng = np.random.default_rng(width)
    parameters = np.rint(rng.normal(0, math.sqrt(2 / width), model.parameters) * Q12).clip(-32767, 32767)
    parameters[-16:] = 0
    x = np.rint(rng.uniform(-1, 1, width) * Q10).astype(np.int16)
    if kind != "dense":
        x[rng.random(width) < (1 if kind == "zero" else 0.8)] = 0
    outputs = np.array(learner_of(model, parameters).predict(array("h", x.tolist())))
    exact = parameters[:-16].reshape(16, width) @ x / Q12
    # One product's rounding, half a unit of 2^(s - 12); the mean of 16 sums of `width` of them, five deviations.
    spread = 5 * math.sqrt(max(1, np.count_nonzero(x)) / 12 / 16) * 2.0 ** (width.bit_length() - 1 - 12)
    assert abs((outputs - exact).mean()) <= spread + 5 * math.sqrt(1 / 12 / 16)


def test_three_thousand_integer_steps_end_at_the_loss_of_as_many_float_steps() -> None:
    spec = [["input", 1], ["dense", 32, "relu"], ["dense", 32, "relu"], ["dense", 1], ["squared_error"]]
    rng = np.random.default_rng(0)
    ends = {"integer": 0.0, "float": 0.0}
    for seed in range(3):
        model, parameters, _, _ = draw(spec, seed)
        learner = learner_of(model, parameters)
        learner.set_rate(0.01)
        twin = FloatTwin(spec, np.float64)
        twin.set(parameters / Q12)
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
    assert ends["integer"] == pytest.approx(ends["float"], rel=0.2)


# The heads


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
        stored = learner._plan[kernels.RATE] / 2 ** learner._plan[kernels.RATE_SHIFT]
        assert stored == pytest.approx(beta * per_unit, rel=2.0**-14.9), beta


def test_a_learning_rate_of_zero_changes_nothing() -> None:
    model, parameters, x, y = draw(NETWORKS["five classes, one hidden layer"], seed=0)
    assert not mean_step(learner_of(model, parameters), x, y, 0.0).any()


# The proof of int32: the very source, with every sum, difference, product and left shift watched


class OverflowInt32(Exception):
    pass


def watch(value: int) -> int:
    if not -(1 << 31) <= value < 1 << 31:
        raise OverflowInt32(value)
    return value


class Watch(ast.NodeTransformer):
    """Wraps every integer that arithmetic makes in a call of `watch`."""

    PRODUCERS = (ast.Add, ast.Sub, ast.Mult, ast.LShift)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, self.PRODUCERS):
            return node
        return ast.Call(ast.Name("watch", ast.Load()), [node], [])

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        assert isinstance(node.target, ast.Name)
        sum_of = ast.BinOp(ast.Name(node.target.id, ast.Load()), node.op, node.value)
        return ast.Assign([node.target], self.visit(sum_of))


def watched_kernels() -> dict[str, Any]:
    tree = ast.parse((PACKAGE / "kernels.py").read_text())
    tree.body = [node for node in tree.body if not isinstance(node, ast.ImportFrom)]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
            for argument in node.args.args:
                argument.annotation = None
    tree = ast.fix_missing_locations(Watch().visit(tree))
    names: dict[str, Any] = {"watch": watch, "const": lambda value: value}
    exec(compile(tree, "kernels.py, watched", "exec"), names)
    return names


WATCHED = watched_kernels()
EXTREMES = (32767, -32767, -32768)
WIDTHS = sorted({1, 2, 3, 31, 32, 33, 255, 1023, MAX_WIDTH})


def cells(values: Any) -> array[int]:
    return array("H", [value & 0xFFFF for value in values])


@pytest.mark.parametrize("width", WIDTHS)
def test_no_forward_sum_leaves_int32(width: int) -> None:
    model = Model([["input", width], ["dense", 1], ["squared_error"]])
    plan = model.plan()
    for weight, value, bias in itertools.product(EXTREMES, EXTREMES, EXTREMES):
        w = cells([weight] * width + [bias])
        a = cells([value] * width + [0])
        WATCHED["dense_forward"](plan, kernels.HEADER, w, a)
        assert a[width] == (32767 if weight * value > 0 else -32767 & 0xFFFF)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rounding", [0, 65535])
def test_no_backward_sum_and_no_update_leaves_int32(width: int, rounding: int) -> None:
    model = Model([["input", 1], ["dense", 1], ["dense", width], ["squared_error"]])
    plan = model.plan()
    at = kernels.HEADER + kernels.FIELDS
    for weight, delta, value in itertools.product(EXTREMES, EXTREMES, EXTREMES):
        plan[kernels.RANDOM] = rounding
        w = cells([0, 0] + [weight] * 2 * width)
        a = cells([0, value] + [delta] * width)
        WATCHED["dense_backward"](plan, at, w, a)
        assert a[1] == (32767 if weight * delta > 0 else -32767 & 0xFFFF)


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_head_leaves_int32(loss: str, width: int) -> None:
    model = Model([["input", 1], ["dense", width], [loss]])
    plan = model.plan()
    rng = random.Random(width)
    for output, target in itertools.product((32767, -32767, None), EXTREMES if loss == "squared_error" else [0]):
        for shift in (0, 3, 30):
            plan[kernels.RATE], plan[kernels.RATE_SHIFT] = 32767, shift
            outputs = [output or rng.choice((32767, -32767)) for _ in range(width)]
            a = cells([0, *outputs])
            if loss == "cross_entropy":
                WATCHED["softmax"](plan, a)
                WATCHED["cross_entropy"](plan, a, cells([width - 1]))
            else:
                WATCHED["squared_error"](plan, a, cells([target] * width))


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_no_quantization_leaves_int32(bits: int) -> None:
    top = (1 << (bits - 1)) - 1
    for w, base, r, start in itertools.product(EXTREMES, EXTREMES, (0, 65535), (0, MAX_PARAMETERS - 8)):
        # Cells far into a model, through a view that is as long as the index needs.
        weights, bases = (
            dict.fromkeys(range(start, start + 8), w & 0xFFFF),
            dict.fromkeys(range(start, start + 8), base & 0xFFFF),
        )
        largest = WATCHED["largest_change"](weights, bases, start, start + 8)
        gain = min(65536, (top << 16) // largest) if largest else 65536
        out = bytearray(16)
        WATCHED["quantize"](weights, bases, start, start + 8, gain, r, bits, out, start)


def test_the_watch_finds_a_sum_whose_products_are_not_shifted() -> None:
    model = Model([["input", 33], ["dense", 1], ["squared_error"]])
    plan = model.plan()
    plan[kernels.HEADER + kernels.SHIFT] = 0
    with pytest.raises(OverflowInt32):
        WATCHED["dense_forward"](plan, kernels.HEADER, cells([32767] * 34), cells([32767] * 34))


@pytest.mark.parametrize("width", [3, 33, 255, 1023, MAX_WIDTH])
def test_the_watch_finds_a_shift_that_is_one_too_small(width: int) -> None:
    model = Model([["input", 1], ["dense", 1], ["dense", width], ["squared_error"]])
    plan = model.plan()
    at = kernels.HEADER + kernels.FIELDS
    plan[at + kernels.BACK_SHIFT] -= 1
    w = cells([0, 0] + [-32768] * 2 * width)
    with pytest.raises(OverflowInt32):
        WATCHED["dense_backward"](plan, at, w, cells([0, 1] + [-32768] * width))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_watched_source_computes_what_the_compiled_one_does(name: str) -> None:
    model, parameters, x, y = draw(NETWORKS[name], seed=5)
    learner = learner_of(model, parameters)
    learner.set_rate(0.02)
    plan = array("i", learner._plan)
    w, a = cells(parameters.tolist()), cells(x.tolist() + [0] * (model.activations - model.inputs))
    for _ in range(20):
        a[: model.inputs] = cells(x.tolist())
        WATCHED["step"](plan, w, a, cells(y.tolist()))
        learner.step(array("h", x.tolist()), array("h", y.tolist()))
    assert w.tobytes() == bytes(learner.weights)


def test_no_literal_of_a_kernel_is_an_object_on_a_board() -> None:
    tree = ast.parse((PACKAGE / "kernels.py").read_text())
    numbers = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, int)]
    assert len(numbers) > 50
    assert max(numbers) < 1 << 30


def test_a_delta_of_weights_that_did_not_move_is_all_zeros() -> None:
    model, parameters, _, _ = draw(NETWORKS["wide"], seed=0)
    learner = learner_of(model, parameters)
    packed = bytearray(b"\xff" * 4000)
    delta = Delta(model, learner.weights, learner.initialization, 8, 1)
    size = delta.pack(0, packed)
    assert not any(packed[:size])
