"""The proof that no accumulator leaves int32, and that no kernel leaves its place in the buffers."""

from __future__ import annotations

import ast
import itertools
import random
from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyreptile import plan as fields
from tinyreptile import sparse_delta
from tinyreptile.batch import keep_weights
from tinyreptile.geometry import layers
from tinyreptile.layers import MAX_PARAMETERS, MAX_SUM
from tinyreptile.learner import Learner
from tinyreptile.model import FRACTION, LEAST_FRACTION, Model
from tinyreptile.privacy import MOST_WIDTH, write_chances

from ..environment import ARITHMETIC, PACKAGE
from .networks import FORMATS, LIMITS, NETWORKS, draw, extreme_cells, random_models
from .watching import (
    KERNELS,
    NOISE,
    WIRE,
    Guarded,
    OutOfPlace,
    OverflowInt32,
    cells,
    plan_of,
    run_backward,
    run_forward,
    weight_cells,
)

INPUTS = (32767, -32767, -32768)
DELTAS = (32767, -32767)
WEIGHTS = {"int16": (32767, -32767), "int8": (127, -127, -128)}
ROUNDINGS = (0, 65535)
SUMS = (1, 2, 3, 33, 255, MAX_SUM)
WRITTEN = {fields.RANDOM, fields.JOB, fields.END}  # cells of a plan that a step backward may write
SCALES = range(LEAST_FRACTION, FRACTION + 1)

weights_of = pytest.mark.parametrize("weights", FORMATS)

