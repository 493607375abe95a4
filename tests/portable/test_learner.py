"""A learner: one step a sample, in memory that does not grow."""

from __future__ import annotations

import math
from array import array
from pathlib import Path

import pytest

from tinyreptile.learner import Learner, fixed
from tinyreptile.model import Model

from ..environment import run_micropython

pytestmark = pytest.mark.usefixtures("compiled")

SPEC = [["input", 2], ["dense", 6, "relu"], ["dense", 3], ["cross_entropy"]]


def start(spec: list[list[object]] = SPEC) -> Learner:
    learner = Learner(Model(spec))
    cells = array("h", [(i * 7919 + 1234) % 6001 - 3000 for i in range(learner.model.parameters)])
    learner.initialization[:] = cells.tobytes()
    learner.load()
    learner.set_rate(0.05)
    return learner


X, LABEL = array("h", [900, -700]), array("h", [1])


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (0, 0),
        (1, 1024),
        (-1.5, -1536),
        (0.49 / 1024, 0),
        (0.5 / 1024, 1),
        (-0.5 / 1024, 0),
        (-0.51 / 1024, -1),
        (31.9991, 32767),
        (32, 32767),
        (-32, -32767),
        (1e30, 32767),
        (math.inf, 32767),
        (-math.inf, -32767),
    ],
)
def test_fixed_rounds_to_a_1024th_and_saturates(value: float, cell: int) -> None:
    assert fixed(value) == cell


def test_fixed_refuses_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="NaN"):
        fixed(math.nan)


def test_steps_on_a_sample_lower_its_loss() -> None:
    learner = start()
    losses = [learner.step(X, LABEL) for _ in range(30)]
    assert losses[-1] < losses[0] / 2


def test_a_step_returns_the_loss_before_it() -> None:
    learner = start()
    before, _ = learner.evaluate(X, LABEL)
    assert learner.step(X, LABEL) == before
    assert learner.evaluate(X, LABEL)[0] < before


def test_the_loss_is_the_mean_of_squared_errors() -> None:
    learner = Learner(Model([["input", 1], ["dense", 2], ["squared_error"]]))
    assert learner.step(array("h", [0]), array("h", [1024, -3072])) == (1 + 9) / 2


def test_evaluating_and_predicting_change_no_weight() -> None:
    learner = start()
    before = bytes(learner.weights)
    learner.evaluate(X, LABEL)
    learner.predict(X)
    assert bytes(learner.weights) == before


def test_a_learning_rate_of_zero_leaves_every_bit() -> None:
    learner = start()
    learner.set_rate(0)
    learner.step(X, LABEL)
    assert learner.weights == learner.initialization


def test_load_begins_anew_from_the_initialization() -> None:
    learner = start()
    learner.step(X, LABEL)
    assert learner.weights != learner.initialization
    learner.load()
    assert learner.weights == learner.initialization


def test_the_same_seed_gives_the_same_bits_and_another_one_others() -> None:
    weights = []
    for seed in (5, 5, 6):
        learner = start()
        learner.seed(seed)
        for _ in range(20):
            learner.step(X, LABEL)
        weights.append(bytes(learner.weights))
    assert weights[0] == weights[1] != weights[2]


def test_a_filled_sample_of_the_learners_own_is_taken_as_it_is() -> None:
    learner, other = start(), start()
    learner.x[:] = X
    learner.y[:] = LABEL
    assert learner.step(learner.x, learner.y) == other.step(X, LABEL)
    assert learner.weights == other.weights


def test_the_predicted_label_is_the_likeliest_class() -> None:
    learner = start()
    shares = list(learner.predict(X))
    assert learner.evaluate(X, LABEL)[1] == shares.index(max(shares))


def test_probabilities_sum_to_one() -> None:
    assert sum(start().predict(X)) == pytest.approx(32768, abs=4)


def test_a_regression_predicts_no_label() -> None:
    learner = start([["input", 2], ["dense", 3], ["squared_error"]])
    assert learner.evaluate(X, array("h", [0, 0, 0]))[1] == -1


