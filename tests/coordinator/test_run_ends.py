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
    deltas = [unpack(driver.run.model, u.packed, u.report["bits"], u.report["gains"]) for u in updates]
    assert np.allclose(driver.run.weights, start + 0.5 * np.mean(deltas, axis=0), atol=1e-12)
    assert (driver.run.version, driver.run.finished) == (1, True)
    assert np.allclose(decode(driver.run.model, driver.published[1]), driver.run.weights, atol=1 / 4096)
    driver.close()