# Layers whose sums have n products (or nearly as many); they are behind one that takes their deltas.
AT_THE_LIMIT: dict[str, Any] = {
    "dense, inputs": lambda n: [["input", 1, n], ["flatten"], ["dense", 1]],
    "dense, outputs": lambda n: [["input", 1, 1], ["flatten"], ["dense", n]],
    "convolution, taps": lambda n: [["input", 3, -(-n // 3)], ["conv1d", 1, 3, 1, 0]],
    "convolution, channels": lambda n: [["input", 1, n], ["conv1d", 1, 1, 1, 0]],
    "convolution, outputs": lambda n: [["input", 1, 1], ["conv1d", n, 1, 1, 0]],
    "convolution, positions": lambda n: [["input", n, 1], ["conv1d", 1, 1, 1, 0]],
    "convolution, taps that meet an input": lambda n: [["input", 1, 1], ["conv1d", -(-n // 3), 3, 1, 2]],
    "convolution, square": lambda n: [["input", 3, 3, -(-n // 9)], ["conv2d", 1, 3, 1, 0]],
    "convolution, strides": lambda n: [["input", 3, 1], ["conv1d", -(-n // 3), 5, 2, 4]],
    "depthwise, taps": lambda n: [["input", n, 1], ["depthwise1d", n, 1, 0]],
    "depthwise, positions": lambda n: [["input", n, 1], ["depthwise1d", 1, 1, 0]],
    "depthwise, taps that meet an input": lambda n: [["input", 1, 1], ["depthwise1d", n, 1, n - 1]],
    "average": lambda n: [["input", n, 1], ["average"]],
}


def at_the_limit(name: str, n: int, weights: str) -> Model:
    """The model whose layer 1 is the one of that name; layer 0 is depthwise."""
    first, *rest = AT_THE_LIMIT[name](n)
    kind = f"depthwise{len(first) - 2}d"
    head = [] if rest[-1][0] in ("dense", "average") else [["average"]]
    return Model([first, [kind, 1, 1, 0], *rest, *head, ["squared_error"]], weights)


def run_at_extremes(model: Model, plan: Any, at: int, weight: int, value: int, bias: int, delta: int) -> array[int]:
    """Forward and backward, all cells alike; the activations and deltas that came of it.

    A kernel of thousands of taps goes one way only: the other's sums are short, and take long.
    """
    layer = layers(model)[1]
    x, y = layer.x, layer.x + layer.inputs()
    w = weight_cells(model, [weight] * model.parameters)
    if layer.kind != fields.AVERAGE:
        w[layer.biases : layer.biases + layer.out_channels] = weight_cells(model, [bias] * layer.out_channels)
    s = array("i", bytes(4 * model.scratch))
    a = cells([value] * y + [0] * layer.outputs())
    if layer.out_width * layer.kernel_width <= 2 * MAX_SUM:
        run_forward(plan, at, w, a, s)
    outputs = a[y:]
    if layer.width * layer.kernel_width <= 100 * MAX_SUM:
        for batch, rounding in zip((0, 1), ROUNDINGS, strict=True):
            if batch:
                keep_weights(plan)
            plan[fields.RANDOM] = plan[fields.DITHER] = rounding
            a[x:y] = cells([value] * (y - x))
            a[y:] = cells([delta] * layer.outputs())
            u = w[:]
            run_backward(plan, at, w[:] if batch else u, u, a, s)
    return outputs + a[x:y]


@weights_of
@pytest.mark.parametrize("n", SUMS)
@pytest.mark.parametrize("name", AT_THE_LIMIT)
def test_no_sum_of_a_layer_leaves_int32(name: str, n: int, weights: str) -> None:
    model = at_the_limit(name, n, weights)
    plan, at = plan_of(model, index=1)
    largest = WEIGHTS[weights][0], WEIGHTS[weights][-1]
    values, deltas = (INPUTS, DELTAS) if n < MAX_SUM else ((32767, -32768), (32767,))  # every sum with either sign
    for weight, value, delta in itertools.product(largest, values, deltas):
        for bias in largest if n < MAX_SUM else [largest[weight * value < 0]]:
            run_at_extremes(model, plan, at, weight, value, bias, delta)


@pytest.mark.parametrize("n", [1, 255, MAX_SUM])
@pytest.mark.parametrize("name", AT_THE_LIMIT)
def test_no_sum_of_8_bit_weights_leaves_int32_at_any_scale(name: str, n: int) -> None:
    model = at_the_limit(name, n, "int8")
    corners = [*itertools.product((LEAST_FRACTION, FRACTION), repeat=2)]
    equal = [*zip(SCALES, SCALES, strict=True)]
    for fractions in {1: itertools.product(SCALES, SCALES), 255: corners + equal, MAX_SUM: corners}[n]:
        plan, at = plan_of(model, [FRACTION, FRACTION, *fractions], 1)
        run_at_extremes(model, plan, at, -128, -32768, 127, -32767)


@pytest.mark.parametrize("n", [255, MAX_SUM])
@pytest.mark.parametrize(
    ("name", "shift"),
    [
        ("dense, inputs", fields.SHIFT),
        ("dense, outputs", fields.BACK_SHIFT),
        ("convolution, taps", fields.SHIFT),
        ("convolution, channels", fields.SHIFT),
        ("convolution, outputs", fields.BACK_SHIFT),
        ("convolution, positions", fields.SUM_SHIFT),
        ("convolution, taps that meet an input", fields.BACK_SHIFT),
        ("depthwise, taps", fields.SHIFT),
        ("depthwise, positions", fields.SUM_SHIFT),
        ("depthwise, taps that meet an input", fields.BACK_SHIFT),
    ],
)
def test_the_watch_finds_a_shift_that_is_one_too_small(name: str, shift: int, n: int) -> None:
    model = at_the_limit(name, n, "int16")
    plan, at = plan_of(model, index=1)
    plan[at + shift] -= 1
    with pytest.raises((OverflowInt32, OverflowError)):
        run_at_extremes(model, plan, at, -32767, -32768, 0, -32767)


@pytest.mark.parametrize("name", AT_THE_LIMIT)
def test_sums_at_the_limits_saturate_with_their_sign(name: str) -> None:
    model = at_the_limit(name, 33, "int16")
    plan, at = plan_of(model, index=1)
    for weight, value, delta in itertools.product((32767, -32767), (32767, -32767), DELTAS):
        results = run_at_extremes(model, plan, at, weight, value, 0, delta)
        outputs = layers(model)[1].outputs()
        if name == "average":
            weight, wanted_delta = 1, {delta // 33 & 0xFFFF, (delta // 33 + 1) & 0xFFFF}
        else:
            wanted_delta = {(32767 if weight * delta > 0 else -32767) & 0xFFFF}
        assert set(results[:outputs]) == {(32767 if weight * value > 0 else -32767) & 0xFFFF}
        assert set(results[outputs:]) <= wanted_delta


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("width", SUMS)
def test_no_head_leaves_int32(loss: str, width: int) -> None:
    model = Model([["input", 1], ["dense", width], [loss]])
    plan = model.plan()
    rng = random.Random(width)
    for output, target in itertools.product((32767, -32767, None), INPUTS if loss == "squared_error" else [0]):
        for shift, rounding in itertools.product((0, 3, 30), ROUNDINGS):
            plan[fields.RATE], plan[fields.RATE_SHIFT] = 32767, shift
            plan[fields.RANDOM] = plan[fields.DITHER] = rounding
            outputs = [output or rng.choice((32767, -32767)) for _ in range(width)]
            a = cells([0, *outputs])
            if loss == "cross_entropy":
                KERNELS["softmax"](plan, a[:], 32767)
                KERNELS["cross_entropy"](plan, a, cells([width - 1]))
            else:
                KERNELS["squared_error"](plan, a, cells([target] * width))


@pytest.mark.parametrize("bits", [16, 8, 4])
@weights_of
def test_no_packing_of_a_delta_leaves_int32(weights: str, bits: int) -> None:
    top = (1 << (bits - 1)) - 1
    limit = LIMITS[weights]
    sign = limit + 1
    extremes = (limit, -limit, -sign, 0)
    ups = range(FRACTION - LEAST_FRACTION + 1) if weights == "int8" else (0,)
    for w, base, r, start, up in itertools.product(extremes, extremes, ROUNDINGS, (0, MAX_PARAMETERS - 8), ups):
        # Cells far into a model, through a view that is as long as the index needs.
        mask = 2 * sign - 1
        views = (
            dict.fromkeys(range(start, start + 8), w & mask),
            dict.fromkeys(range(start, start + 8), base & mask),
        )
        largest = WIRE["largest_change"](*views, start, start + 8, sign, up)
        assert WIRE["count_changes"](*views, start, start + 8, sign, up, largest) == 8
        gain = min(65536, (top << 16) // largest) if largest else 65536
        out = bytearray(16)
        WIRE["quantize"](*views, start, start + 8, sign, up, gain, r, bits, out, start)
        # As sparse as can be: the last window of the longest delta.
        kept = MAX_PARAMETERS // 2
        lows, values = 8 * (MAX_PARAMETERS + kept), 8 * (2 * MAX_PARAMETERS + kept)
        last = values + bits * (kept + 8)
        state = array("i", [0] * sparse_delta.STATE)
        for name, value in {
            "ENTRY": kept,
            "TIES": 8,
            "LEAST": largest,
            "LOW": 20,
            "BITS": bits,
            "FIRST": values + bits * kept,
            "LAST": last,
            "LOWS": lows,
            "VALUES": values,
            "ROUNDING": r,
        }.items():
            state[getattr(sparse_delta, name)] = value
        WIRE["sparsify"](*views, start, start + 8, sign, up, gain, state, bytearray(bits))
        assert state[sparse_delta.ENTRY] == kept + 8


@weights_of
def test_no_clipping_and_no_noise_leaves_int32(weights: str) -> None:
    limit = LIMITS[weights]
    sign = limit + 1
    code = "B" if weights == "int8" else "H"
    for value, base in itertools.product((limit, -limit, 0), repeat=2):
        w, phi = cells([value] * (1 << 15), code), cells([base] * (1 << 15), code)
        sums = array("i", [0, 0])
        NOISE["add_squares"](w, phi, 0, 1 << 15, sign, sums)
        change = min(32767, abs(value - base))
        assert (sums[0] << 15) + sums[1] == change * change << 15
        for mantissa, shift in ((32767, 15), (32767, 30), (0, 30), (16384, 15)):
            shrunk = w[:8]
            NOISE["shrink"](shrunk, phi, 0, 8, sign, mantissa, shift)
            wanted = base + (-1 if value < base else 1) * (change * mantissa >> shift)
            assert shrunk == cells([wanted] * 8, code)


@weights_of
@pytest.mark.parametrize("byte", [0, 127, 255, None])
def test_no_noise_leaves_int32_whatever_the_random_bytes(weights: str, byte: int | None) -> None:
    """With 0 every decision is yes, which is as far as the sampler's numbers can go; with 255 none ever is."""
    sign = LIMITS[weights] + 1
    chances = bytearray(16 * 43)
    write_chances(chances, MOST_WIDTH)
    rng = random.Random(1)
    for value in (sign - 1, 1 - sign, 0):
        w = cells([value] * 400, "B" if weights == "int8" else "H")
        source = rng.randbytes(768) if byte is None else bytes([byte]) * 768
        state = array("i", [0, 768, MOST_WIDTH, MOST_WIDTH - 1])
        end = NOISE["add_noise"](w, 0, 400, sign, chances, source, state)
        assert end < 400
        assert state[0] <= 768
        assert all((cell ^ sign) - sign != -sign for cell in w)


def test_no_widening_of_8_bits_leaves_int32() -> None:
    for value, up in itertools.product((127, -127, -128, 0), range(FRACTION - LEAST_FRACTION + 1)):
        buffer = bytearray(8) + cells([value] * 8, "B").tobytes()
        WIRE["widen"](buffer, 0, 8, 8, up)
        assert list(memoryview(buffer).cast("h")) == [value << up] * 8


# Any model


@st.composite
def trials(draw: st.DrawFn) -> tuple[Model, list[int], list[int], list[int], int, int]:
    """A model, fraction bits, its parameters, activations to begin with, a label and the start of the rounding."""
    model = draw(random_models())
    rng = random.Random(draw(st.integers(0, 1 << 30)))
    limit = LIMITS[model.weights]
    low = FRACTION if model.weights == "int16" else LEAST_FRACTION
    fractions = draw(
        st.lists(st.integers(low, FRACTION), min_size=len(model.offsets), max_size=len(model.offsets)),
    )
    pool = draw(st.lists(extreme_cells(limit), min_size=1, max_size=12))
    weights = [rng.choice(pool) for _ in range(model.parameters)]
    pool = draw(st.lists(extreme_cells(32767), min_size=1, max_size=12))
    activations = [rng.choice(pool) for _ in range(model.activations)]
    return model, fractions, weights, activations, rng.randrange(model.outputs), rng.randrange(65536)


@settings(max_examples=120, deadline=None)
@given(trials(), st.booleans())
def test_a_layer_reads_and_writes_no_cell_but_its_own(trial: Any, batch: bool) -> None:
    model, fractions, weights, activations, _, rounding = trial
    w, a = weight_cells(model, weights), cells(activations)
    for index, layer in enumerate(layers(model)):
        plan, at = plan_of(model, fractions, index)
        work = Guarded(plan, 0, len(plan), fields.JOB, fields.END + 1)
        own = (layer.weights, layer.biases + layer.out_channels) if layer.kind != fields.AVERAGE else (0, 0)
        x, y, end = layer.x, layer.x + layer.inputs(), layer.x + layer.inputs() + layer.outputs()
        s = Guarded(array("i", bytes(4 * layer.scratch)), 0, layer.scratch, 0, layer.scratch)
        run_forward(work, at, Guarded(w, *own), Guarded(a, x, y, y, end), s)
        if batch:
            keep_weights(plan)
        plan[fields.RANDOM] = plan[fields.DITHER] = rounding
        u = Guarded(w[:], *own, *own)
        before = a[:]
        work.write = WRITTEN
        run_backward(work, at, Guarded(w, *own) if batch else u, u, Guarded(a, x, end, x, y), s)
        if not plan[at + fields.BACK] and layer.kind != fields.AVERAGE:
            assert a == before  # the sample stays


def test_the_guard_finds_a_layer_out_of_place() -> None:
    model = Model([["input", 4], ["dense", 3], ["squared_error"]])
    plan, at = plan_of(model)
    w, a, s = cells([1] * model.parameters), cells([1] * 7), array("i", bytes(4 * model.scratch))
    short = model.scratch - 1
    for w_guard, a_guard, s_guard in (
        (Guarded(w, 0, model.parameters - 1), a, s),
        (w, Guarded(a, 0, 7, 4, 6), s),
        (w, Guarded(a, 1, 7, 4, 7), s),
        (w, a, Guarded(s, 0, short, 0, short)),
    ):
        with pytest.raises(OutOfPlace):
            run_forward(plan, at, w_guard, a_guard, s_guard)


@pytest.mark.parametrize(
    "layer", [["dense", 7], ["dense", 90], ["conv1d", 3, 5, 2, 0], ["conv1d", 20, 3, 1, 0], ["depthwise1d", 3, 1, 0]]
)
def test_no_scratch_cell_is_allocated_that_is_never_needed(layer: list[Any]) -> None:
    model = Model(
        [["input", 30, 2], *([["flatten"]] if layer[0] == "dense" else []), layer, ["flatten"], ["squared_error"]]
    )
    plan, at = plan_of(model)
    keep_weights(plan)
    s = Guarded(array("i", bytes(4 * model.scratch)), 0, model.scratch, 0, model.scratch)
    w, a = cells([1] * model.parameters), cells([1] * model.activations)
    run_forward(plan, at, w, a, s)
    run_backward(plan, at, w, w[:], a, s)
    assert s.highest == model.scratch - 1


@settings(max_examples=60, deadline=None)
@given(trials(), st.floats(0, 1))
@pytest.mark.usefixtures("compiled")
def test_any_step_stays_in_int32_and_gives_the_bits_of_the_compiled_one(trial: Any, beta: float) -> None:
    model, fractions, weights, activations, label, rounding = trial
    learner = Learner(model, rounding, model.weights)
    w, a = weight_cells(model, weights), cells(activations)
    learner.weights[:] = w.tobytes()
    model.scale(learner._plan, fractions)
    learner.set_rate(beta)
    plan = array("i", learner._plan)
    s = array("i", bytes(4 * model.scratch))
    targets = [label] if model.loss == "cross_entropy" else activations[-model.outputs :]
    learner.x[:] = array("h", activations[: model.inputs])
    learner.y[:] = array("h", targets)
    for _ in range(2):
        watched = KERNELS["step"](plan, w, w, a, s, cells(targets))
        assert learner._kernels.step(learner._p, learner._w, learner._w, learner._a, learner._s, learner._y) == watched
    assert w.tobytes() == bytes(learner.weights)
    assert a.tobytes() == learner._activations.tobytes()
    assert plan == learner._plan


def test_the_rounding_of_tens_of_thousands_of_weights_stays_in_int32() -> None:
    model = Model([["input", 13, MAX_SUM], ["depthwise1d", 13, 1, 0], ["flatten"], ["squared_error"]])
    plan, at = plan_of(model)
    plan[fields.RANDOM] = plan[fields.DITHER] = 65535
    w, a = cells([1]) * model.parameters, cells([1]) * model.activations
    run_backward(plan, at, w, w, a, array("i", bytes(4 * model.scratch)))


@weights_of
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("compiled")
def test_the_watched_source_computes_what_the_compiled_one_does(name: str, weights: str) -> None:
    drawn = draw(NETWORKS[name], 5, weights)
    learner = drawn.learner()
    learner.set_rate(0.02)
    plan = array("i", learner._plan)
    w = weight_cells(drawn.model, drawn.cells.tolist())
    a = cells([0] * drawn.model.activations)
    s = array("i", bytes(4 * drawn.model.scratch))
    for _ in range(3):
        a[: drawn.model.inputs] = cells(drawn.x.tolist())
        KERNELS["step"](plan, w, w, a, s, cells(drawn.y.tolist()))
        learner.step(array("h", drawn.x.tolist()), array("h", drawn.y.tolist()))
    assert w.tobytes() == bytes(learner.weights)


@pytest.mark.parametrize("module", [*ARITHMETIC, "mel"])
def test_no_literal_of_a_kernel_is_an_object_on_a_board(module: str) -> None:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    numbers = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, int)]
    assert len(numbers) > 30
    assert max(numbers) < 1 << 30