@pytest.mark.parametrize("label", [-1, 3, 32767, -32768])
def test_a_label_out_of_range_is_refused_before_any_weight_moves(label: int) -> None:
    learner = start()
    with pytest.raises(ValueError, match="of 3 classes"):
        learner.step(X, array("h", [label]))
    assert learner.weights == learner.initialization


@pytest.mark.parametrize(("x", "y"), [([1], [0]), ([1, 2, 3], [0]), ([1, 2], []), ([1, 2], [0, 0])])
def test_a_sample_of_another_shape_is_refused_before_any_weight_moves(x: list[int], y: list[int]) -> None:
    learner = start()
    with pytest.raises(ValueError, match="a sample of this model has"):
        learner.step(x, y)
    assert learner.weights == learner.initialization


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1, 32768], [0], "32768 among the inputs is no int16"),
        ([1, 0.5], [0], r"0.5 among the inputs is no int16; fixed\(\) makes one of a number"),
        ([1, math.nan], [0], "nan among the inputs"),
        ([1, 2], [70000], "70000 among the targets is no int16"),
        ([1, "2"], [0], "'2' among the inputs"),
    ],
)
def test_what_is_no_int16_is_refused_before_any_weight_moves(x: list[object], y: list[int], words: str) -> None:
    learner = start()
    before = bytes(learner.weights)
    with pytest.raises(ValueError, match=words):
        learner.step(x, y)
    assert bytes(learner.weights) == before


@pytest.mark.parametrize("beta", [-1e-9, 1.0000001, math.nan, math.inf])
def test_a_learning_rate_outside_0_to_1_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        start().set_rate(beta)


ALLOCATIONS = """
import gc
from array import array
from tinyreptile.learner import Learner
from tinyreptile.model import Model

LAYERS = {
    "dense": tuple((("input", 4), ("dense", n, "relu"), ("dense", 16)) for n in (32, 1600)),
    "convolution": tuple(
        (("input", n, n, 1), ("conv2d", m, 3, 2, 1, "relu"), ("depthwise2d", 3, 1, 1), ("average",), ("dense", 16))
        for n, m in ((6, 2), (20, 40))
    ),
}

def grow(layers, weights, work):
    learner = Learner(Model(layers + (("cross_entropy",),), weights), encoding=weights)
    if weights == "int8":
        for i in range(len(learner.model.offsets)):
            learner.wire[i] = 7
    learner.receive()
    learner.set_rate(0.01)
    x, y = learner.x, learner.y
    for i in range(len(x)):
        x[i] = 1000
    piece = bytearray(32)
    learner.step(x, y)
    delta = learner.delta(8, 40 if work == "pack sparse" else None)
    def step():
        learner.step(x, y)
    def evaluate():
        learner.evaluate(x, y)
    def predict():
        learner.predict(x)
    def load():
        learner.load()
    def pack():
        delta.pack(16, piece)
    run = {"step": step, "evaluate": evaluate, "predict": predict, "load": load}.get(work, pack)
    run()
    gc.collect()
    gc.disable()
    before = gc.mem_alloc()
    for _ in range(TIMES):
        run()
    grown = gc.mem_alloc() - before
    gc.enable()
    return grown, learner.model.ram()

TIMES = 200
for kind in ("dense", "convolution"):
    for weights in ("int16", "int8"):
        for work in ("step", "evaluate", "predict", "load", "pack", "pack sparse"):
            print(*(grow(LAYERS[kind][0], weights, work) + grow(LAYERS[kind][1], weights, work)), kind, weights, work)
"""


def test_the_steady_state_allocates_no_more_for_a_larger_model_on_micropython(tmp_path: Path) -> None:
    script = tmp_path / "allocations.py"
    script.write_text(ALLOCATIONS)
    result = run_micropython(script)
    assert result.returncode == 0, result.stderr
    lines = [line.split(maxsplit=4) for line in result.stdout.splitlines()]
    assert len({work for *_, work in lines}) == 24
    for *numbers, work in lines:
        small, small_ram, large, large_ram = map(int, numbers)
        assert large_ram > 20 * small_ram
        assert large == small, work
        assert large <= 200 * 256, work  # a few boxed numbers a call
