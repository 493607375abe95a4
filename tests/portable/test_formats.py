"""Initializations as they arrive, in 16 and in 8 bits; and the kernels for 8 bits, which a program writes."""

from __future__ import annotations

import importlib.util
import re
from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyreptile import plan, sparse_delta
from tinyreptile.geometry import tensors
from tinyreptile.learner import Learner
from tinyreptile.model import FRACTION, LEAST_FRACTION, Model

from ..environment import ARITHMETIC, CLIENT, PACKAGE
from .networks import FORMATS, NETWORKS, cells_of, draw

MODEL = [["input", 5, 4, 1], ["conv2d", 3, 3, 1, 1, "relu"], ["depthwise2d", 2, 2, 0], ["flatten"], ["dense", 2]]
SPEC = [*MODEL, ["squared_error"]]
SMALLEST = [["input", 1], ["dense", 1], ["squared_error"]]

CONSTANT = re.compile(r"^_([A-Z_]+) = const\((\d+)( \* 4)?\)", re.MULTILINE)  # a name, its cell; or bytes


def receive(learner: Learner, wire: bytes) -> None:
    learner.wire[:] = wire
    learner.receive()
    learner.load()


@pytest.mark.parametrize(
    ("weights", "encoding", "size"), [("int16", "int16", 2 * 71), ("int16", "int8", 71 + 6), ("int8", "int8", 71 + 6)]
)
def test_the_wire_takes_as_many_bytes_as_an_initialization_has(weights: str, encoding: str, size: int) -> None:
    learner = Learner(Model(SPEC, weights), encoding=encoding)
    assert (learner.model.parameters, len(learner.model.offsets)) == (71, 6)
    assert len(learner.wire) == size
    assert len(learner.initialization) == len(learner.weights) == (2 if weights == "int16" else 1) * 71


def test_sixteen_bits_are_taken_as_they_are() -> None:
    learner = Learner(Model(SPEC))
    cells = np.random.default_rng(0).integers(-32767, 32768, 71).astype("<i2")
    receive(learner, cells.tobytes())
    assert cells_of(learner).tolist() == cells.tolist()


@pytest.mark.parametrize(
    ("weights", "encoding", "wire", "raised"),
    [
        ("int16", "int16", array("h", [-32768] * 3).tobytes(), -32767),
        ("int16", "int8", bytes([LEAST_FRACTION] * 2 + [0x80] * 3), -32767),
        ("int16", "int8", bytes([LEAST_FRACTION + 1] * 2 + [0x80] * 3), -16384),
        ("int8", "int8", bytes([LEAST_FRACTION] * 2 + [0x80] * 3), -127),
    ],
)
@pytest.mark.usefixtures("compiled")
def test_a_weight_that_has_no_negative_is_raised_by_one(weights: str, encoding: str, wire: bytes, raised: int) -> None:
    learner = Learner(Model([["input", 2], ["dense", 1], ["squared_error"]], weights), encoding=encoding)
    receive(learner, wire)
    cells = np.frombuffer(learner.weights, np.int16 if weights == "int16" else np.int8)
    assert cells.tolist() == [raised] * 3
    # The largest sum that there is: had the weights stayed, it would have left 32 bits, and changed its sign.
    assert learner.predict([-32768, -32768])[0] == 32767


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([SPEC, SMALLEST, NETWORKS["wide"]]),
    st.randoms(use_true_random=False),
)
def test_eight_bits_are_widened_to_the_same_weights(spec: list[list[Any]], random: Any) -> None:
    model = Model(spec)
    fractions = [random.randint(LEAST_FRACTION, FRACTION) for _ in model.offsets]
    cells = np.array([random.choice((127, -127, 0, random.randint(-127, 127))) for _ in range(model.parameters)])
    learner = Learner(model, encoding="int8")
    receive(learner, bytes(fractions) + cells.astype(np.int8).tobytes())
    sizes = [int(np.prod(shape)) for _, _, shape in tensors(model)]
    assert (cells_of(learner) / 4096 == cells / np.repeat(2.0 ** np.array(fractions), sizes)).all()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("compiled")
def test_widened_weights_compute_what_the_same_weights_of_16_bits_do(name: str) -> None:
    drawn = draw(NETWORKS[name], 4, "int8")
    widened = Learner(Model(drawn.spec), encoding="int8")
    receive(widened, drawn.wire())
    exact = Learner(Model(drawn.spec))
    receive(exact, (drawn.cells * drawn.units * 4096).astype("<i2").tobytes())
    for learner in (widened, exact):
        learner.set_rate(0.1)
        learner.step(array("h", drawn.x.tolist()), array("h", drawn.y.tolist()))
    assert widened.weights == exact.weights != exact.initialization


