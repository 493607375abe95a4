"""The initialization on the wire: its encoding, and that readers are not cut off while versions advance."""

from __future__ import annotations

import random
from binascii import crc32
from dataclasses import dataclass

import numpy as np
import pytest

from coordinator.initialization import (
    HEADROOM,
    PIN_ROUND_TRIPS,
    PIN_SECONDS,
    Publication,
    decode,
    encode,
    encoded_size,
    random_weights,
)
from tinyreptile import messages
from tinyreptile.learner import Learner
from tinyreptile.model import Model

MODEL = [["input", 4], ["dense", 9, "relu"], ["dense", 2], ["squared_error"]]
FETCH = 5.0
DATA = b"\1\0" * 10


def publish(publication: Publication, version: int, data: bytes = DATA) -> int:
    """Put a version on the wire; returns the slot that was written."""
    slot, _ = publication.begin(version, data)
    publication.finish(version, data, Model(MODEL), "int16")
    return slot


def published(*versions: int) -> Publication:
    publication = Publication(FETCH)
    for version in versions:
        publish(publication, version)
    return publication


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
    weights = random_weights(model.tensors, model.parameters, 1)
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
    for index, fraction in enumerate(data[: len(model.tensors)]):
        part = slice(*model.cells(index))
        assert np.abs(again[part] - weights[part]).max() <= 0.5 / 2**fraction
        # The unit is as fine as the largest weight and its room to grow allow, or the finest that there is.
        assert fraction in (4, 12) or np.abs(weights[part]).max() * HEADROOM * 2 ** (fraction + 1) > 127


@pytest.mark.parametrize("weights_format", ["int16", "int8"])
def test_a_learner_of_either_format_reads_eight_bit_weights(weights_format: str) -> None:
    model = Model(MODEL, weights_format)
    data = encode(model, random_weights(model.tensors, model.parameters, 1), "int8")
    learner = Learner(model, encoding="int8")
    learner.wire[:] = data
    learner.receive()
    learner.load()
    published = decode(model, data, "int8")
    if weights_format == "int16":
        assert np.array_equal(decode(model, bytes(learner.weights)), published)
    else:
        assert bytes(learner.weights) == data[len(model.tensors) :]


@pytest.mark.parametrize("encoding", ["int16", "int8"])
def test_bytes_of_another_size_are_no_initialization(encoding: str) -> None:
    model = Model(MODEL)
    data = encode(model, np.zeros(model.parameters), encoding)
    assert len(data) == encoded_size(model, encoding)
    with pytest.raises(ValueError, match=f"bytes are no {encoding} initialization"):
        decode(model, data + b"\0", encoding)


def test_a_first_initialization_lies_within_its_layers_bounds_and_fills_them() -> None:
    model = Model([["input", 100], ["dense", 50, "relu"], ["dense", 20], ["squared_error"]])
    weights = random_weights(model.tensors, model.parameters, 1)
    fan_ins = [100, 100, 50, 50]
    ends = [offset for _, offset, _ in model.tensors[1:]] + [model.parameters]
    for (_, offset, _), end, fan_in in zip(model.tensors, ends, fan_ins, strict=True):
        largest = np.abs(weights[offset:end]).max() * np.sqrt(fan_in)
        assert 0.8 < largest <= 1


def test_a_seed_always_gives_the_same_initialization() -> None:
    model = Model(MODEL)
    a, b, other = (random_weights(model.tensors, model.parameters, seed) for seed in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, other)


# Chunks and manifest


@pytest.mark.parametrize(("size", "lengths"), [(2, [2]), (1024, [1024]), (1026, [1024, 2]), (3000, [1024, 1024, 952])])
def test_an_initialization_travels_in_chunks_of_the_protocols_size(size: int, lengths: list[int]) -> None:
    data = random.Random(size).randbytes(size)
    _, chunks = Publication(FETCH).begin(3, data)
    checked = [messages.check(messages.CHUNK, chunk) for chunk in chunks]
    assert [len(chunk["data"]) for chunk in checked] == lengths
    assert b"".join(chunk["data"] for chunk in checked) == data
    assert {(chunk["version"], chunk["crc"]) for chunk in checked} == {(3, crc32(data))}


def test_the_manifest_describes_what_lies_in_the_slot() -> None:
    publication = Publication(FETCH)
    data = bytes(3000)
    slot, chunks = publication.begin(3, data)
    manifest = messages.check(messages.MANIFEST, publication.finish(3, data, Model(MODEL), "int16"))
    assert manifest == {
        "protocol": messages.PROTOCOL,
        "version": 3,
        "model": MODEL,
        "weights": "int16",
        "encoding": "int16",
        "bytes": 3000,
        "crc": crc32(data),
        "chunks": len(chunks),
        "slot": slot,
    }


def test_nothing_is_published_at_first() -> None:
    assert Publication(FETCH).version == -1


def test_a_version_counts_as_published_only_once_it_is_all_written() -> None:
    publication = published(0)
    slot = publication.slot
    publication.begin(1, b"\2\0")
    assert (publication.version, publication.slot, publication.crc) == (0, slot, crc32(DATA))
    publication.finish(1, b"\2\0", Model(MODEL), "int16")
    assert (publication.version, publication.slot, publication.crc) == (1, 1 - slot, crc32(b"\2\0"))


