"""Deltas: what quantization keeps, and that it can be undone anywhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator import deltas
from tinyreptile.delta import BITS, Delta, DeltaError
from tinyreptile.geometry import tensors
from tinyreptile.model import FRACTION, LEAST_FRACTION, Model
from tinyreptile.sparse_delta import SparseDelta
from tinyreptile.unpacking import packed_size, unpack

from .networks import FORMATS, LIMITS

SINE = [["input", 1], ["dense", 32, "relu"], ["dense", 32, "relu"], ["dense", 1], ["squared_error"]]
ODD = [["input", 3], ["dense", 5, "relu"], ["dense", 3, "relu"], ["dense", 1], ["squared_error"]]
IMAGES = [
    ["input", 6, 6, 1],
    ["conv2d", 5, 3, 2, 1, "relu"],
    ["depthwise2d", 3, 1, 1],
    ["average"],
    ["dense", 3],
    ["cross_entropy"],
]
SMALL = [["input", 1], ["dense", 1], ["squared_error"]]
SPECS = {"sine": SINE, "odd tensors": ODD, "images": IMAGES, "two parameters": SMALL}
MODELS = {(name, weights): Model(spec, weights) for name, spec in SPECS.items() for weights in FORMATS}

bits_of = pytest.mark.parametrize("bits", BITS)
model_of = pytest.mark.parametrize("model", MODELS.values(), ids=map("-".join, MODELS))
few = st.sampled_from([model for model in MODELS.values() if model.parameters < 200])


class Changes:
    """Weights, the initialization that they come from and the fraction bits of their tensors."""

    def __init__(self, model: Model, weights: Any, base: Any, fractions: list[int]) -> None:
        self.model = model
        self.fractions = fractions
        kind = "<i2" if model.weights == "int16" else np.int8
        self.weights, self.base = (bytearray(np.asarray(cells, kind).tobytes()) for cells in (weights, base))
        sizes = [int(np.prod(shape)) for _, _, shape in tensors(model)]
        ups = np.repeat([1 << (FRACTION - fraction) for fraction in fractions], sizes)
        difference = (np.asarray(weights, np.int64) - np.asarray(base, np.int64)) * ups
        self.exact = np.clip(difference, -32767, 32767)  # in units of 2^-12

    def delta(self, bits: int, r: int = 0, kept: int | None = None) -> Delta:
        what = self.model, self.weights, self.base, self.fractions, bits, r
        return Delta(*what) if kept is None else SparseDelta(*what, kept)


def draw(model: Model, seed: int = 0, share: float = 0.06) -> Changes:
    """Changes by up to that share of the largest weight."""
    rng = np.random.default_rng(seed)
    limit = LIMITS[model.weights]
    spread = max(1, int(share * limit))
    base = rng.integers(-(limit - spread), limit - spread + 1, model.parameters)
    weights = base + rng.integers(-spread, spread + 1, model.parameters)
    low = FRACTION if model.weights == "int16" else LEAST_FRACTION
    return Changes(model, weights, base, rng.integers(low, FRACTION + 1, len(model.offsets)).tolist())


@st.composite
def any_changes(draw: st.DrawFn) -> Changes:
    """Any two sets of cells."""
    model = draw(few)
    limit = LIMITS[model.weights]
    pool = draw(st.lists(st.integers(-limit - 1, limit), min_size=1, max_size=8))
    cells = st.lists(st.sampled_from(pool) | st.integers(-limit - 1, limit), min_size=1, max_size=model.parameters)
    weights, base = (np.resize(draw(cells), model.parameters) for _ in range(2))
    low = FRACTION if model.weights == "int16" else LEAST_FRACTION
    count = len(model.offsets)
    fractions = draw(st.lists(st.integers(low, FRACTION), min_size=count, max_size=count))
    return Changes(model, weights, base, fractions)


def pack(delta: Delta) -> bytes:
    packed = bytearray(b"\xaa" * delta.size)
    assert delta.pack(0, packed) == delta.size
    return bytes(packed)


def read(delta: Delta) -> np.ndarray:
    return np.array(unpack(delta.model, pack(delta), delta.bits, delta.gains, delta.kept))


def quanta(delta: Delta) -> np.ndarray:
    """Of each cell, what a difference of 1 in its packed number is worth."""
    sizes = [int(np.prod(shape)) for _, _, shape in tensors(delta.model)]
    return np.repeat(65536 / np.array(delta.gains, float), sizes)


def largest(exact: np.ndarray, kept: int) -> list[int]:
    """The cells of the largest changes, of equal ones the first, in growing order."""
    return sorted(sorted(range(len(exact)), key=lambda i: (-abs(exact[i]), i))[:kept])


@model_of
@pytest.mark.parametrize("share", [0.06, 0.5])
def test_sixteen_bits_lose_nothing(model: Model, share: float) -> None:
    changes = draw(model, share=share)
    delta = changes.delta(16, r=12345)
    assert set(delta.gains) == {65536}
    assert read(delta).tolist() == changes.exact.tolist()


@pytest.mark.parametrize("kept", [None, 2])
@pytest.mark.parametrize("bits", [8, 4])
@model_of
def test_rounding_is_unbiased_in_every_cell(model: Model, bits: int, kept: int | None) -> None:
    changes = draw(model)
    total = np.zeros(model.parameters)
    starts = range(0, 65536, 256)  # evenly spread: the mean of the rounding is met to one in their number
    for r in starts:
        delta = changes.delta(bits, r, kept)
        total += deltas.unpack(model, pack(delta), bits, delta.gains, kept) * deltas.UNIT
    mean = total / len(starts)
    wanted = changes.exact.copy()
    if kept is not None:
        wanted[[i for i in range(model.parameters) if i not in largest(wanted, kept)]] = 0
    assert (np.abs(mean - wanted) <= quanta(delta) / len(starts) + 1e-9).all()


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("bits", [8, 4])
def test_one_packing_is_unbiased_over_its_cells(bits: int, weights: str) -> None:
    changes = draw(MODELS["sine", weights])
    delta = changes.delta(bits, 777)
    errors = read(delta) - changes.exact
    # A rounding that is uniform has a variance of 1/6 step^2 at most; five deviations of the mean.
    assert abs((errors / quanta(delta)).mean()) < 5 * math.sqrt(1 / 6 / len(errors))


@model_of
@bits_of
@pytest.mark.parametrize("kept", [None, 1, 2, 0.3])
@pytest.mark.parametrize("piece", [1, 3, 7, 100])
def test_pieces_pack_to_the_same_bytes_as_the_whole(model: Model, bits: int, kept: Any, piece: int) -> None:
    if kept == 0.3:
        kept = -(-model.parameters * 3 // 10)
    if bits == 16 and kept is None:
        piece *= 2
    delta = draw(model).delta(bits, 4321, kept)
    parts = []
    for start in range(0, delta.size, piece):
        buffer = bytearray(b"\xaa" * piece)
        parts.append(bytes(buffer[: delta.pack(start, buffer)]))
    assert b"".join(parts) == pack(delta)


@pytest.mark.parametrize(("start", "size"), [(1, 2), (0, 3), (3, 1)])
def test_a_piece_that_cuts_a_cell_in_two_is_refused(start: int, size: int) -> None:
    with pytest.raises(DeltaError, match="even"):
        draw(MODELS["odd tensors", "int16"]).delta(16).pack(start, bytearray(size))


@pytest.mark.parametrize("kept", [None, 100])
def test_packing_again_gives_the_same_bytes(kept: int | None) -> None:
    delta = draw(MODELS["sine", "int16"]).delta(4, 5, kept)
    assert pack(delta) == pack(delta)


@pytest.mark.parametrize("kept", [None, 300])
def test_a_piece_is_packed_into_the_memoryview_it_is_given(kept: int | None) -> None:
    delta = draw(MODELS["sine", "int16"]).delta(8, 5, kept)
    buffer = bytearray(40)
    delta.pack(100, memoryview(buffer)[10:30])
    assert bytes(buffer) == bytes(10) + pack(delta)[100:120] + bytes(10)


@bits_of
@pytest.mark.parametrize("kept", [None, 2])
@pytest.mark.parametrize(("weights", "fraction"), [("int16", FRACTION), ("int8", LEAST_FRACTION)])
def test_changes_beyond_int16_saturate_with_their_sign(
    bits: int, kept: int | None, weights: str, fraction: int
) -> None:
    limit = LIMITS[weights]
    changes = Changes(MODELS["two parameters", weights], [limit, -limit - 1], [-limit - 1, limit], [fraction] * 2)
    top = (1 << (bits - 1)) - 1
    values = read(changes.delta(bits, 0, kept))
    assert values[0] == pytest.approx(32767, rel=1 / top)
    assert values[1] == pytest.approx(-32767, rel=1 / top)


@pytest.mark.parametrize("kept", [None, 10])
def test_a_delta_of_weights_that_did_not_move_is_all_zeros(kept: int | None) -> None:
    model = MODELS["sine", "int16"]
    still = Changes(model, [5] * model.parameters, [5] * model.parameters, [FRACTION] * 6)
    assert not read(still.delta(8, 1, kept)).any()


@pytest.mark.parametrize(
    ("parameters", "bits", "kept", "size"),
    [
        *((3, 16, None, 6), (3, 8, None, 3), (3, 4, None, 2), (4, 4, None, 2), (1, 4, None, 1)),
        # A map of parameters >> low and kept bits, low bits, numbers; each begins with a new byte.
        (1, 16, 1, 1 + 0 + 2),
        (100, 8, 100, 25 + 0 + 100),
        (100, 8, 10, (100 // 8 + 1 + 10 + 7) // 8 + 4 + 10),
        (1000, 4, 100, (999 // 8 + 1 + 100 + 7) // 8 + 38 + 50),
        (1 << 20, 4, 10486, (((1 << 20) - 1) // 64 + 1 + 10486 + 7) // 8 + 7865 + 5243),
    ],
)
def test_a_packed_delta_has_no_byte_too_many(parameters: int, bits: int, kept: int | None, size: int) -> None:
    assert packed_size(parameters, bits, kept) == size


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.2])
def test_a_sparse_delta_spends_no_more_than_two_bits_beyond_the_logarithm_on_a_cells_number(share: float) -> None:
    parameters = 100_000
    kept = int(parameters * share)
    numbers = packed_size(parameters, 8, kept) - kept
    assert 8 * numbers <= kept * (math.log2(parameters / kept) + 2) + 32


def test_the_spare_half_of_the_last_byte_is_zero() -> None:
    model = Model([["input", 2], ["dense", 1], ["squared_error"]])
    assert pack(Changes(model, [-5, -6, -7], [0, 0, 0], [FRACTION] * 2).delta(4))[-1] >> 4 == 0


def test_a_sparse_delta_reads_as_its_description_says() -> None:
    model = Model([["input", 9], ["dense", 1], ["squared_error"]])
    cells = [0, 90, 0, 0, -100, 0, 0, 0, 7, 95]
    delta = Changes(model, cells, [0] * 10, [FRACTION] * 2).delta(16, 0, kept=3)
    # Cells 1, 4 and 9 of 10: one low bit each; high parts 0, 2 and 4, so bits 0 + 0, 2 + 1 and 4 + 2 of the map.
    assert pack(delta).hex() == "49" + "05" + "5a00" + "9cff" + "5f00"


# Which are kept


@pytest.mark.parametrize("kept", [1, 2, 5, 11])
def test_of_equal_changes_the_first_are_kept(kept: int) -> None:
    model = Model([["input", 10], ["dense", 1], ["squared_error"]])
    changes = Changes(model, [3, -9, 3, 9, -3, 9, 0, 3, 3, 0, -3], [0] * 11, [FRACTION] * 2)
    values = read(changes.delta(16, 0, kept))
    wanted = [1, 3, 5, 0, 2, 4, 7, 8, 10, 6, 9][:kept]
    assert values.tolist() == [changes.exact[i] if i in wanted else 0 for i in range(11)]


def test_changes_of_tensors_with_other_scales_are_compared_by_their_worth() -> None:
    changes = Changes(MODELS["two parameters", "int8"], [3, 100], [0, 0], [4, 12])
    assert read(changes.delta(16, 0, 1)).tolist() == [3 * 256, 0]


@settings(max_examples=150, deadline=None)
@given(any_changes(), st.sampled_from(BITS), st.integers(0, 65535), st.data())
def test_any_kept_changes_come_back_within_a_quantum_and_are_the_largest(
    changes: Changes, bits: int, r: int, data: Any
) -> None:
    kept = data.draw(st.integers(1, changes.model.parameters) | st.just(1))
    delta = changes.delta(bits, r, kept)
    assert delta.kept == kept
    assert all(1 <= gain <= 65536 for gain in delta.gains)
    chosen = largest(changes.exact, kept)
    values = read(delta)
    others = np.delete(values, chosen)
    assert not others.any()
    assert (np.abs(values - changes.exact)[chosen] < quanta(delta)[chosen]).all()
    assert (deltas.unpack(changes.model, pack(delta), bits, delta.gains, kept) * deltas.UNIT == values).all()


@settings(max_examples=100, deadline=None)
@given(any_changes(), st.sampled_from(BITS), st.integers(0, 65535))
def test_any_changes_come_back_within_a_quantum(changes: Changes, bits: int, r: int) -> None:
    delta = changes.delta(bits, r)
    assert all(1 <= gain <= 65536 for gain in delta.gains)
    assert (np.abs(read(delta) - changes.exact) < quanta(delta)).all()


@settings(max_examples=60, deadline=None)
@given(any_changes(), st.sampled_from(BITS), st.integers(0, 65535), st.integers(0, 9))
def test_a_kept_change_is_rounded_as_it_is_in_a_delta_of_all(changes: Changes, bits: int, r: int, part: int) -> None:
    kept = 1 + changes.model.parameters * part // 10
    chosen = largest(changes.exact, kept)
    assert (read(changes.delta(bits, r, kept))[chosen] == read(changes.delta(bits, r))[chosen]).all()


# Damage


@settings(max_examples=60, deadline=None)
@given(few, st.sampled_from(BITS), st.data())
def test_the_coordinator_unpacks_any_bytes_to_the_same_bits(model: Model, bits: int, data: Any) -> None:
    size = packed_size(model.parameters, bits)
    packed = data.draw(st.binary(min_size=size, max_size=size))
    tensors = len(model.offsets)
    gains = data.draw(st.lists(st.integers(1, 65536), min_size=tensors, max_size=tensors))
    reference = [value / deltas.UNIT for value in unpack(model, packed, bits, gains)]
    assert deltas.unpack(model, packed, bits, gains).tolist() == reference


def outcome(inverse: Any, unit: int, *arguments: Any) -> Any:
    try:
        return [value * unit for value in inverse(*arguments)]
    except DeltaError:
        return "damaged"


@settings(max_examples=200, deadline=None)
@given(any_changes(), st.sampled_from(BITS), st.data())
def test_a_damaged_sparse_delta_is_refused_or_read_alike_by_device_and_coordinator(
    changes: Changes, bits: int, data: Any
) -> None:
    model = changes.model
    kept = data.draw(st.integers(1, model.parameters))
    delta = changes.delta(bits, 0, kept)
    packed = bytearray(pack(delta))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    arguments = model, bytes(packed), bits, delta.gains, kept
    by_device = outcome(unpack, 1, *arguments)
    assert outcome(deltas.unpack, deltas.UNIT, *arguments) == by_device
    if by_device != "damaged":
        assert sum(value != 0 for value in by_device) <= kept


@pytest.mark.parametrize("inverse", [unpack, deltas.unpack], ids=["device", "coordinator"])
@pytest.mark.parametrize("fill", [0x00, 0xFF, 0x81])
@pytest.mark.parametrize("kept", [1, 3, 100, 600])
@bits_of
def test_a_map_with_too_many_or_too_few_cells_is_refused(inverse: Any, fill: int, kept: int, bits: int) -> None:
    model = MODELS["sine", "int16"]
    packed = bytes([fill]) * packed_size(model.parameters, bits, kept)
    with pytest.raises(DeltaError, match="the numbers of the kept changes are damaged"):
        inverse(model, packed, bits, [65536] * 6, kept)


@pytest.mark.parametrize("inverse", [unpack, deltas.unpack], ids=["device", "coordinator"])
@pytest.mark.parametrize(
    "packed",
    [
        "19" + "02" + "010203",  # cells 0, 5, 4
        "19" + "06" + "010203",  # cells 0, 5, 5
        "83" + "02" + "010203",  # cells 0, 1, 10 of 7
        "43" + "02" + "010203",  # cells 0, 1, 8 of 7
    ],
)
def test_numbers_of_cells_that_do_not_grow_or_lie_beyond_the_last_are_refused(inverse: Any, packed: str) -> None:
    model = Model([["input", 6], ["dense", 1], ["squared_error"]])
    with pytest.raises(DeltaError, match="damaged"):
        inverse(model, bytes.fromhex(packed), 8, [1, 1], 3)
    good = bytes.fromhex("1904" + "010203")
    assert np.flatnonzero(inverse(model, good, 8, [1, 1], 3)).tolist() == [0, 4, 5]


@pytest.mark.parametrize("inverse", [unpack, deltas.unpack], ids=["device", "coordinator"])
@pytest.mark.parametrize(
    ("size", "bits", "gains", "kept"),
    [
        *((1, 8, [1, 1], None), (3, 8, [1, 1], None), (0, 8, [1, 1], None), (2, 16, [65536, 65536], None)),
        *((2, 4, [1, 1], None), (2, 7, [1, 1], None), (2, 0, [1, 1], None)),
        *((2, 8, [1], None), (2, 8, [1, 1, 1], None), (2, 8, [], None)),
        *((2, 8, [0, 1], None), (2, 8, [1, -1], None), (2, 8, [1, 65537], None)),
        *((2, 8, [1, 1], 1), (4, 8, [1, 1], 1), (3, 8, [1, 1], 0), (3, 8, [1, 1], -1), (3, 8, [1, 1], 3)),
    ],
)
def test_sizes_bits_gains_and_counts_that_do_not_fit_are_refused(
    inverse: Any, size: int, bits: int, gains: list[int], kept: int | None
) -> None:
    with pytest.raises(DeltaError):
        inverse(MODELS["two parameters", "int16"], bytes(size), bits, gains, kept)


@pytest.mark.parametrize("bits", [0, 1, 2, 7, 12, 32])
def test_a_delta_of_other_bits_is_refused(bits: int) -> None:
    with pytest.raises(DeltaError, match="bits"):
        draw(MODELS["two parameters", "int16"]).delta(bits)


@pytest.mark.parametrize("kept", [0, -1, 3, 1 << 20])
def test_as_many_changes_as_there_are_none_of_can_not_be_kept(kept: int) -> None:
    with pytest.raises(DeltaError, match=f"of 2 changes 1 or more are kept, not {kept}"):
        draw(MODELS["two parameters", "int16"]).delta(8, 0, kept)
