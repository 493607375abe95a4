"""A device that answers at once, with next to nothing, in a small fleet: the others learn on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.work import Work
from simulator.hostile import Forged

from .driver import MODES, Driver, Living

pytestmark = pytest.mark.usefixtures("compiled")

HONEST = {f"d{i}": 10.0 + i for i in range(3)}  # each with the seconds that it takes
FORGED = {"zero": (0, 65536), "next to nothing": (1, 65536), "huge": (127, 1)}  # number of one cell, and gain


class _WithHostile(Living):
    """The honest devices, and ``hostile``, which answers after a second with the same ``number`` and ``gain``."""

    def __init__(self, driver: Driver, number: int, gain: int) -> None:
        super().__init__(driver, {"hostile", *HONEST}, HONEST | {"hostile": 1.0})
        model = driver.run.model
        gains = [gain] * len(model.offsets)
        packed = bytes([number]) + bytes(model.parameters - 1)
        chunks = Forged(model, packed, gains).chunks()
        self._forged: list[dict[str, Any]] = [{"chunks": len(chunks), "data": chunk} for chunk in chunks]
        self._forged[0] |= {"gains": gains, "loss": 0.0}

    def _answer(self, work: Work) -> None:
        if work.device != "hostile":
            super()._answer(work)
            return
        first, *others = ({**chunk, "work": work.id} for chunk in self._forged)
        self.driver.send("hostile", first | {"version": max(work.versions)}, *others)


StartFleet = Callable[..., _WithHostile]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[StartFleet]:
    """A function that starts the run, or after a crash starts it anew; all devices say hello."""
    started: list[Driver] = []

    def start(mode: str, delta: str) -> _WithHostile:
        for driver in started:
            driver.close()
        guards = {"repeats": False, "strikes": 5}
        driver = Driver(tmp_path / "run.sqlite", run={"rounds": 0}, learning=MODES[mode], guards=guards)
        started[:] = [driver]
        driver.advance()
        for name in ("hostile", *HONEST):
            driver.hello(name, boot=f"b{driver.run.updates}")
        driver.advance()
        return _WithHostile(driver, *FORGED[delta])

    yield start
    for driver in started:
        driver.close()


@pytest.mark.parametrize("delta", FORGED)
@pytest.mark.parametrize("mode", MODES)
def test_a_device_that_answers_at_once_with_next_to_nothing_stops_nobody(
    fleet: StartFleet, mode: str, delta: str
) -> None:
    seconds = 600 if mode == "asynchronous" else 1800
    for _ in range(2):  # the second time after a crash
        living = fleet(mode, delta)
        known = living.driver.run.registry.devices
        before = {name: known[name].accepted for name in HONEST}
        living.live(seconds)
        living.driver.commit()
        for name in HONEST:
            assert not known[name].quarantine
            assert known[name].refused == 0
            assert known[name].accepted - before[name] >= 30
    rows = [row for row in living.driver.store.accepted_since(0) if row.device in HONEST]
    assert {row.scale for row in rows[-50:]} == {1.0}, "what they learned counts whole"
    assert bool(known["hostile"].quarantine) == (delta == "huge")
