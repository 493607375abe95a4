"""Any version of the history again, from a checkpoint and the deltas after it."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from coordinator.entries import Checkpoint
from coordinator.errors import StoreError
from coordinator.replay import check, replay
from coordinator.rules import MetaUpdate, discount, schedule
from coordinator.store import Store

from .driver import Driver

pytestmark = pytest.mark.usefixtures("compiled")


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
    with pytest.raises(
        StoreError,
        match=r"is damaged: (version \d+ is not what led|the checkpoint of version 20|.*: update 15 is missing)",
    ):
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


class Life:
    """A run that is evaluated, interrupted and gone back with, and beside its store one that keeps everything."""

    def __init__(self, folder: Path, seed: int, **tables: dict[str, Any]) -> None:
        self._path = folder / "run.sqlite"
        self._tables: dict[str, dict[str, Any]] = {"run": {"rounds": 0}} | tables
        self._random = Random(seed)
        self.all = Store(str(folder / "all.sqlite"), "test", history=0)
        self.weights: dict[int, bytes] = {}
        self.start()

    def start(self) -> None:
        self.driver = Driver(self._path, **self._tables)
        write = self.driver.store.write
        if not self.weights:
            self.all.bind(self.driver.store.properties())
            self.all.write([Checkpoint(0, 0, self.driver.run.weights)])

        def both(entries: Any) -> None:
            self.all.write(entries)
            write(entries)

        self.driver.store.write = both  # type: ignore[method-assign]
        self.driver.hello("a")
        self.driver.hello("b")
        self.driver.hello("e", role="evaluate")
        self._note()

    def _note(self) -> None:
        run = self.driver.run
        assert self.weights.setdefault(run.version, run.weights.tobytes()) == run.weights.tobytes()

    def update(self) -> None:
        driver = self.driver
        driver.advance()
        for work in list(driver.run.book.open.values()):
            if work.kind == "evaluate":
                loss = self._random.random()
                found = {"version": work.version, "before": 1.0, "after": loss, "queries": 5}
                driver.send("e", {"work": work.id, "evaluation": found})
        work = next(work for work in driver.run.book.open.values() if work.kind == "train")
        driver.answer(work.device, seed=driver.run.updates)
        driver.commit()
        self._note()

    def interrupt(self) -> None:
        """A crash, or an end with a last checkpoint."""
        if self._random.random() < 0.5:
            self.driver.store.write([self.driver.run.checkpoint()])
        self.driver.close()
        self.start()

    def go_back(self) -> None:
        """To any version that can be had."""
        driver = self.driver
        earlier = [version for version in self.within_reach() if version < driver.run.version]
        if earlier:
            version = self._random.choice(earlier)
            driver.run.roll_back(version)
            assert driver.run.weights.tobytes() == self.weights[version]
            driver.commit()
            self._note()

    def state(self, store: Store, version: int) -> bytes | None:
        try:
            state = replay(store, self.driver.run.model, meta(), version)
        except StoreError:
            return None
        assert state is not None
        return state.weights.tobytes()

    def within_reach(self) -> list[int]:
        """The versions that the store gives back: each is what it was, and so is each of the store of everything."""
        found = {version: self.state(self.driver.store, version) for version in self.weights}
        assert {v: w for v, w in found.items() if w is not None and w != self.weights[v]} == {}
        return [version for version, weights in found.items() if weights is not None]


KEPT = [(0, 0), (1, 1), (1, 20), (7, 0), (7, 7), (20, 20), (20, 40)]


@pytest.mark.parametrize("mode", [{"mode": "serial"}, {"mode": "batch", "batch": 3}], ids=["serial", "batch"])
@pytest.mark.parametrize("every", [0, 3])
@pytest.mark.parametrize(("history", "rows"), KEPT)
def test_whatever_a_store_keeps_it_gives_right_weights_or_none(
    history: int, rows: int, every: int, mode: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.run.CHECKPOINT_EVERY", 8)
    kept = {"history": history, "rows": rows}
    evaluation = {"every": every, "steps": 4, "shots": 4, "queries": 5}
    learning = {"steps": 4, "beta": 0.01, "deadline": 60, "publish_interval": 0, "encoding": "int16"} | mode
    random = Random(f"{history} {rows} {every}")
    life = Life(tmp_path, 1, journal=kept, evaluation=evaluation, learning=learning)
    since = 0
    for _ in range(80):
        life.update()
        chance = random.random()
        if chance < 0.08:
            life.interrupt()
        elif chance < 0.12:
            life.go_back()
            since = life.driver.run.version
    run, store = life.driver.run, life.driver.store
    reach = life.within_reach()
    assert set(reach) >= {version for version, _ in store.checkpoint_versions()}
    if history:
        rows_on_record = list(store.accepted_since(0))
        needed = [row.version + row.tau for row in rows_on_record if row.updates >= run.updates - history]
        assert set(reach) >= {version for version in needed if version >= since}, "all of the history"
        assert len(rows_on_record) <= max(rows, history + 8) + 8 or not rows
    else:
        assert set(reach) == set(life.weights)
    best = min(store.evaluations(), key=lambda evaluated: (evaluated.summary["after"], evaluated.version), default=None)
    assert best is None or best.version in reach
    assert check(life.all, run.model) >= check(store, run.model)
    assert all(life.state(life.all, version) == weights for version, weights in life.weights.items())
    life.driver.close()
    life.all.close()


def test_a_version_after_rows_that_are_gone_is_refused(history: tuple[Driver, dict[int, bytes]]) -> None:
    driver, _ = history
    with driver.store._database.write() as connection:
        connection.exec_driver_sql("DELETE FROM accepted WHERE updates < 15")
    for version in (11, 15, 19):
        with pytest.raises(StoreError, match=f"version {version} can't be had any more"):
            replay(driver.store, driver.run.model, meta(), version)
