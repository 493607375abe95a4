"""Any version of the history again, from a checkpoint and the deltas after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.entries import Checkpoint
from coordinator.errors import StoreError
from coordinator.replay import check, replay
from coordinator.rules import MetaUpdate, discount, schedule

from .driver import Driver


def meta() -> MetaUpdate:
    """With settings that must play no part."""
    return MetaUpdate(schedule("constant", 0.5, 0), discount("constant"), size=7)


@pytest.fixture
def history(tmp_path: Path) -> tuple[Driver, dict[int, bytes]]:
    """A run of 30 versions with checkpoints in between, and the weights of each."""
    driver = Driver(tmp_path / "run.sqlite", run={"rounds": 0})
    weights = {0: driver.run.weights.tobytes()}
    for device in "abc":
        driver.hello(device)
    while driver.run.version < 30:
        driver.advance()
        driver.answer(next(iter(driver.run.book.open.values())).device, seed=driver.run.version)
        driver.commit()
        weights[driver.run.version] = driver.run.weights.tobytes()
        if driver.run.version in (10, 20):
            driver.store.write([driver.run.checkpoint()])
    return driver, weights


def test_every_version_of_the_history_comes_back_to_the_same_bits(history: tuple[Driver, dict[int, bytes]]) -> None:
    driver, weights = history
    for version in range(31):
        state = replay(driver.store, driver.run.model, meta(), version)
        assert state is not None
        assert (state.version, state.updates, state.weights.tobytes()) == (version, version, weights[version])
    assert len(set(weights.values())) == 31


def test_without_a_version_it_is_the_last(history: tuple[Driver, dict[int, bytes]]) -> None:
    driver, weights = history
    state = replay(driver.store, driver.run.model, meta())
    assert state is not None
    assert (state.version, state.weights.tobytes()) == (30, weights[30])


def test_a_version_that_is_not_there_yet_is_refused(history: tuple[Driver, dict[int, bytes]]) -> None:
    driver, _ = history
    with pytest.raises(StoreError, match="version 31 can't be had any more, or not yet; checkpoints are at 0, 10, 20"):
        replay(driver.store, driver.run.model, meta(), 31)


def test_a_version_older_than_the_history_is_refused(history: tuple[Driver, dict[int, bytes]]) -> None:
    driver, weights = history
    driver.store._history = 15
    driver.store.write([Checkpoint(30, 30, driver.run.weights)])
    for version in (9, 0):
        with pytest.raises(StoreError, match=rf"version {version} can't be had any more.* at 10, 20, 30$"):
            replay(driver.store, driver.run.model, meta(), version)
    state = replay(driver.store, driver.run.model, meta(), 15)
    assert state is not None
    assert state.weights.tobytes() == weights[15]


def test_a_delta_that_is_missing_since_the_last_checkpoint_is_told(history: tuple[Driver, dict[int, bytes]]) -> None:
    driver, _ = history
    with driver.store._database.write() as connection:
        connection.exec_driver_sql("UPDATE accepted SET delta = NULL WHERE updates = 25")
    with pytest.raises(StoreError, match="is damaged: a delta is missing since its last checkpoint"):
        replay(driver.store, driver.run.model, meta())


def test_a_check_replays_all_that_can_be(history: tuple[Driver, dict[int, bytes]]) -> None:
    driver, _ = history
    driver.store.write([driver.run.checkpoint()])
    assert check(driver.store, driver.run.model) == 30


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE accepted SET delta = zeroblob(length(delta)) WHERE updates = 25",
        "UPDATE accepted SET weight = weight * 1.0000000000000002 WHERE updates = 3",
        "DELETE FROM accepted WHERE updates = 15",
        "UPDATE checkpoint SET weights = zeroblob(length(weights)) WHERE version = 20",
    ],
)
def test_a_check_finds_what_does_not_fit(history: tuple[Driver, dict[int, bytes]], damage: str) -> None:
    driver, _ = history
    driver.store.write([driver.run.checkpoint()])
    with driver.store._database.write() as connection:
        assert connection.exec_driver_sql(damage).rowcount == 1
    with pytest.raises(StoreError, match=r"is damaged: version \d+ is not what led to it"):
        check(driver.store, driver.run.model)


def test_a_version_that_was_gone_back_to_is_no_damage(history: tuple[Driver, dict[int, bytes]]) -> None:
    driver, weights = history
    driver.run.roll_back(12)
    driver.commit()
    assert driver.run.weights.tobytes() == weights[12]
    state = replay(driver.store, driver.run.model, meta())
    assert state is not None
    assert (state.version, state.updates, state.weights.tobytes()) == (31, 30, weights[12])
    driver.store.write([driver.run.checkpoint()])
    assert check(driver.store, driver.run.model) == 20, "not those since version 20, which led nowhere"