def test_the_two_slots_alternate() -> None:
    publication = Publication(FETCH)
    assert [publish(publication, version) for version in range(6)] == [0, 1] * 3


# Pins


def test_a_slot_that_nobody_reads_is_free_at_once() -> None:
    assert published(0, 1).free_at(100.0) == 100.0


def test_readers_of_the_newest_version_do_not_hold_up_the_next() -> None:
    publication = published(0, 1)
    publication.pin(7, 100.0)
    assert publication.free_at(100.0) == 100.0


def test_a_pinned_slot_is_free_when_its_time_is_up() -> None:
    publication = published(0)
    publication.pin(7, 100.0)
    publish(publication, 1)
    assert publication.free_at(101.0) == 100.0 + FETCH
    assert publication.free_at(100.0 + FETCH) == 100.0 + FETCH
    assert publication.free_at(200.0) == 200.0


def test_a_slot_is_free_when_the_last_of_its_readers_is_done() -> None:
    publication = published(0)
    publication.pin(7, 100.0)
    publication.pin(8, 102.0)
    publish(publication, 1)
    assert publication.free_at(103.0) == 102.0 + FETCH
    publication.unpin(8)
    assert publication.free_at(103.0) == 100.0 + FETCH
    publication.unpin(7)
    assert publication.free_at(103.0) == 103.0


def test_work_that_is_pointed_to_another_version_reads_until_both_times_are_up() -> None:
    publication = published(0)
    publication.pin(7, 100.0)
    publish(publication, 1)
    publication.pin(7, 103.0)
    assert publication.free_at(104.0) == 100.0 + FETCH
    publish(publication, 2)
    assert publication.free_at(106.0) == 103.0 + FETCH


def test_work_that_is_done_frees_every_slot() -> None:
    publication = published(0)
    publication.pin(7, 100.0)
    publish(publication, 1)
    publication.pin(7, 100.0)
    publication.unpin(7)
    assert publication.free_at(101.0) == 101.0
    publish(publication, 2)
    assert publication.free_at(101.0) == 101.0


def test_to_end_work_that_reads_nothing_changes_nothing() -> None:
    publication = published(0)
    publication.pin(7, 100.0)
    publish(publication, 1)
    publication.unpin(0)
    assert publication.free_at(101.0) == 100.0 + FETCH


def test_a_rewritten_slot_begins_without_readers() -> None:
    publication = published(0)
    publication.pin(7, 100.0)
    publish(publication, 1)
    publish(publication, 2)  # over version 0
    publish(publication, 3)
    assert publication.free_at(101.0) == 101.0


@pytest.mark.parametrize(
    ("round_trip", "seconds"),
    [
        (None, FETCH),
        (0.0, PIN_SECONDS),
        (PIN_SECONDS / PIN_ROUND_TRIPS, PIN_SECONDS),
        (0.5, 0.5 * PIN_ROUND_TRIPS),
        (FETCH / PIN_ROUND_TRIPS, FETCH),
        (1000.0, FETCH),
    ],
)
def test_a_readers_claim_follows_how_quick_it_has_been(round_trip: float | None, seconds: float) -> None:
    publication = published(0)
    publication.pin(7, 100.0, round_trip)
    publish(publication, 1)
    assert publication.free_at(100.0) == pytest.approx(100.0 + seconds)


def test_no_claim_is_longer_than_fetch_seconds_however_short_that_is() -> None:
    publication = Publication(0.1)
    publish(publication, 0)
    publication.pin(7, 100.0, 0.001)
    publish(publication, 1)
    assert publication.free_at(100.0) == pytest.approx(100.1)


@dataclass
class Reader:
    """A device that copies the chunks of a slot until ``done``; its claim ends at ``claim``."""

    work: int
    slot: int
    version: int
    done: float
    claim: float


@pytest.mark.parametrize("seed", range(5))
def test_no_reader_is_cut_off_within_its_claim_and_versions_always_advance(seed: int) -> None:
    rng = random.Random(seed)
    publication = Publication(FETCH)
    now, version, work = 0.0, 0, 0
    slots = [-1, -1]  # what lies there
    readers: list[Reader] = []
    waits = []
    wanted_since = now
    while version < 2000:
        at = publication.free_at(now)
        if at > now:
            assert at <= wanted_since + FETCH, "the next version is not possible within fetch_seconds"
        else:
            slot = publish(publication, version)
            for reader in readers:
                assert reader.slot != slot, f"version {reader.version} is rewritten under {reader}"
            slots[slot] = version
            version += 1
            waits.append(now - wanted_since)
            wanted_since = now
        for _ in range(rng.randrange(4)):
            work += 1
            round_trip = rng.choice([None, rng.expovariate(1), 0.01])
            publication.pin(work, now, round_trip)
            claim = FETCH if round_trip is None else min(FETCH, max(PIN_SECONDS, PIN_ROUND_TRIPS * round_trip))
            duration = rng.choice([rng.random() * 0.2, rng.random() * 10, float("inf")])  # some die
            readers.append(Reader(work, publication.slot, publication.version, now + duration, now + claim))
        now += rng.choice([0.01, 0.1, 0.5])
        for reader in readers:
            if reader.done <= now:
                publication.unpin(reader.work)
        readers = [r for r in readers if r.done > now and r.claim > now]
        for reader in readers:
            assert slots[reader.slot] == reader.version
    assert max(waits) > FETCH / 2, "no reader ever held up a version: the simulation shows nothing"
