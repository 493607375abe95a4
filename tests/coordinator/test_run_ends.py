"""What a run does at its edges: devices that keep failing, and a last batch that is not whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coordinator.deltas import unpack
from coordinator.initialization import decode

from .driver import Driver


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path / "run.sqlite")
    driver.advance()
    driver.hello("d0")
    driver.advance()
    yield driver
    driver.close()


def fail(driver: Driver) -> None:
    driver.send("d0", {"work": driver.requests("d0")[-1]["work"], "error": "the sensor is broken"})
    driver.advance()


def test_a_first_failure_costs_no_rest(driver: Driver) -> None:
    fail(driver)
    assert len(driver.requests("d0")) == 2


def test_a_device_that_fails_again_and_again_rests_longer_each_time(driver: Driver) -> None:
    fail(driver)
    rests = []
    for _ in range(8):
        fail(driver)
        begun, count = driver.now, len(driver.requests("d0"))
        while len(driver.requests("d0")) == count:
            driver.now += 1
            driver.advance()
        rests.append(driver.now - begun)
    assert rests == [1, 3, 7, 15, 31, 60, 60, 60]


@pytest.mark.usefixtures("compiled")
def test_success_ends_the_series_of_failures(driver: Driver) -> None:
    fail(driver)
    fail(driver)
    driver.now += 1
    driver.advance()
    driver.answer("d0")
    driver.advance()
    count = len(driver.requests("d0"))
    fail(driver)
    assert len(driver.requests("d0")) == count + 1


def test_a_resting_device_does_not_hold_up_the_others(driver: Driver) -> None:
    fail(driver)
    fail(driver)
    driver.hello("d1")
    driver.advance()
    assert len(driver.requests("d1")) == 1


@pytest.mark.usefixtures("compiled")
def test_the_last_batch_moves_the_initialization_though_it_is_short(tmp_path: Path) -> None:
    batch = {"mode": "batch", "batch": 3, "schedule": "constant", "alpha": 0.5, "alpha_end": 0.0}
    driver = Driver(tmp_path / "batch.sqlite", run={"rounds": 2}, learning=batch)
    driver.advance()
    for device in ("d0", "d1"):
        driver.hello(device)
    driver.advance()
    start = driver.run.weights.copy()
    updates = [driver.answer(device) for device in ("d0", "d1")]
    driver.advance()
    deltas = [unpack(driver.run.model, u.packed, 8, u.report["gains"]) for u in updates]
    assert np.allclose(driver.run.weights, start + 0.5 * np.mean(deltas, axis=0), atol=1e-12)
    assert (driver.run.version, driver.run.finished) == (1, True)
    assert np.allclose(decode(driver.run.model, driver.versions[1]), driver.run.weights, atol=1 / 4096)
    driver.close()


LINEAR = {"mode": "asynchronous", "in_flight": 8, "schedule": "linear", "alpha": 0.3, "alpha_end": 0.0}


def with_five_updates(path: Path, rounds: int, learning: dict[str, object]) -> Driver:
    """A run of which d0 to d4 have done their work, and d5 to d7 have theirs still."""
    driver = Driver(path, run={"rounds": rounds}, learning=learning)
    driver.advance()
    for number in range(8):
        driver.hello(f"d{number}")
    driver.advance()
    for number in range(5):
        driver.answer(f"d{number}")
    return driver


@pytest.mark.usefixtures("compiled")
def test_a_run_whose_end_is_set_to_now_takes_nothing_more(tmp_path: Path) -> None:
    driver = with_five_updates(tmp_path / "run.sqlite", 0, LINEAR)
    late = driver.learn("d5")
    driver.run.change({"run.rounds": 5})
    driver.commit()
    assert driver.acks("d5")[-1] == (late.work, False, "the run has ended")
    weights = driver.run.weights.copy()
    driver.send("d5", *late.messages())
    driver.advance()
    assert driver.run.updates == 5
    assert np.array_equal(driver.run.weights, weights)
    assert driver.run.finished


@pytest.mark.usefixtures("compiled")
def test_a_restart_beyond_the_end_takes_nothing_more(tmp_path: Path) -> None:
    driver = with_five_updates(tmp_path / "run.sqlite", 1000, LINEAR)
    late = driver.learn("d5")
    driver.commit()
    driver.close()
    again = Driver(tmp_path / "run.sqlite", run={"rounds": 3}, learning=LINEAR)
    again.advance()
    again.hello("d5", work=late.work)
    again.send("d5", *late.messages())
    again.advance()
    assert again.run.updates == 5
    assert not again.acks("d5")[-1][1]
    again.close()


@pytest.mark.usefixtures("compiled")
def test_a_batch_that_was_begun_ends_before_the_run(tmp_path: Path) -> None:
    driver = with_five_updates(tmp_path / "run.sqlite", 0, {**LINEAR, "mode": "batch", "batch": 8})
    assert driver.run.version == 0
    weights = driver.run.weights.copy()
    driver.run.change({"run.rounds": 5})
    driver.advance()
    assert not driver.run.finished
    driver.answer("d5")
    driver.advance()
    assert (driver.run.version, driver.run.rounds_left) == (1, 0)
    assert not np.array_equal(driver.run.weights, weights)
    assert driver.run.finished
    driver.close()