def test_an_initialization_can_be_received_again_over_a_widened_one() -> None:
    learner = Learner(Model(SPEC), encoding="int8")
    for value in (100, -3):
        receive(learner, bytes([8] * 6) + bytes([value & 0xFF] * 71))
        assert set(cells_of(learner)) == {value * 16}


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("fraction", [0, LEAST_FRACTION - 1, FRACTION + 1, 255])
@pytest.mark.parametrize("tensor", [0, 5])
def test_fraction_bits_that_no_kernel_can_shift_by_are_refused(weights: str, fraction: int, tensor: int) -> None:
    learner = Learner(Model(SPEC, weights), encoding="int8")
    fractions = [7] * 6
    fractions[tensor] = fraction
    learner.wire[:] = bytes(fractions) + bytes(71)
    plan = learner._plan[:]
    with pytest.raises(ValueError, match=f"8-bit weights have 4 to 12 fraction bits, not {fraction}"):
        learner.receive()
    assert (learner._plan, set(learner.fractions)) == (plan, {FRACTION})


@pytest.mark.parametrize(("weights", "encoding"), [("int8", "int16"), ("int16", "int4"), ("int8", ""), ("int16", None)])
def test_an_encoding_that_does_not_go_with_the_weights_is_refused(weights: str, encoding: Any) -> None:
    with pytest.raises(ValueError, match=f"an initialization of {encoding} is nothing for weights of {weights}"):
        Learner(Model(SPEC, weights), encoding=encoding)


@pytest.mark.parametrize("fraction", range(LEAST_FRACTION, FRACTION + 1))
@pytest.mark.usefixtures("compiled")
def test_eight_bit_weights_mean_what_their_fraction_bits_say(fraction: int) -> None:
    learner = Learner(Model([["input", 2], ["dense", 1], ["squared_error"]], "int8"), encoding="int8")
    receive(learner, bytes([fraction, FRACTION]) + bytes([64, 256 - 32, 127]))
    x = [1 << fraction, 1 << fraction]
    assert list(learner.predict(x)) == [64 - 32 + 32]  # 127 / 4096 in Q5.10, rounded


@pytest.mark.parametrize("fraction", range(LEAST_FRACTION, FRACTION + 1))
@pytest.mark.usefixtures("compiled")
def test_the_biass_fraction_bits_are_its_own(fraction: int) -> None:
    learner = Learner(Model([["input", 1], ["dense", 1], ["squared_error"]], "int8"), encoding="int8")
    receive(learner, bytes([LEAST_FRACTION, fraction]) + bytes([0, 96]))
    output = 96 << 10 >> fraction
    assert list(learner.predict([0])) == [output]
    learner.set_rate(1)
    learner.step([0], [output - 32])  # an error of 1/32, a step of 1/16
    assert cells_of(learner).tolist() == [0, max(-127, 96 - (1 << fraction >> 4))]


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.usefixtures("compiled")
def test_weights_saturate_symmetrically(weights: str) -> None:
    drawn = draw(NETWORKS["linear convolutions"], 0, weights)
    limit = 127 if weights == "int8" else 32767
    learner = drawn.learner()
    learner.set_rate(1)
    reached = set()
    rng = np.random.default_rng(1)
    for _ in range(200):
        x = rng.integers(-32767, 32768, learner.model.inputs)
        learner.step(x.tolist(), rng.integers(-32767, 32768, learner.model.outputs).tolist())
        reached |= {int(cells_of(learner).min()), int(cells_of(learner).max())}
    assert max(reached) == limit
    assert min(reached) == -limit


def writer() -> Any:
    specification = importlib.util.spec_from_file_location("make_kernels8", CLIENT / "make_kernels8.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ARITHMETIC)
def test_the_kernels_for_8_bits_are_those_that_their_writer_makes(name: str) -> None:
    assert writer().MODULES == ARITHMETIC
    written = writer().narrow((PACKAGE / f"{name}.py").read_text(), name)
    assert (PACKAGE / f"{name}8.py").read_text() == written
    assert not any(f"{pointer}: ptr16" in written for pointer in ("w", "u", "base"))


def test_the_constants_of_each_module_are_the_plans() -> None:
    found = set()
    for module in ("kernels", "convolutions", "loops", "taps", "layers", "shifts", "learner", "thumb", "thumb_taps"):
        for name, value, unit in CONSTANT.findall((PACKAGE / f"{module}.py").read_text()):
            if hasattr(plan, name):
                assert int(value) == getattr(plan, name), (module, name)
                assert bool(unit) == module.startswith("thumb")
                found.add(name)
    assert found == {name for name in vars(plan) if name.isupper()}


def test_the_constants_of_a_sparse_delta_are_those_of_its_arithmetic() -> None:
    constants = {name: int(value) for name, value, _ in CONSTANT.findall((PACKAGE / "sparse.py").read_text())}
    assert len(constants) == sparse_delta.STATE
    assert constants == {name: getattr(sparse_delta, name) for name in constants}
