"""A delta as it travels: what a device codes, the coordinator makes the packed delta of, and of nothing else."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.deltas import decode, most_chunks
from coordinator.initialization import encode, random_weights
from simulator.hostile import Forged
from tests.portable.test_delta import MODELS, any_changes, draw
from tinyreptile.coding import Coded
from tinyreptile.delta import BITS, Delta, DeltaError
from tinyreptile.messages import DELTA_BYTES
from tinyreptile.model import Model

from .driver import Update

pytestmark = pytest.mark.usefixtures("compiled")

SINE = MODELS["sine", "int16"]
LARGE = Model([["input", 40], ["dense", 128, "relu"], ["dense", 8], ["cross_entropy"]])


def packed(delta: Delta) -> bytes:
    data = bytearray(delta.size)
    delta.pack(0, data)
    return bytes(data)


def chunks_of(delta: Delta) -> list[bytes]:
    """The chunks, each packed twice and in any order."""
    chunked = Coded(delta)
    chunks = [bytearray(b"\xaa" * size) for size in chunked.sizes]
    order = 2 * list(range(len(chunks)))
    random.Random(1).shuffle(order)
    for index in order:
        chunked.pack(index, memoryview(chunks[index]))
    return [bytes(chunk) for chunk in chunks]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("model", MODELS.values(), ids=map("-".join, MODELS))
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
def test_what_is_decoded_is_the_packed_delta(model: Model, bits: int, share: float) -> None:
    delta = draw(model, share=share).delta(bits, 4321)
    chunks = chunks_of(delta)
    assert all(len(chunk) <= DELTA_BYTES for chunk in chunks)
    assert len(chunks) <= most_chunks(model, bits)
    assert decode(model, chunks, bits) == packed(delta)


@settings(max_examples=200, deadline=None)
@given(changes=any_changes(), bits=st.sampled_from(BITS), r=st.integers(0, 65535))
def test_any_changes_travel(changes: Any, bits: int, r: int) -> None:
    delta = changes.delta(bits, r)
    assert decode(changes.model, chunks_of(delta), bits) == packed(delta)


@pytest.mark.parametrize("bits", [16, 8])
def test_numbers_of_any_size_travel(bits: int) -> None:
    data = random.Random(2).randbytes(LARGE.parameters * bits // 8)
    if bits == 16:
        data = np.maximum(np.frombuffer(data, "<i2"), -32767).astype("<i2").tobytes()
    chunks = Forged(LARGE, data, [100] * len(LARGE.offsets), bits).chunks()
    assert len(chunks) > 5
    assert decode(LARGE, chunks, bits) == data


def test_what_a_device_learns_takes_little_more_than_half_the_bytes() -> None:
    task = {"steps": 32, "beta": 0.005, "bits": 4}
    data = encode(SINE, random_weights(SINE, 1))
    sizes = []
    for seed in range(20):
        update = Update({"work": seed, "version": 0, "task": task}, data, SINE, seed)
        sizes.append(sum(map(len, update.chunks)))
    assert np.mean(sizes) < 0.6 * SINE.parameters / 2


def test_a_sparse_delta_travels_as_it_is_packed() -> None:
    delta = draw(LARGE).delta(8, 1, kept=3000)
    assert b"".join(chunks_of(delta)) == packed(delta)


def damaged() -> list[list[bytes]]:
    first, *others = chunks_of(draw(SINE).delta(16))
    assert others
    tensors = len(SINE.offsets)
    head = int.from_bytes(first[tensors : tensors + 2], "little")
    longer = first[:tensors] + (head + 1).to_bytes(2, "little") + first[tensors + 2 :]
    return [
        [first],
        [first, *others, others[-1]],
        [first, *others[::-1][1:]],
        [first[:3], *others],
        [first[:tensors], *others],
        [first[:-1], *others],
        [first + b"\0", *others],
        [longer, *others],
        [b"\x11" + first[1:], *others],
        [bytes([first[0] ^ 1]) + first[1:], *others],
        [first, b"", *others],
        [first, b"\0\0", *others],
        [first, b"\1\0\0", *others],
        [b"\xff" * 1000],
    ]


@pytest.mark.parametrize("chunks", damaged(), ids=range(len(damaged())))
def test_damaged_chunks_are_no_delta(chunks: list[bytes]) -> None:
    with pytest.raises(DeltaError):
        decode(SINE, chunks, 16)


def test_numbers_beyond_the_bits_that_were_asked_for_are_refused() -> None:
    chunks = Forged(SINE, b"\x7f" * SINE.parameters, [1] * len(SINE.offsets), 8).chunks()
    with pytest.raises(DeltaError, match="more than 4 bits"):
        decode(SINE, chunks, 4)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=120), bits=st.sampled_from(BITS))
def test_any_bytes_are_a_delta_or_an_error(data: bytes, bits: int) -> None:
    model = MODELS["two parameters", "int16"]
    with suppress(DeltaError):
        assert len(decode(model, [data], bits)) == (2 * bits + 7) // 8
