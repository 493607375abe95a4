"""Whose turn it is among quick and slow devices, and how much of a run one of them may make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.turns import DEBTS, LATEST, LEAST, PART, PURSE, Fairness, Queue, Shares

from .driver import MODES, Driver, Living

StartFleet = Callable[..., Living]
HONEST = {f"d{i}" for i in range(40)}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[StartFleet]:
    """A function that starts a run with a fleet in which some are slow."""
    started: list[Driver] = []

    def fleet(mode: str, quick: set[str], slow: dict[str, float], **tables: dict[str, Any]) -> Living:
        path = tmp_path / f"{len(started)}.sqlite"
        guards = {"repeats": False} | tables.pop("guards", {})
        learning = MODES[mode] | {"deadline": 60} | tables.pop("learning", {})
        driver = Driver(path, run={"rounds": 0}, learning=learning, guards=guards)
        started.append(driver)
        driver.advance()
        for name in sorted(quick | slow.keys()):
            driver.hello(name)
        driver.advance()
        return Living(driver, quick | slow.keys(), slow)

    yield fleet
    for driver in started:
        driver.close()


def accepted(living: Living, names: set[str]) -> int:
    return sum(living.driver.run.registry.devices[name].accepted for name in names)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("count", [10, 200])
@pytest.mark.parametrize("mode", MODES)
def test_devices_that_answer_at_the_last_second_do_not_keep_the_others_from_learning(
    fleet: StartFleet, mode: str, count: int
) -> None:
    alone = fleet(mode, HONEST, {})
    alone.live(1200)
    before = accepted(alone, HONEST)
    alone.live(600)
    beside = fleet(mode, HONEST, {f"slow{i}": 59.0 for i in range(count)})
    beside.live(1200)
    already = accepted(beside, HONEST)
    beside.live(600)
    assert accepted(beside, HONEST) - already > 0.8 * (accepted(alone, HONEST) - before)


@pytest.mark.usefixtures("compiled")
def test_slow_devices_have_their_turns_too(fleet: StartFleet) -> None:
    slow = {f"slow{i}": 6.0 for i in range(10)}
    living = fleet("asynchronous", HONEST, slow)
    living.live(3000)
    mine = accepted(living, set(slow)) / len(slow)
    theirs = accepted(living, HONEST) / len(HONEST)
    assert mine == pytest.approx(theirs / 3, rel=0.2), "as much of the time as the others"


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("share", [0.0, 4.0, 2.0])
def test_a_device_that_answers_at_once_has_its_share_and_no_more(fleet: StartFleet, share: float) -> None:
    names = {f"d{i}": 20.0 for i in range(9)}
    living = fleet("asynchronous", {"fast"}, names | {"fast": 1.0}, learning={"in_flight": 50}, guards={"share": share})
    living.live(900)
    already = living.driver.run.updates, accepted(living, {"fast"})
    living.live(1800)
    made = (accepted(living, {"fast"}) - already[1]) / (living.driver.run.updates - already[0])
    if share:
        assert made == pytest.approx(share / 10, abs=0.03)
    else:
        assert made > 0.6


@pytest.mark.usefixtures("compiled")
def test_who_is_left_alone_need_not_wait_for_the_others(fleet: StartFleet) -> None:
    names = {f"d{i}" for i in range(10)}
    living = fleet("asynchronous", names, {}, learning={"in_flight": 50})
    living.live(300)
    for name in names - {"d3"}:
        living.driver.hello(name, state="offline")
    updates = accepted(living, {"d3"})
    living.live(1200)
    assert accepted(living, {"d3"}) - updates > 0.9 * 1200 / 2


@pytest.mark.usefixtures("compiled")
def test_shares_outlive_a_restart(fleet: StartFleet, tmp_path: Path) -> None:
    names = {f"d{i}": 20.0 for i in range(9)}
    living = fleet("asynchronous", {"fast"}, names | {"fast": 1.0}, learning={"in_flight": 50})
    living.live(900)
    before = living.driver.run.registry
    living.driver.close()
    again = Driver(tmp_path / "0.sqlite", run={"rounds": 0}, learning=MODES["asynchronous"])
    assert again.run.registry._shares._counts == before._shares._counts
    again.close()


# The parts


def test_a_queue_gives_the_lowest_tag_then_the_longest_waiting() -> None:
    queue = Queue()
    for name, tag in [("a", 2.0), ("b", 1.0), ("c", 1.0), ("d", 3.0)]:
        queue.add(name, tag)
    queue.add("a", 0.0)
    assert list(queue) == ["b", "c", "a", "d"]
    assert queue.first() == queue.first() == "b"
    assert queue.first(lambda name: name in "ad") == "a"
    assert queue.first(lambda name: False) is None
    queue.discard("b")
    assert (queue.first(), len(queue), "b" in queue) == ("c", 3, False)
    queue.add("b", 5.0)
    assert list(queue) == ["c", "a", "d", "b"]


def test_a_queue_remembers_nobody_who_left() -> None:
    queue = Queue()
    for i in range(10_000):
        queue.add(f"d{i}", float(i))
        queue.discard(f"d{i}")
    assert len(queue._heap) < 20
    assert queue.first() is None


def turns(fairness: Fairness, seconds: dict[str, float], count: int) -> Counter[str]:
    """How often each has its turn where one works at a time."""
    had: Counter[str] = Counter()
    for _ in range(count):
        name = min(seconds, key=fairness.tag)
        fairness.begin(name)
        fairness.spend(name, seconds[name], 1, delivered=True)
        had[name] += 1
    return had


def test_all_have_equal_times() -> None:
    had = turns(Fairness(), {"a": 1.0, "b": 1.0, "c": 2.0, "d": 4.0}, 1100)
    assert had == pytest.approx({"a": 400, "b": 400, "c": 200, "d": 100}, abs=5)


def test_who_takes_longer_than_others_or_is_unknown_is_costly() -> None:
    fairness = Fairness()
    assert fairness.is_costly("a")
    turns(fairness, {"a": 1.0, "b": 3.9, "c": 1.0, "d": 4.1, "e": 1.0}, 100)
    assert [fairness.is_costly(name) for name in "abcdef"] == [False, False, False, True, False, True]
    fairness.forget("a")
    assert fairness.is_costly("a")


def test_who_answers_most_does_not_make_the_others_costly() -> None:
    fairness = Fairness()
    turns(fairness, {"hostile": 1.0, "a": 10.0, "b": 11.0, "c": 12.0}, 1000)
    assert not any(fairness.is_costly(name) for name in "abc")
    assert len(fairness._latest) < 1000 / 4


def test_the_time_beyond_what_is_usual_is_paid_from_the_purse() -> None:
    fairness = Fairness()
    for _ in range(80):
        fairness.spend("a", 1.0, 1, delivered=True)
    assert fairness.purse == pytest.approx(80 * PART)
    fairness.spend("b", 8.0, 1, delivered=False)
    assert fairness.purse == pytest.approx(84 * PART - 4)
    fairness.spend("b", 8.0, 10, delivered=True)
    assert fairness.purse == pytest.approx(88 * PART - 44)
    for _ in range(100):
        fairness.spend("b", 60.0, 10, delivered=False)
    assert fairness.purse == -DEBTS * PURSE
    for _ in range(100_000):
        fairness.spend("a", 1.0, 1, delivered=True)
    assert fairness.purse == PURSE


def test_who_was_away_brings_no_lead() -> None:
    fairness = Fairness()
    turns(fairness, {"a": 1.0, "b": 1.0}, 1000)
    had = turns(fairness, {"a": 1.0, "b": 1.0, "new": 1.0}, 300)
    assert had == pytest.approx({"a": 100, "b": 100, "new": 100}, abs=2)


def test_shares_are_of_the_latest_updates() -> None:
    shares = Shares()
    assert all(shares.allow("a", 2.0, 10) and shares.add("a") is (i == 0) for i in range(LEAST))
    assert not shares.allow("a", 2.0, 10)
    assert shares.allow("a", 0.0, 10), "without a limit"
    assert shares.allow("a", 2.0, 1), "who is alone"
    for i in range(LATEST):
        shares.add(f"d{i % 10}")
    assert "a" not in shares.makers()
    assert shares.allow("a", 2.0, 10)
    assert not shares.allow("d1", 1.0, 10)
