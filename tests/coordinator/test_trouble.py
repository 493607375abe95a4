"""Why a device's work comes to nothing, as the coordinator shows it to an operator."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.control import _row
from tinyreptile import messages, reports

from .driver import Driver


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path / "run.sqlite")
    driver.publish()
    driver.hello("d0")
    driver.advance()
    yield driver
    driver.close()


def row(driver: Driver) -> dict[str, Any]:
    return _row(driver.run.device("d0"))


def notice(driver: Driver, text: str) -> None:
    status = {"protocol": messages.PROTOCOL, "state": "online", "boot": "b1", "role": "train", "notice": text}
    driver.run.take_status("d0", messages.check(reports.STATUS, status))


@pytest.mark.usefixtures("compiled")
def test_what_a_device_could_not_do_is_shown_until_it_could(driver: Driver) -> None:
    work = driver.requests("d0")[-1]["work"]
    driver.send("d0", {"work": work, "error": "the sensor is gone"})
    assert row(driver)["trouble"] == "the sensor is gone"
    driver.now += 10
    driver.advance()
    driver.answer("d0")
    driver.commit()
    assert (row(driver)["accepted"], row(driver).get("trouble")) == (1, None)


def test_a_device_that_lets_a_deadline_pass_has_it_shown(driver: Driver) -> None:
    driver.now += 61
    driver.advance()
    assert row(driver)["trouble"] == "nothing came of its work in the 60 s that it had"


def test_a_refused_update_is_shown(driver: Driver) -> None:
    driver.send("d0", {"work": driver.requests("d0")[-1]["work"], "chunks": 7, "data": b"x"})
    assert row(driver)["trouble"] == "chunk 0 of 7 is none of this delta"


def test_what_a_devices_owner_should_see_to_is_logged_once_and_shown(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        notice(driver, "too slow: and so on")
        notice(driver, "too slow: and so on")
    assert caplog.messages == ["device d0: too slow: and so on"]
    assert row(driver)["notice"] == "too slow: and so on"
    driver.hello("d0")
    assert "notice" not in row(driver)
