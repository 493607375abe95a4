"""Group commit: in order, durable before it is said to be, and never in the way of the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from coordinator.entries import Closed, Entry, Issued
from coordinator.errors import StoreError, StoreUnavailable
from coordinator.journal import Journal
from coordinator.store import Store
from tests.fleet import task


class SlowStore(Store):
    """A store whose `write` waits for `may_write`, and keeps what each transaction was."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), "test")
        self.may_write = threading.Event()
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()

    def write(self, entries: Sequence[Entry]) -> None:
        assert self.may_write.wait(20)
        self.threads.add(threading.get_ident())
        super().write(entries)
        self.batches.append([entry.work for entry in entries if isinstance(entry, Issued)])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SlowStore]:
    store = SlowStore(tmp_path / "run.sqlite")
    yield store
    store.may_write.set()
    store.close()


def issued(work: int) -> Issued:
    return Issued(work, "d0", "train", 0, 8, 1.0)


async def test_an_entry_is_durable_before_it_is_said_to_be(store: SlowStore) -> None:
    journal = Journal(store)
    seen: list[list[int]] = []
    async with task(journal.run()):
        journal.append(issued(1), lambda: seen.append([work.work for work in store.open_work()]))
        await asyncio.sleep(0.05)  # time enough to be wrong in
        assert seen == []
        store.may_write.set()
        await journal.flush()
        assert seen == [[1]]
        journal.stop()


async def test_what_waits_during_a_commit_goes_into_one_transaction(store: SlowStore) -> None:
    journal = Journal(store)
    async with task(journal.run()):
        journal.append(issued(1))
        while journal._waiting:  # until the first commit is under way
            await asyncio.sleep(0)
        for work in range(2, 50):
            journal.append(issued(work))
        store.may_write.set()
        await journal.flush()
        journal.stop()
    assert store.batches == [[1], list(range(2, 50))]


async def test_commits_run_in_a_thread_of_their_own(store: SlowStore) -> None:
    journal = Journal(store)
    store.may_write.set()
    async with task(journal.run()):
        for work in range(3):
            journal.append(issued(work))
            await journal.flush()
        journal.stop()
    assert len(store.threads) == 1
    assert threading.get_ident() not in store.threads


async def test_callbacks_come_in_order(store: SlowStore) -> None:
    journal = Journal(store)
    store.may_write.set()
    order: list[int] = []
    async with task(journal.run()):
        for work in range(20):
            journal.append(issued(work), lambda work=work: order.append(work))  # type: ignore[misc]
            if work % 7 == 0:
                await asyncio.sleep(0)
        await journal.flush()
        journal.stop()
    assert order == list(range(20))


async def test_stopping_writes_what_is_left(store: SlowStore) -> None:
    journal = Journal(store)
    store.may_write.set()
    for work in range(1, 6):
        journal.append(issued(work))
    journal.append(Closed(4))
    journal.stop()
    await asyncio.wait_for(journal.run(), 20)
    assert [work.work for work in store.open_work()] == [1, 2, 3, 5]


async def test_a_flush_of_nothing_returns(store: SlowStore) -> None:
    journal = Journal(store)
    async with task(journal.run()):
        await asyncio.wait_for(journal.flush(), 20)
        journal.stop()


async def test_a_store_that_fails_ends_the_journal(store: SlowStore) -> None:
    journal = Journal(store)
    store.may_write.set()
    said: list[int] = []
    journal.append(issued(1))
    journal.append(issued(1), lambda: said.append(1))
    with pytest.raises(StoreError):
        await asyncio.wait_for(journal.run(), 20)
    assert said == []


async def test_when_it_is_told_the_transaction_is_committed(store: SlowStore) -> None:
    journal = Journal(store)
    store.may_write.set()
    seen: list[bool] = []
    journal.append(issued(1), lambda: seen.append(store._database._writer.in_transaction()))
    journal.stop()
    await asyncio.wait_for(journal.run(), 20)
    assert seen == [False]


async def test_a_flush_waits_for_all_before_it(store: SlowStore) -> None:
    journal = Journal(store)
    async with task(journal.run()):
        journal.append(issued(1))
        while journal._waiting:  # until the first commit is under way
            await asyncio.sleep(0)
        journal.append(issued(2))
        flush = asyncio.create_task(journal.flush())
        await asyncio.sleep(0.05)
        assert not flush.done()
        store.may_write.set()
        await asyncio.wait_for(flush, 20)
        assert store.batches == [[1], [2]]
        journal.stop()


async def test_what_comes_while_it_stops_is_written_too(store: SlowStore) -> None:
    journal = Journal(store)
    async with task(journal.run()) as run:
        journal.append(issued(1), lambda: journal.append(issued(3)))
        while journal._waiting:
            await asyncio.sleep(0)
        journal.stop()
        journal.append(issued(2))
        store.may_write.set()
        await asyncio.wait_for(run, 20)
    assert [work.work for work in store.open_work()] == [1, 2, 3]


async def test_what_was_durable_before_a_failure_was_told(store: SlowStore) -> None:
    journal = Journal(store)
    store.may_write.set()
    said: list[int] = []
    run = asyncio.create_task(journal.run())
    journal.append(issued(1), lambda: said.append(1))
    await journal.flush()
    journal.append(issued(2), lambda: said.append(2))
    journal.append(issued(1), lambda: said.append(1))  # its work is on record: the whole transaction fails
    with pytest.raises(StoreError):
        await asyncio.wait_for(run, 20)
    assert said == [1]
    assert [work.work for work in store.open_work()] == [1]


async def test_a_cancelled_journal_tells_nobody_of_the_write_that_was_under_way(store: SlowStore) -> None:
    journal = Journal(store)
    said: list[int] = []
    run = asyncio.create_task(journal.run())
    journal.append(issued(1), lambda: said.append(1))
    while not run.done() and (journal._waiting or not journal._thread._threads):
        await asyncio.sleep(0)
    run.cancel()
    threading.Timer(0.1, store.may_write.set).start()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert said == []
    assert store.batches == [[1]], "the thread still writes when run has ended"


class AbsentStore:
    """A store that is away for the first ``failures`` writes."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.written: list[Entry] = []

    def write(self, entries: Sequence[Entry]) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("the disk is full")
        self.written += entries


async def test_a_store_that_is_away_is_tried_until_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("coordinator.journal.RETRY_SECONDS", 0.01)
    store = AbsentStore(failures=3)
    journal = Journal(store)
    problems = []
    async with task(journal.run()):
        journal.append(issued(1), lambda: problems.append(journal.problem))
        await asyncio.sleep(0.005)
        assert journal.problem == "the disk is full"
        journal.append(issued(2))
        await journal.flush()
        journal.stop()
    assert store.written == [issued(1), issued(2)]
    assert problems == [""], "only then is it durable"
    assert caplog.messages == ["the disk is full; trying again until it can", "the store can be used again"]


async def test_a_store_that_stays_away_ends_a_journal_that_is_stopped() -> None:
    journal = Journal(AbsentStore(failures=1000))
    told: list[int] = []
    run = asyncio.create_task(journal.run())
    journal.append(issued(1), lambda: told.append(1))
    await asyncio.sleep(0.01)
    journal.stop()
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        await asyncio.wait_for(run, 5)
    assert told == []
