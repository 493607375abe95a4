"""Deltas: what quantization keeps, and that it can be undone anywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator import deltas
from tinyreptile.delta import BITS, Delta, DeltaError, packed_size, unpack
from tinyreptile.model import Model

SINE = Model([["input", 1], ["dense", 32, "relu"], ["dense", 32, "relu"], ["dense", 1], ["squared_error"]])
ODD = Model([["input", 3], ["dense", 5, "relu"], ["dense", 3, "relu"], ["dense", 1], ["squared_error"]])
SMALL = Model([["input", 1], ["dense", 1], ["squared_error"]])
MODELS = [SINE, ODD, SMALL]

bits_of = pytest.mark.parametrize("bits", BITS)
model_of = pytest.mark.parametrize("model", MODELS, ids=["sine", "odd tensors", "two parameters"])


def int16(values: Sequence[int] | np.ndarray) -> bytearray:
    return bytearray(np.asarray(values, "<i2").tobytes())


def draw(model: Model, seed: int = 0, spread: int = 900) -> tuple[bytearray, bytearray]:
    """Weights and an initialization that differ by up to ``spread``."""
    rng = np.random.default_rng(seed)
    base = rng.integers(-15000, 15000, model.parameters)
    return int16(base + rng.integers(-spread, spread + 1, model.parameters)), int16(base)


def changes(weights: bytearray, base: bytearray) -> np.ndarray:
    return np.frombuffer(weights, "<i2").astype(np.int64) - np.frombuffer(base, "<i2")


def pack(delta: Delta) -> bytes:
    packed = bytearray(delta.size)
    assert delta.pack(0, packed) == delta.size
    return bytes(packed)


def gain_of_cells(delta: Delta) -> np.ndarray:
    ends = [offset for _, offset, _ in delta.model.tensors[1:]] + [delta.model.parameters]
    return np.repeat(np.array(delta.gains, float), np.diff([0, *ends]))


@model_of
def test_sixteen_bits_lose_nothing(model: Model) -> None:
    weights, base = draw(model, spread=15000)
    delta = Delta(model, weights, base, 16, r=12345)
    assert unpack(model, pack(delta), 16, delta.gains) == changes(weights, base).tolist()


@pytest.mark.parametrize("bits", [8, 4])
@model_of
def test_rounding_is_unbiased_in_every_cell(model: Model, bits: int) -> None:
    weights, base = draw(model)
    total = np.zeros(model.parameters)
    starts = range(0, 65536, 64)  # evenly spread: the mean of the rounding is met to one in their number
    for r in starts:
        delta = Delta(model, weights, base, bits, r)
        total += deltas.unpack(model, pack(delta), bits, delta.gains) * deltas.UNIT
    step = 65536 / gain_of_cells(delta)
    bound = step / len(starts) + 1e-9
    assert (np.abs(total / len(starts) - changes(weights, base)) <= bound).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_one_packing_is_unbiased_over_its_cells(bits: int) -> None:
    weights, base = draw(SINE)
    delta = Delta(SINE, weights, base, bits, 777)
    errors = np.array(unpack(SINE, pack(delta), bits, delta.gains)) - changes(weights, base)
    step = 65536 / gain_of_cells(delta)
    # A rounding that is uniform has a variance of 1/6 step^2 at most; five deviations of the mean.
    assert abs((errors / step).mean()) < 5 * math.sqrt(1 / 6 / SINE.parameters)


@bits_of
@model_of
def test_a_cell_is_off_by_less_than_one_quantum(model: Model, bits: int) -> None:
    weights, base = draw(model)
    delta = Delta(model, weights, base, bits, 999)
    error = np.abs(np.array(unpack(model, pack(delta), bits, delta.gains)) - changes(weights, base))
    assert (error < 65536 / gain_of_cells(delta)).all()


@bits_of
@model_of
@pytest.mark.parametrize("piece", [1, 2, 3, 7, 100, 1024])
def test_pieces_pack_to_the_same_bytes_as_the_whole(model: Model, bits: int, piece: int) -> None:
    if bits == 16:
        piece *= 2
    delta = Delta(model, *draw(model), bits, 4321)
    parts = []
    for start in range(0, delta.size, piece):
        buffer = bytearray(b"\xaa" * piece)
        parts.append(bytes(buffer[: delta.pack(start, buffer)]))
    assert b"".join(parts) == pack(delta)


@pytest.mark.parametrize(("start", "size"), [(1, 2), (0, 3), (3, 1)])
def test_a_piece_that_cuts_a_cell_in_two_is_refused(start: int, size: int) -> None:
    with pytest.raises(DeltaError, match="even"):
        Delta(ODD, *draw(ODD), 16, 0).pack(start, bytearray(size))


def test_packing_again_gives_the_same_bytes() -> None:
    delta = Delta(SINE, *draw(SINE), 4, 5)
    assert pack(delta) == pack(delta)


def test_a_piece_is_packed_into_the_memoryview_it_is_given() -> None:
    delta = Delta(SINE, *draw(SINE), 8, 5)
    buffer = bytearray(40)
    delta.pack(100, memoryview(buffer)[10:30])
    assert bytes(buffer) == bytes(10) + pack(delta)[100:120] + bytes(10)


@bits_of
def test_changes_beyond_int16_saturate_with_their_sign(bits: int) -> None:
    delta = Delta(SMALL, int16([32767, -32768]), int16([-32768, 32767]), bits, 0)
    top = (1 << (bits - 1)) - 1
    values = unpack(SMALL, pack(delta), bits, delta.gains)
    assert values[0] == pytest.approx(32767, rel=1 / top)
    assert values[1] == pytest.approx(-32767, rel=1 / top)


@pytest.mark.parametrize(("parameters", "bits", "size"), [(3, 16, 6), (3, 8, 3), (3, 4, 2), (4, 4, 2), (1, 4, 1)])
def test_a_packed_delta_has_no_byte_too_many(parameters: int, bits: int, size: int) -> None:
    assert packed_size(parameters, bits) == size


def test_the_spare_half_of_the_last_byte_is_zero() -> None:
    model = Model([["input", 2], ["dense", 1], ["squared_error"]])
    delta = Delta(model, int16([-5, -6, -7]), int16([0, 0, 0]), 4, 0)
    assert pack(delta)[-1] >> 4 == 0


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(MODELS),
    st.sampled_from(BITS),
    st.integers(0, 65535),
    st.data(),
)
def test_any_two_sets_of_weights_come_back_within_a_quantum(model: Model, bits: int, r: int, data: Any) -> None:
    cells = st.lists(st.integers(-32768, 32767), min_size=model.parameters, max_size=model.parameters)
    if model.parameters > 100:
        seed = data.draw(st.integers(0, 1000))
        weights, base = draw(model, seed, spread=1 + seed * 17)
    else:
        weights, base = int16(data.draw(cells)), int16(data.draw(cells))
    delta = Delta(model, weights, base, bits, r)
    assert all(1 <= gain <= 65536 for gain in delta.gains)
    packed = pack(delta)
    values = unpack(model, packed, bits, delta.gains)
    exact = np.clip(changes(weights, base), -32767, 32767)
    assert (np.abs(np.array(values) - exact) < 65536 / gain_of_cells(delta)).all()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([ODD, SMALL]), st.sampled_from(BITS), st.data())
def test_the_coordinator_unpacks_any_bytes_to_the_same_bits(model: Model, bits: int, data: Any) -> None:
    size = packed_size(model.parameters, bits)
    packed = data.draw(st.binary(min_size=size, max_size=size))
    tensors = len(model.tensors)
    gains = data.draw(st.lists(st.integers(1, 65536), min_size=tensors, max_size=tensors))
    reference = [value / deltas.UNIT for value in unpack(model, packed, bits, gains)]
    assert deltas.unpack(model, packed, bits, gains).tolist() == reference


@pytest.mark.parametrize("inverse", [unpack, deltas.unpack], ids=["device", "coordinator"])
@pytest.mark.parametrize(
    ("size", "bits", "gains"),
    [
        (1, 8, [1, 1]),
        (3, 8, [1, 1]),
        (0, 8, [1, 1]),
        (2, 16, [65536, 65536]),
        (2, 4, [1, 1]),
        (2, 7, [1, 1]),
        (2, 0, [1, 1]),
        (2, 8, [1]),
        (2, 8, [1, 1, 1]),
        (2, 8, []),
        (2, 8, [0, 1]),
        (2, 8, [1, -1]),
        (2, 8, [1, 65537]),
    ],
)
def test_sizes_bits_and_gains_that_do_not_fit_are_refused(inverse: Any, size: int, bits: int, gains: list[int]) -> None:
    with pytest.raises(DeltaError):
        inverse(SMALL, bytes(size), bits, gains)


@pytest.mark.parametrize("bits", [0, 1, 2, 7, 12, 32])
def test_a_delta_of_other_bits_is_refused(bits: int) -> None:
    with pytest.raises(DeltaError, match="bits"):
        Delta(SMALL, int16([1, 2]), int16([0, 0]), bits, 0)
