"""The initialization as numbers: at random, encoded, and as a device holds it."""

from __future__ import annotations

from binascii import crc32

import numpy as np
import pytest

from coordinator.initialization import HEADROOM, decode, encode, encoded_size, held, random_weights
from tinyreptile.geometry import tensors
from tinyreptile.learner import Learner
from tinyreptile.model import Model

MODEL = [["input", 4], ["dense", 9, "relu"], ["dense", 2], ["squared_error"]]


# Encoding


def line(parameters: int) -> Model:
    """A model of so many parameters."""
    return Model([["input", parameters - 1], ["dense", 1], ["squared_error"]])


def test_what_a_cell_can_hold_comes_back_exactly() -> None:
    cells = np.append(np.arange(-32767, 32768), 0)
    model = Model([["input", 4095], ["dense", 16], ["squared_error"]])
    assert np.array_equal(decode(model, encode(model, cells / 4096)), cells / 4096)


def test_weights_are_little_endian_q3_12() -> None:
    assert encode(line(4), np.array([1.0, -1.0, 1 / 4096, 0.0625])) == bytes.fromhex("0010 00f0 0100 0001")


def test_weights_are_rounded_to_nearest() -> None:
    cells = np.array([0.49, 0.51, -0.49, -0.51, 7.6, -7.6])
    assert (decode(line(6), encode(line(6), cells / 4096)) * 4096).tolist() == [0, 1, 0, -1, 8, -8]


@pytest.mark.parametrize(("weight", "cell"), [(7.9999, 32767), (8, 32767), (1e9, 32767), (-8, -32767), (-1e9, -32767)])
def test_weights_beyond_the_range_saturate_with_their_sign(weight: float, cell: int) -> None:
    assert decode(line(2), encode(line(2), np.array([weight, 0]))).tolist() == [cell / 4096, 0]


def test_a_learner_reads_what_was_encoded() -> None:
    model = Model(MODEL)
    weights = random_weights(model, 1)
    learner = Learner(model)
    learner.wire[:] = encode(model, weights)
    learner.receive()
    learner.load()
    assert np.abs(decode(model, bytes(learner.weights)) - weights).max() <= 0.5 / 4096


@pytest.mark.parametrize("spread", [0.001, 0.02, 0.3, 1.0, 5.0])
def test_eight_bit_weights_are_off_by_half_of_their_tensors_unit(spread: float) -> None:
    model = Model(MODEL, "int8")
    weights = np.random.default_rng(1).uniform(-spread, spread, model.parameters)
    data = encode(model, weights, "int8")
    again = decode(model, data, "int8")
    for index, fraction in enumerate(data[: len(model.offsets)]):
        part = slice(*model.cells(index))
        assert np.abs(again[part] - weights[part]).max() <= 0.5 / 2**fraction
        # The unit is as fine as the largest weight and its room to grow allow, or the finest that there is.
        assert fraction in (4, 12) or np.abs(weights[part]).max() * HEADROOM * 2 ** (fraction + 1) > 127


@pytest.mark.parametrize("weights_format", ["int16", "int8"])
def test_a_learner_of_either_format_reads_eight_bit_weights(weights_format: str) -> None:
    model = Model(MODEL, weights_format)
    data = encode(model, random_weights(model, 1), "int8")
    learner = Learner(model, encoding="int8")
    learner.wire[:] = data
    learner.receive()
    learner.load()
    published = decode(model, data, "int8")
    if weights_format == "int16":
        assert np.array_equal(decode(model, bytes(learner.weights)), published)
    else:
        assert bytes(learner.weights) == data[len(model.offsets) :]


@pytest.mark.parametrize("encoding", ["int16", "int8"])
def test_bytes_of_another_size_are_no_initialization(encoding: str) -> None:
    model = Model(MODEL)
    data = encode(model, np.zeros(model.parameters), encoding)
    assert len(data) == encoded_size(model, encoding)
    with pytest.raises(ValueError, match=f"bytes are no {encoding} initialization"):
        decode(model, data + b"\0", encoding)


def test_a_first_initialization_lies_within_its_layers_bounds_and_fills_them() -> None:
    model = Model([["input", 100], ["dense", 50, "relu"], ["dense", 20], ["squared_error"]])
    weights = random_weights(model, 1)
    fan_ins = [100, 100, 50, 50]
    ends = [offset for _, offset, _ in tensors(model)[1:]] + [model.parameters]
    for (_, offset, _), end, fan_in in zip(tensors(model), ends, fan_ins, strict=True):
        largest = np.abs(weights[offset:end]).max() * np.sqrt(fan_in)
        assert 0.8 < largest <= 1


def test_a_seed_always_gives_the_same_initialization() -> None:
    model = Model(MODEL)
    a, b, other = (random_weights(model, seed) for seed in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, other)


@pytest.mark.parametrize(("weights", "encoding"), [("int16", "int16"), ("int16", "int8"), ("int8", "int8")])
def test_what_is_held_is_what_a_device_makes_of_it(weights: str, encoding: str) -> None:
    model = Model(MODEL, weights)
    data = encode(model, random_weights(model, 1), encoding)
    learner = Learner(model, encoding=encoding)
    learner.wire[:] = data
    learner.receive()
    assert bytes(learner._received) == held(model, data, encoding)
    assert learner.crc() == crc32(held(model, data, encoding))
