"""Versions on their way to devices: of differences a device makes what it would be sent whole, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator import versions
from coordinator.differences import pieces_of
from coordinator.initialization import random_weights
from coordinator.versions import Pieces, Version, Versions
from tests.portable.networks import FORMATS
from tinyreptile.assembly import Assembly
from tinyreptile.learner import Learner
from tinyreptile.messages import PIECE_BYTES, MessageError
from tinyreptile.model import Model

SINE: list[list[Any]] = [["input", 1], ["dense", 32, "relu"], ["dense", 32, "relu"], ["dense", 1], ["squared_error"]]
LARGE: list[list[Any]] = [["input", 40], ["dense", 128, "relu"], ["dense", 8], ["cross_entropy"]]
TINY: list[list[Any]] = [["input", 1], ["dense", 2, "relu"], ["dense", 1], ["squared_error"]]
KINDS = [("int16", "int16"), ("int16", "int8"), ("int8", "int8")]


class Device:
    """A device that holds what it was sent."""

    def __init__(self, model: Model, encoding: str) -> None:
        self.learner = Learner(model, encoding=encoding)
        self.assembly = Assembly(self.learner)

    def take(self, version: Version, pieces: Pieces | None) -> bool:
        """Whether it holds ``version`` after these ``pieces``; None: after the whole."""
        if pieces is None:
            self.assembly.begin(version.number, version.crc)
            for at, data in version.pieces():
                self.assembly.add(at, memoryview(data))
        else:
            self.assembly.begin(version.number, version.crc, memoryview(pieces[0][1]))
            for at, data in pieces[1:]:
                self.assembly.add(at, memoryview(data))
        return bool(self.assembly.version == version.number)


def walk(model: Model, seed: int, spread: float = 0.01) -> Any:
    """Weights that go on and on."""
    rng = np.random.default_rng(seed)
    weights = random_weights(model, seed)
    while True:
        yield weights
        weights = weights + rng.laplace(0, spread, model.parameters)


@pytest.mark.parametrize(("weights", "encoding"), KINDS)
@pytest.mark.parametrize("spec", [SINE, LARGE, TINY])
def test_differences_lead_to_the_same_bits_as_the_whole(spec: list[list[Any]], weights: str, encoding: str) -> None:
    model = Model(spec, weights)
    made, device = Versions(model, set), Device(model, encoding)
    shorter = 0
    for number, phi in zip(range(40), walk(model, 1), strict=False):
        version = made.of(number, phi, encoding)
        pieces = made.changes(version, device.assembly.version)
        assert device.take(version, pieces)
        whole = Device(model, encoding)
        assert whole.take(version, None)
        assert bytes(device.learner._received) == bytes(whole.learner._received)
        assert device.learner.fractions == whole.learner.fractions
        if pieces is not None:
            assert all(len(data) <= PIECE_BYTES for _, data in pieces)
            shorter += sum(len(data) for _, data in pieces) < 0.8 * len(version.data)
    assert shorter > 20 or spec is TINY


@st.composite
def two_sets_of_cells(draw: st.DrawFn) -> tuple[Model, Any, Any]:
    weights = draw(st.sampled_from(FORMATS))
    model = Model(TINY, weights)
    limit = 32767 if weights == "int16" else 127
    cells = st.lists(st.integers(-limit, limit), min_size=model.parameters, max_size=model.parameters)
    near = st.lists(st.integers(-3, 3), min_size=model.parameters, max_size=model.parameters)
    old = np.array(draw(cells), np.int32)
    new = np.array(draw(cells), np.int32) if draw(st.booleans()) else np.clip(old + draw(near), -limit, limit)
    shift = draw(st.integers(0, 8)) if weights == "int16" else 0
    return model, (old >> shift) << shift, (new >> shift) << shift


@settings(max_examples=300, deadline=None)
@given(cells=two_sets_of_cells(), most=st.sampled_from([48, 64, 1280]))
def test_any_cells_become_any_others(cells: tuple[Model, Any, Any], most: int) -> None:
    model, old, new = cells
    learner = Learner(model, encoding=model.weights)
    kind = "<i2" if model.weights == "int16" else np.int8
    learner.initialization[:] = old.astype(kind).tobytes()
    pieces = pieces_of(model, old.astype(np.int32), new.astype(np.int32), most)
    assert all(len(data) <= most for _, data in pieces)
    tensors = len(model.offsets)
    codes = pieces[0][1][:tensors]
    cell = 0
    for at, data in pieces:
        assert at == cell
        cell = learner.change(cell, codes, memoryview(data)[0 if at else tensors :])
    assert cell == model.parameters
    assert bytes(learner.initialization) == new.astype(kind).tobytes()


def test_a_version_that_is_held_needs_nothing() -> None:
    model = Model(SINE)
    made = Versions(model, set)
    version = made.of(3, next(walk(model, 1)), "int8")
    assert made.changes(version, 3) == [(0, b"")]
    assert made.of(3, next(walk(model, 2)), "int8") is version


@pytest.mark.parametrize("held", [None, 7, -1])
def test_from_what_is_not_known_there_is_only_the_whole(held: int | None) -> None:
    model = Model(SINE)
    made = Versions(model, set)
    assert made.changes(made.of(3, next(walk(model, 1)), "int8"), held) is None


def test_differences_that_are_not_shorter_are_not_sent() -> None:
    model = Model(SINE)
    made = Versions(model, set)
    made.of(1, random_weights(model, 1), "int8")
    other = made.of(2, 30 * random_weights(model, 2), "int8")
    assert made.changes(other, 1) is None


def test_8_bit_weights_whose_scale_has_changed_are_sent_whole() -> None:
    model = Model(SINE, "int8")
    made = Versions(model, set)
    phi = random_weights(model, 1)
    made.of(1, phi, "int8")
    assert made.changes(made.of(2, phi * 1.001, "int8"), 1) is not None
    assert made.changes(made.of(3, phi * 4, "int8"), 1) is None


def test_another_encoding_is_sent_whole() -> None:
    model = Model(SINE)
    made = Versions(model, set)
    phi = next(walk(model, 1))
    made.of(1, phi, "int16")
    assert made.changes(made.of(2, phi, "int8"), 1) is None
    assert made.of(2, phi, "int16").encoding == "int16", "it was made anew"


def test_versions_are_remembered_as_far_as_memory_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(SINE)
    of_ten = 10 * (2 + 1) * model.parameters  # cells of 16 bits, and encoded in 8
    of_ten += 10 * len(model.offsets)  # scales
    monkeypatch.setattr(versions, "REMEMBERED_BYTES", of_ten)
    made = Versions(model, set)
    for number, phi in zip(range(50), walk(model, 1), strict=False):
        version = made.of(number, phi, "int8")
        made.of(number, phi, "int8")
    assert made.changes(version, 40) is not None
    assert made.changes(version, 39) is None
    assert made._bytes == of_ten
    assert len(made._latest) == 10


def test_only_versions_that_devices_hold_are_remembered() -> None:
    model = Model(TINY)
    held = {3, 5, 1000}
    made = Versions(model, lambda: held)
    for number, phi in zip(range(3000), walk(model, 1), strict=False):
        made.of(number, phi, "int8")
        assert len(made._latest) <= versions.ROOM
    assert held < set(made._latest)


def pieces_and_device() -> tuple[Device, Version, Pieces]:
    """A device that holds version 0, and what makes version 1 of it in several pieces."""
    model = Model(SINE)
    made, device = Versions(model, set), Device(model, "int8")
    steps = walk(model, 1)
    old, new = made.of(0, next(steps), "int8"), made.of(1, next(steps), "int8")
    assert device.take(old, None)
    return device, new, pieces_of(model, old.cells.astype(np.int32), new.cells.astype(np.int32), 200)


def test_a_piece_of_differences_that_comes_twice_counts_once() -> None:
    device, version, pieces = pieces_and_device()
    assert len(pieces) > 3
    assert device.take(version, [piece for piece in pieces for _ in range(2)][:1] + sorted(2 * pieces[1:]))


def test_a_piece_of_differences_that_is_lost_is_noticed_at_once() -> None:
    device, version, pieces = pieces_and_device()
    assert not device.take(version, [pieces[0], pieces[2]])
    assert device.assembly.failure


def test_differences_of_another_version_than_the_held_one_are_noticed() -> None:
    device, version, pieces = pieces_and_device()
    device.learner.initialization[700] ^= 1
    assert not device.take(version, pieces)
    assert device.assembly.failure


@pytest.mark.parametrize("data", [b"", b"\1", b"\0\0", b"\5\0", b"\xff\xff\1", bytes(200)])
def test_differences_that_are_none_end_in_no_other_memory(data: bytes) -> None:
    device, version, pieces = pieces_and_device()
    codes = pieces[0][1][:6]
    with pytest.raises(MessageError, match="does not belong at 0"):
        device.take(version, [(0, codes + data)])
    assert device.assembly.failure


@settings(max_examples=200, deadline=None)
@given(data=st.binary(min_size=6, max_size=80))
def test_damaged_differences_never_count(data: bytes) -> None:
    device, version, _ = pieces_and_device()
    try:
        whole = device.take(version, [(0, data), (1, data), (5, data)])
    except MessageError:
        whole = False
    assert not whole
