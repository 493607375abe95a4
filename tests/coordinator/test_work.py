"""Work in flight: how chunks become a delta, what is refused, and whose deadline is next."""

from __future__ import annotations

import random
from typing import Any

import pytest

from coordinator.work import Refusal, Work, WorkBook
from simulator.hostile import Forged
from tinyreptile.messages import EVALUATE, TRAIN
from tinyreptile.model import Model
from tinyreptile.unpacking import packed_size

MODEL = Model([["input", 1], ["dense", 64, "relu"], ["dense", 32, "relu"], ["dense", 1], ["squared_error"]])
SIZE = MODEL.parameters  # bytes, at 8 bits
PACKED = random.Random(1).randbytes(SIZE)
GAINS = [100] * len(MODEL.offsets)
CHUNKS = Forged(MODEL, PACKED, GAINS).chunks()
REPORT: dict[str, Any] = {"version": 3, "gains": GAINS, "loss": 0.5}


@pytest.fixture
def work() -> Work:
    return WorkBook().issue("d0", TRAIN, 3, 8, now=0, seconds=10)


def chunk(index: int, **changes: Any) -> dict[str, Any]:
    message = {"work": 1, "chunks": len(CHUNKS), "part": index, "data": CHUNKS[index]}
    if index == 0:
        message |= REPORT
    return message | changes


