"""Packed bytes to floats: by hand, and bit for bit what the device's own inverse gives."""

from __future__ import annotations

import random

import numpy as np
import pytest

from coordinator.deltas import UNIT, unpack
from tinyreptile import unpacking
from tinyreptile.delta import BITS, DeltaError
from tinyreptile.learner import Learner
from tinyreptile.model import Model
from tinyreptile.unpacking import packed_size

THREE = Model([["input", 2], ["dense", 1], ["squared_error"]])  # two weights and a bias
SINE = Model([["input", 1], ["dense", 32, "relu"], ["dense", 32, "relu"], ["dense", 1], ["squared_error"]])
ODD = Model([["input", 3], ["dense", 5, "relu"], ["dense", 3, "relu"], ["dense", 1], ["squared_error"]])


@pytest.mark.parametrize(
    ("packed", "bits", "cells"),
    [
        ("0100 ffff 0080", 16, [1, -1, -32768]),
        ("0001 ff7f 0000", 16, [256, 32767, 0]),
        ("01 ff 80", 8, [1, -1, -128]),
        ("7f 00 fe", 8, [127, 0, -2]),
        ("f1 08", 4, [1, -1, -8]),
        ("87 0f", 4, [7, -8, -1]),
        ("87 ff", 4, [7, -8, -1]),  # the spare half of the last byte does not count
    ],
)
def test_cells_are_signed_and_the_earlier_one_lies_in_the_low_end(packed: str, bits: int, cells: list[int]) -> None:
    assert (unpack(THREE, bytes.fromhex(packed), bits, [65536, 65536]) * UNIT).tolist() == cells


def test_each_tensor_has_its_gain() -> None:
    values = unpack(THREE, bytes([1, 2, 3]), 8, [32768, 16384])
    assert (values * UNIT).tolist() == [2, 4, 12]


def test_a_delta_is_float64_in_weights() -> None:
    values = unpack(THREE, bytes.fromhex("0010 00f0 0008"), 16, [65536, 65536])
    assert values.dtype == np.float64
    assert values.tolist() == [1.0, -1.0, 0.5]


def test_a_delta_is_an_array_of_its_own() -> None:
    packed = bytearray([1, 2, 3])
    values = unpack(THREE, packed, 8, [65536, 65536])
    packed[:] = bytes(3)
    assert (values * UNIT).tolist() == [1, 2, 3]
    assert values.flags.writeable


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("model", [THREE, SINE, ODD], ids=["three", "sine", "odd tensors"])
def test_the_coordinator_reads_the_same_bits_as_the_device(model: Model, bits: int) -> None:
    rng = random.Random(bits)
    for _ in range(20):
        packed = rng.randbytes(packed_size(model.parameters, bits))
        gains = [rng.choice([1, 3, 4660, 65535, 65536, rng.randint(1, 65536)]) for _ in model.offsets]
        reference = [value / UNIT for value in unpacking.unpack(model, packed, bits, gains)]
        assert unpack(model, packed, bits, gains).tolist() == reference


def test_sixteen_bits_bring_a_learners_delta_to_the_coordinator_whole() -> None:
    learner = Learner(SINE)
    rng = np.random.default_rng(5)
    base = rng.integers(-3000, 3000, SINE.parameters).astype("<i2")
    learned = (base + rng.integers(-900, 900, SINE.parameters)).astype("<i2")
    learner.initialization[:] = base.tobytes()
    learner.load()
    learner.weights[:] = learned.tobytes()
    made = learner.delta(16)
    packed = bytearray(made.size)
    made.pack(0, packed)
    assert (unpack(SINE, packed, 16, made.gains) * UNIT).tolist() == (learned - base).tolist()


@pytest.mark.parametrize(
    ("size", "bits", "said"),
    [
        (2, 8, "2 bytes are no delta of 3 numbers at 8 bits"),
        (4, 8, "4 bytes are no delta of 3 numbers at 8 bits"),
        (3, 16, "3 bytes are no delta of 3 numbers at 16 bits"),
        (1, 4, "1 bytes are no delta of 3 numbers at 4 bits"),
        (3, 7, "7 bits and 2 gains are no delta of this model"),
    ],
)
def test_bytes_that_are_no_delta_of_the_model_are_refused(size: int, bits: int, said: str) -> None:
    with pytest.raises(DeltaError, match=said):
        unpack(THREE, bytes(size), bits, [1, 1])


@pytest.mark.parametrize("gains", [[], [1], [1, 1, 1], [0, 1], [1, 65537], [-1, 1]])
def test_gains_that_do_not_fit_are_refused(gains: list[int]) -> None:
    with pytest.raises(DeltaError, match=r"gains are no delta of this model|between 1 and 65536"):
        unpack(THREE, bytes(3), 8, gains)