def refusal(work: Work, index: int, message: dict[str, Any]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        work.add(MODEL, message | {"part": index})
    return caught.value


# Chunks


def test_the_example_has_three_chunks() -> None:
    assert len(CHUNKS) == 3


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_chunks_come_in_any_order(work: Work, order: tuple[int, ...]) -> None:
    results = [work.add(MODEL, chunk(index)) for index in order]
    assert results == [None, None, PACKED]
    assert work.report == REPORT


def test_chunks_may_be_repeated(work: Work) -> None:
    for index in (1, 0, 1, 0, 0):
        assert work.add(MODEL, chunk(index)) is None
    assert work.add(MODEL, chunk(2)) == PACKED


def test_a_chunk_is_copied_out_of_the_buffer_that_it_came_in(work: Work) -> None:
    buffer = bytearray(CHUNKS[0])
    work.add(MODEL, chunk(0, data=memoryview(buffer)))
    buffer[:] = bytes(len(buffer))
    work.add(MODEL, chunk(1))
    assert work.add(MODEL, chunk(2)) == PACKED


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_sparse_delta_has_the_size_that_was_asked_for(bits: int) -> None:
    work = WorkBook().issue("d0", TRAIN, 3, bits, now=0, seconds=10, kept=1500)
    size = packed_size(MODEL.parameters, bits, 1500)
    count = -(-size // 896)
    for index in range(1, count):
        data = bytes(min(896, size - 896 * index))
        assert work.add(MODEL, {"part": index, "chunks": count, "data": data}) is None
    assert refusal(work, 0, {"chunks": count, "data": bytes(1023)} | REPORT).kind == "wrong size"
    assert refusal(work, 0, {"chunks": count + 1, "data": bytes(896)} | REPORT).kind == "wrong size"
    packed = work.add(MODEL, {"chunks": count, "data": bytes(896)} | REPORT)
    assert packed is not None
    assert len(packed) == size


@pytest.mark.parametrize("chunks", [0, 100, 65535])
def test_more_chunks_than_any_delta_has_are_refused(work: Work, chunks: int) -> None:
    found = refusal(work, 0, chunk(0, chunks=chunks))
    assert (found.kind, str(found)) == ("wrong size", f"chunk 0 of {chunks} is none of this delta")


def test_chunks_that_differ_in_their_number_are_refused(work: Work) -> None:
    work.add(MODEL, chunk(0))
    assert refusal(work, 1, chunk(1, chunks=2)).kind == "wrong size"


@pytest.mark.parametrize("index", [3, 4, 65535])
def test_a_chunk_beyond_the_last_is_refused(work: Work, index: int) -> None:
    assert refusal(work, index, chunk(2)).kind == "wrong size"


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_chunk_of_another_size_is_refused(work: Work, index: int, change: int) -> None:
    data = CHUNKS[index][:-1] if change < 0 else CHUNKS[index] + b"\0"
    for other in {0, 1, 2} - {index}:
        work.add(MODEL, chunk(other))
    assert refusal(work, index, chunk(index, data=data)).kind == "wrong size"


def test_a_chunk_without_data_is_refused(work: Work) -> None:
    assert refusal(work, 0, {"work": 1, "chunks": 3}).kind == "wrong size"


def test_a_refused_chunk_is_not_kept(work: Work) -> None:
    refusal(work, 0, chunk(0, gains=None))
    refusal(work, 1, chunk(1, data=b""))
    assert work.chunks == {}
    assert work.report == {}


@pytest.mark.parametrize(
    ("report", "kind"),
    [
        ({"version": -1}, "malformed"),
        ({"loss": float("nan")}, "malformed"),
        ({"loss": "0.5"}, "malformed"),
        ({"gains": []}, "malformed"),
        ({"gains": [0] * 6}, "malformed"),
        ({"gains": [65537] * 6}, "malformed"),
        ({"gains": [1.5] * 6}, "malformed"),
        ({"gains": [True] * 6}, "malformed"),
        ({"gains": [100] * 5}, "wrong size"),
        ({"gains": [100] * 7}, "wrong size"),
    ],
)
def test_a_bad_report_is_refused(work: Work, report: Any, kind: str) -> None:
    assert refusal(work, 0, chunk(0, **report)).kind == kind


def test_a_malformed_report_is_told_by_its_field(work: Work) -> None:
    assert str(refusal(work, 0, chunk(0, version="12"))) == "report: version has the wrong type, str"


@pytest.mark.parametrize("gain", [1, 65536])
def test_gains_at_the_edge_of_their_range_are_taken(work: Work, gain: int) -> None:
    assert work.add(MODEL, chunk(0, report=REPORT | {"gains": [gain] * 6})) is None


def test_only_chunk_0_needs_a_report(work: Work) -> None:
    assert refusal(work, 0, {"work": 1, "chunks": 3, "data": PACKED[:1024]}).kind == "malformed"
    assert work.add(MODEL, chunk(1, report="not looked at")) is None


# The book


def test_every_work_has_an_id_of_its_own_from_the_first_on() -> None:
    book = WorkBook(next_id=70)
    issued = [book.issue(f"d{i}", TRAIN, 0, 8, now=0, seconds=10) for i in range(5)]
    book.close(issued[2])
    issued.append(book.issue("d2", TRAIN, 0, 8, now=0, seconds=10))
    assert [work.id for work in issued] == [70, 71, 72, 73, 74, 75]


def test_open_work_is_counted_by_kind() -> None:
    book = WorkBook()
    train = [book.issue("d", TRAIN, 0, 8, now=0, seconds=10) for _ in range(3)]
    evaluate = book.issue("e", EVALUATE, 0, 8, now=0, seconds=10)
    assert (book.count(TRAIN), book.count(EVALUATE)) == (3, 1)
    book.close(train[0])
    book.close(evaluate)
    assert (book.count(TRAIN), book.count(EVALUATE)) == (2, 0)


def test_work_that_is_closed_twice_counts_once() -> None:
    book = WorkBook()
    work = book.issue("d", TRAIN, 0, 8, now=0, seconds=10)
    book.issue("d", TRAIN, 0, 8, now=0, seconds=10)
    book.close(work)
    book.close(work)
    assert book.count(TRAIN) == 1


def test_restored_work_is_open_and_counted() -> None:
    book = WorkBook(next_id=100)
    book.restore(Work(5, "d0", TRAIN, 3, 8, issued=0, deadline=7))
    assert book.open[5].device == "d0"
    assert book.count(TRAIN) == 1
    assert book.next_deadline() == 7


def test_without_open_work_there_is_no_deadline() -> None:
    book = WorkBook()
    assert book.next_deadline() is None
    assert book.expired(1e9) == []


def test_the_next_deadline_is_the_earliest_of_open_work() -> None:
    book = WorkBook()
    first, second = (book.issue("d", TRAIN, 0, 8, now=100, seconds=s) for s in (5, 3))
    assert book.next_deadline() == 103
    book.close(second)
    assert book.next_deadline() == 105
    book.close(first)
    assert book.next_deadline() is None


def test_work_expires_in_the_order_of_its_deadlines() -> None:
    book = WorkBook()
    seconds = random.Random(2).sample(range(1, 1000), 200)
    for s in seconds:
        book.issue("d", TRAIN, 0, 8, now=0, seconds=s)
    late: list[float] = []
    for now in range(0, 1001, 50):
        found = [work.deadline for work in book.expired(now)]
        assert all(now - 50 < deadline <= now for deadline in found)
        late += found
    assert late == sorted(seconds)
    assert book.count(TRAIN) == 0
    assert book.open == {}


def test_work_expires_at_its_deadline_and_not_before() -> None:
    book = WorkBook()
    work = book.issue("d", TRAIN, 0, 8, now=100, seconds=5)
    assert book.expired(104.999) == []
    assert book.expired(105) == [work]


def test_work_expires_once_and_closed_work_never() -> None:
    book = WorkBook()
    work, closed = (book.issue("d", TRAIN, 0, 8, now=0, seconds=5) for _ in range(2))
    book.close(closed)
    assert book.expired(10) == [work]
    assert book.expired(10) == []
