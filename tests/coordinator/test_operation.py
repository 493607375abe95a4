"""What operators and guards do to a run that is going on, and that it outlives a crash."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.errors import ConfigError, CoordinatorError, StoreError
from coordinator.guards import FEWEST, OF_EACH
from coordinator.replay import check
from simulator.hostile import Forged

from .driver import Driver

pytestmark = pytest.mark.usefixtures("compiled")

StartRun = Callable[..., Driver]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartRun]:
    """A function that starts a run on this test's store, again and again if need be: the one before has crashed."""
    started: list[Driver] = []

    def start(*, devices: int = 0, **tables: dict[str, Any]) -> Driver:
        if started:
            started[-1].close()
        driver = Driver(tmp_path / "run.sqlite", **tables)
        started.append(driver)
        for i in range(devices):
            driver.hello(f"d{i}")
        driver.advance()
        return driver

    yield start
    if started:
        started[-1].close()


def train(driver: Driver, updates: int) -> None:
    """``updates`` more, by whom it is asked of."""
    end = driver.run.updates + updates
    while driver.run.updates < end:
        driver.advance()
        work = next(iter(driver.run.book.open.values()))
        driver.answer(work.device, seed=driver.run.updates + 1)
    driver.commit()


def evaluate(driver: Driver, after: float) -> None:
    """An evaluation by the device e0 comes to the loss ``after``."""
    driver.advance()
    report(driver, "e0", after)
    driver.advance()


def report(driver: Driver, device: str, after: float) -> None:
    """``device`` answers its evaluation with the loss ``after``."""
    request = driver.requests(device)[-1]
    result = {"version": request["version"], "before": 9.0, "after": after, "queries": 5}
    driver.send(device, {"work": request["work"], "evaluation": result})


# Settings


def test_a_setting_changes_what_comes_next(start: StartRun) -> None:
    driver = start(devices=1)
    driver.answer("d0")
    driver.run.change({"learning.steps": 9, "learning.alpha": 0.5, "learning.schedule": "constant"})
    driver.advance()
    assert driver.requests("d0")[-1]["task"]["steps"] == 9
    driver.answer("d0", seed=2)
    driver.commit()
    assert [row.weight for row in driver.store.accepted_since(0)] == [0.3, 0.5]


def test_a_changed_setting_outlives_a_crash_and_can_be_taken_back(start: StartRun) -> None:
    driver = start()
    driver.run.change({"learning.alpha": 0.125, "guards.clip": 7.5})
    driver.run.change({"guards.clip": None})
    driver.commit()
    again = start()
    assert (again.run.config.learning.alpha, again.run.config.guards.clip) == (0.125, 4.0)
    assert again.run.settings() == [{"setting": "learning.alpha", "value": 0.125, "configured": 0.3}]
    again.run.change({"learning.alpha": None})
    again.commit()
    assert start().run.config.learning.alpha == 0.3


def test_a_change_back_to_the_configured_value_is_none(start: StartRun, caplog: pytest.LogCaptureFixture) -> None:
    driver = start()
    driver.run.change({"run.paused": True, "learning.alpha": 0.125})
    driver.run.change({"run.paused": False, "learning.alpha": 0.3})
    assert driver.run.settings() == []
    driver.commit()
    assert driver.store.settings() == {}
    again = start()
    again.run.change({"learning.alpha": 0.125})
    again.commit()
    configured = start(learning={"alpha": 0.125})  # the file says it, too, from now on
    configured.commit()
    assert (configured.run.settings(), configured.store.settings()) == ([], {})
    assert "takes it back" not in caplog.text, "nothing stands that would have to be taken back"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"learning.alhpa": 1}, "unknown setting learning.alhpa"),
        ({"alpha": 1}, "unknown setting alpha; they are written table.key"),
        ({"learning.alpha": 7}, "learning.alpha"),
        ({"learning.alpha": "much"}, "learning.alpha"),
        ({"learning.mode": "batch"}, "learning.mode can't change while a run is going on"),
        ({"run.seed": 3}, "run.seed can't change while a run is going on"),
        ({"run.name": "x"}, "run.name can't change"),
        ({"broker.host": "x"}, "broker.host can't change"),
        ({"journal.history": 1}, "journal.history can't change"),
        ({"learning.alpha": 0.1, "learning.alpha_end": 0.2}, "alpha_end"),
        ({"learning.steps": 5, "learning.bits": 5}, "learning.bits"),
    ],
)
def test_a_change_that_can_not_be_is_refused_and_changes_nothing(
    start: StartRun, change: dict[str, Any], complaint: str
) -> None:
    driver = start()
    before = driver.run.config
    with pytest.raises(ConfigError, match=complaint):
        driver.run.change(change)
    driver.commit()
    assert driver.run.config == before
    assert driver.store.settings() == {}


def test_a_batch_that_has_begun_goes_on_under_new_settings(start: StartRun) -> None:
    driver = start(devices=3, learning={"mode": "batch", "batch": 3, "alpha": 0.3, "schedule": "constant"})
    train(driver, 2)
    driver.run.change({"learning.alpha": 0.6})
    train(driver, 1)
    rows = list(driver.store.accepted_since(0))
    assert [(row.weight, row.moved) for row in rows] == [(0.3, False), (0.3, False), (0.6, True)]
    weights = driver.run.weights.tobytes()
    assert start(learning={"mode": "batch", "batch": 3}).run.weights.tobytes() == weights


def test_a_paused_run_takes_what_is_out_and_hands_out_nothing(start: StartRun) -> None:
    driver = start(devices=1)
    driver.run.change({"run.paused": True})
    driver.answer("d0")
    driver.advance()
    assert driver.run.updates == 1
    assert len(driver.requests("d0")) == 1
    driver.commit()
    again = start(devices=1)
    assert again.requests("d0") == [], "it stays paused"
    again.run.change({"run.paused": None})
    again.advance()
    assert len(again.requests("d0")) == 1


def test_a_paused_run_publishes_nothing_newer_but_what_is_gone_back_to(start: StartRun) -> None:
    driver = start(devices=1)
    train(driver, 3)
    driver.advance()
    driver.run.change({"run.paused": True})
    driver.answer("d0", seed=9)
    driver.advance()
    assert (driver.run.version, driver.run.published_version) == (4, 3)
    driver.commit()
    driver.run.roll_back(2)
    driver.advance()
    assert driver.run.published_version == driver.run.version == 5
    assert driver.versions[5] == driver.versions[2]


# Going back


def test_a_version_gone_back_to_is_a_new_version_with_its_weights(start: StartRun) -> None:
    driver = start(devices=2)
    train(driver, 5)
    weights = driver.run.weights.tobytes()
    train(driver, 5)
    driver.advance()
    (work,) = driver.run.book.open.values()
    late = driver.learn(work.device)
    driver.run.roll_back(5)
    driver.commit()
    assert (driver.run.version, driver.run.updates) == (11, 10)
    assert driver.run.weights.tobytes() == weights
    driver.send(work.device, *late.messages())
    assert driver.acks(work.device)[-1] == (work.id, False, "version 5 was gone back to"), "it began from a later one"
    driver.advance()
    assert driver.run.published_version == 11
    again = start()
    assert (again.run.version, again.run.updates, again.run.weights.tobytes()) == (11, 10, weights)
    assert [event.kind for event in again.store.events()] == ["rollback"]


def test_a_batch_that_had_begun_is_dropped_with_what_is_gone_back_over(start: StartRun) -> None:
    batch = {"mode": "batch", "batch": 3}
    driver = start(devices=3, learning=batch)
    train(driver, 3)
    weights = driver.run.weights.tobytes()
    train(driver, 5)
    driver.run.roll_back(1)
    driver.commit()
    again = start(devices=3, learning=batch)
    assert (again.run.version, again.run.weights.tobytes()) == (3, weights)
    train(again, 3)
    final = again.run.weights.tobytes()
    assert again.run.version == 4
    assert start(learning=batch).run.weights.tobytes() == final


@pytest.mark.parametrize("version", [6, 7])
def test_only_an_earlier_version_can_be_gone_back_to(start: StartRun, version: int) -> None:
    driver = start(devices=1)
    train(driver, 6)
    with pytest.raises((StoreError, CoordinatorError), match=f"version {version} (is not earlier|can't be had)"):
        driver.run.roll_back(version)
    assert driver.run.version == 6


# Devices


def test_a_device_in_quarantine_gets_no_work_until_it_is_released(start: StartRun) -> None:
    driver = start(devices=2)
    (work,) = driver.run.book.open.values()
    late = driver.learn(work.device)
    driver.run.quarantine(work.device, "a broken sensor")
    driver.send(work.device, *late.messages())
    assert driver.acks(work.device) == [(work.id, False, "a broken sensor")]
    train(driver, 4)
    driver.commit()
    again = start(devices=2)
    assert again.run.registry.devices[work.device].quarantine == "a broken sensor"
    assert {open_.device for open_ in again.run.book.open.values()} != {work.device}
    again.run.release(work.device)
    before = again.run.registry.devices[work.device].accepted
    train(again, 4)
    assert again.run.registry.devices[work.device].accepted > before


def test_a_device_that_sends_nonsense_again_and_again_is_put_in_quarantine(start: StartRun) -> None:
    driver = start(devices=1, guards={"strikes": 3})
    for _ in range(3):
        work = driver.requests("d0")[-1]["work"]
        driver.send("d0", {"work": work, "chunks": 9, "data": b"nonsense"})
        driver.now += 120  # it has rested
        driver.advance()
    assert driver.run.book.open == {}
    assert "3 messages refused, the last for: chunk 0 of" in driver.run.registry.devices["d0"].quarantine
    driver.commit()
    assert start().run.registry.devices["d0"].quarantine


def test_bad_luck_is_no_strike(start: StartRun) -> None:
    driver = start(devices=1, guards={"strikes": 2})
    for _ in range(5):
        driver.now += 61
        driver.advance()  # late
        work = driver.requests("d0")[-1]["work"]
        driver.run.take_update("d0", {"work": work, "error": "the sensor is warming up"})
        driver.now += 120
        driver.advance()
    assert driver.run.registry.devices["d0"].quarantine == ""


def test_accepted_updates_make_up_for_strikes(start: StartRun) -> None:
    driver = start(devices=1, guards={"strikes": 3})
    for _ in range(5):
        work = driver.requests("d0")[-1]["work"]
        driver.send("d0", {"work": work, "chunks": 9, "data": b"nonsense"})
        driver.now += 120
        train(driver, 1)
        driver.advance()
    assert driver.run.registry.devices["d0"].quarantine == ""


def test_a_forgotten_device_is_unknown_and_may_come_back(start: StartRun) -> None:
    driver = start(devices=2)
    driver.hello("d0", state="offline")
    driver.run.forget("d0")
    driver.commit()
    assert list(driver.run.registry.devices) == ["d1"]
    assert [known.device for known in driver.store.devices()] == ["d1"]
    train(driver, 2)
    driver.hello("d0", boot="b2")
    train(driver, 2)
    assert driver.run.registry.devices["d0"].accepted == 1


def test_a_device_that_nobody_knows_is_told(start: StartRun) -> None:
    driver = start()
    for command in (driver.run.forget, driver.run.release, driver.run.device):
        with pytest.raises(CoordinatorError, match="no device d7 has ever joined run test"):
            command("d7")


def test_no_more_devices_are_taken_in_than_are_wanted(start: StartRun) -> None:
    driver = start(devices=5, guards={"devices": 3})
    assert list(driver.run.registry.devices) == ["d0", "d1", "d2"]
    assert driver.run.refusals["too many devices"] == 2


# Devices that are not fit for their work


def test_work_of_a_device_that_is_not_fit_for_it_goes_to_another_at_once(start: StartRun) -> None:
    driver = start(devices=2)
    (work,) = driver.run.book.open.values()
    other = "d1" if work.device == "d0" else "d0"
    driver.hello(work.device, state="unfit")
    driver.advance()
    assert [open_.device for open_ in driver.run.book.open.values()] == [other]
    assert driver.run.refusals["unfit"] == 1


def test_an_evaluation_does_not_wait_for_a_device_that_is_not_fit_for_it(start: StartRun) -> None:
    driver = start(devices=1, evaluation={"every": 5})
    for name in ("e0", "e1"):
        driver.hello(name, role="evaluate")
    train(driver, 5)
    driver.advance()
    report(driver, "e0", 0.5)
    driver.hello("e1", role="evaluate", state="unfit")
    driver.advance()
    assert driver.run.evaluations.latest["devices"] == 1


def test_a_device_that_is_unfit_from_now_on_delivers_what_it_is_at(start: StartRun) -> None:
    driver = start(devices=1)
    (work,) = driver.run.book.open.values()
    driver.hello("d0", state="unfit", work=work.id)  # its budget ends with this update
    driver.answer("d0")
    assert driver.run.updates == 1


def test_who_is_unfit_again_and_again_has_no_more_turns_than_others(start: StartRun) -> None:
    driver = start(devices=4, run={"rounds": 0})
    restless = driver.run.registry.devices["d3"]
    for _ in range(300):
        driver.advance()
        driver.now += 0.1
        (work,) = driver.run.book.open.values() or [None]
        if work is None:
            continue
        if work.device == "d3":
            driver.hello("d3", state="unfit")
            driver.hello("d3")
        else:
            driver.answer(work.device, seed=driver.run.updates + 1)
    turns = len(driver.requests("d3"))
    others = [len(driver.requests(name)) for name in ("d0", "d1", "d2")]
    assert restless.failures == turns
    assert turns <= 6, "it rests for 1, 3, 7, ... seconds"
    assert min(others) > 60


# Deltas


def test_a_delta_out_of_all_proportion_is_scaled_down_and_the_journal_says_so(start: StartRun) -> None:
    driver = start(devices=3, guards={"clip": 0.5})
    train(driver, 25)
    rows = list(driver.store.accepted_since(0))
    for count, row in enumerate(rows[FEWEST:], start=FEWEST):
        of = {name: [earlier.norm for earlier in rows[:count] if earlier.device == name] for name in ("d0", "d1", "d2")}
        usual = np.median([np.median(norms[-OF_EACH:]) for norms in of.values()])
        assert row.scale == pytest.approx(min(1.0, 0.5 * usual / row.norm))
    assert {row.scale for row in rows[FEWEST:]} != {1.0}
    weights = driver.run.weights.tobytes()
    assert start(guards={"clip": 0}).run.weights.tobytes() == weights


def test_what_is_usual_outlives_a_crash(start: StartRun) -> None:
    driver = start(devices=3)
    train(driver, 30)
    again = start(devices=3)
    assert list(again.run._guards._norms.norms) == list(driver.run._guards._norms.norms)
    assert again.run._guards._deltas == driver.run._guards._deltas
    assert len(again.run._guards._norms.norms) == 30


def test_a_crash_brings_nothing_back_of_a_forgotten_device(start: StartRun) -> None:
    driver = start(devices=3)
    train(driver, 30)
    driver.hello("d0", state="offline")
    driver.run.forget("d0")
    driver.commit()
    again = start()
    assert list(again.run._guards._norms.norms) == list(driver.run._guards._norms.norms)
    assert {device for device, _ in again.run._guards._norms.norms} == again.run._guards._deltas.keys() == {"d1", "d2"}


def test_a_repeated_delta_is_refused(start: StartRun) -> None:
    driver = start(devices=1)
    update = driver.answer("d0")
    driver.advance()
    work = driver.requests("d0")[-1]
    update.report["version"] = work["version"]
    for chunk in update.messages():
        driver.send("d0", chunk | {"work": work["work"]})
    assert driver.acks("d0")[-1] == (work["work"], False, "the very delta that it sent before")
    assert driver.run.updates == 1


def test_updates_are_buffered_and_combined(start: StartRun) -> None:
    guards = {"buffer": 3, "combine": "median"}
    learning = {"mode": "asynchronous", "in_flight": 2, "publish_interval": 0}
    driver = start(devices=4, guards=guards, learning=learning)
    train(driver, 7)
    rows = list(driver.store.accepted_since(0))
    assert [row.moved for row in rows] == [False, False, True] * 2 + [False]
    assert (driver.run.version, {row.combine for row in rows}) == (2, {"median"})
    weights = driver.run.weights.tobytes()
    again = start(devices=4, learning=learning)  # and the batch that has begun ends as a median
    assert again.run.weights.tobytes() == weights
    train(again, 1)
    assert [row.combine for row in again.store.accepted_since(7)] == ["median"]


# Reputations


def with_a_hostile_device(start: StartRun, updates: int) -> Driver:
    """``updates`` more of ten devices, one of which sends the same constant and is found after a while."""
    driver = start(devices=10, guards={"reputation": True, "repeats": False}, run={"rounds": 0})
    for _ in range(updates):
        driver.advance()
        device = next(iter(driver.run.book.open.values())).device
        update = driver.learn(device, seed=driver.run.updates + 1)
        if device == "d3":
            packed, gains = bytes([120]) * driver.run.model.parameters, update.report["gains"]
            update.chunks = [bytearray(c) for c in Forged(driver.run.model, packed, gains).chunks()]
        driver.send(device, *update.messages())
    driver.commit()
    return driver


def test_a_device_that_pulls_elsewhere_counts_nothing_and_a_replay_gives_the_same_bits(start: StartRun) -> None:
    driver = with_a_hostile_device(start, 250)
    rows = list(driver.store.accepted_since(0))
    assert [row.scale for row in rows if row.device == "d3"][-1] < 0.2
    assert sum(row.scale for row in rows[-50:] if row.device != "d3") > 0.8 * 45
    assert [event.text.split(":")[0] for event in driver.store.events() if event.kind == "distrust"].count("d3") == 1
    assert check(driver.store, driver.run.model) == 0  # no two checkpoints yet
    weights = driver.run.weights.tobytes()
    again = start()  # without reputations: what was decided stands
    assert again.run.weights.tobytes() == weights
    again.store.write([again.run.checkpoint()])
    assert check(again.store, again.run.model) == 250


def test_a_coordinator_that_starts_anew_still_knows_who_pulls_elsewhere(start: StartRun) -> None:
    with_a_hostile_device(start, 250)
    again = with_a_hostile_device(start, 0)
    assert again.run.standing("d3") < 0.2
    assert with_a_hostile_device(start, 20).run.updates == 270
    again.run.change({"guards.trusted": ["d3"]})
    assert again.run.standing("d3") == 1
    again.run.change({"guards.trusted": None, "guards.reputation": False})
    assert again.run.standing("d3") == 1, "nobody has one"


# Drift


def evaluated(start: StartRun, losses: list[float], **guards: Any) -> Driver:
    """A run whose one held-out device comes to ``losses``, one evaluation after the other."""
    driver = start(devices=1, run={"rounds": 0}, guards=guards, evaluation={"every": 5})
    driver.hello("e0", role="evaluate")
    for loss in losses:
        train(driver, 5)
        evaluate(driver, loss)
    return driver


def drifting(start: StartRun, reaction: str) -> Driver:
    """A run whose three last evaluations are much worse than the five before."""
    return evaluated(start, [1.0, 0.9, 1.1, 1.0, 1.2, 2.6, 2.7, 2.5], drift=2.0, on_drift=reaction)


def test_learning_that_gets_worse_is_told(start: StartRun) -> None:
    driver = drifting(start, "tell")
    (event,) = driver.store.events()
    text = "loss 2.5 on unseen devices after 3 bad evaluations, usually 1; the best was version 10"
    assert (event.kind, event.text) == ("drift", text)
    assert not driver.run.config.run.paused


def test_learning_that_gets_worse_holds_the_run(start: StartRun) -> None:
    driver = drifting(start, "hold")
    assert driver.run.config.run.paused
    driver.commit()
    assert start().run.config.run.paused


def test_learning_that_gets_worse_goes_back_to_the_best(start: StartRun) -> None:
    driver = drifting(start, "rollback")
    assert driver.run.to_roll_back == 10
    best = driver.versions[10]
    driver.run.roll_back(driver.run.to_roll_back)
    driver.advance()
    assert driver.run.to_roll_back is None
    assert driver.versions[driver.run.version] == best


@pytest.mark.parametrize(
    "losses",
    [
        [1.0, 0.9, 1.1, 1.0, 1.0, 9.0, 9.0, 1.0, 9.0, 9.0],
        [1.0, 0.01, 0.9, 1.1, 0.95, 1.0, 0.9, 1.0, 1.1],
        [1.0, 1.1, 0.9, 1.0, 2.5, 2.5, 2.5],
        [1.0, 0.9, 1.1, 1.0, 1.0, 1.9, 1.9, 1.9],
    ],
    ids=["two bad ones", "a lucky one", "too few before", "not so much worse"],
)
def test_chance_is_no_drift(start: StartRun, losses: list[float]) -> None:
    driver = evaluated(start, losses, drift=2.0)
    assert driver.run.to_roll_back is None
    assert driver.run.events["drift"] == 0


def test_learning_that_gets_worse_little_by_little_is_told(start: StartRun) -> None:
    losses = [1.0] * 5 + [1.25**count for count in range(1, 11)]
    driver = evaluated(start, losses, drift=3.0, on_drift="tell")
    first = next(event for event in driver.store.events() if event.kind == "drift")
    assert first.version == 5 * (5 + 7)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_version_that_was_gone_back_to_is_the_new_measure(start: StartRun, restarts: bool) -> None:
    driver = drifting(start, "rollback")
    driver.run.roll_back(10)
    driver.commit()
    # The devices' data have changed: the best version has become as bad.
    for loss in (2.5, 2.6, 2.4, 2.5, 2.6, 2.5, 2.4):
        if restarts:
            driver = evaluated(start, [], drift=2.0)
        train(driver, 5)
        evaluate(driver, loss)
        assert driver.run.to_roll_back is None
    for loss in (5.5, 5.6, 5.7):
        train(driver, 5)
        evaluate(driver, loss)
    assert driver.run.to_roll_back is not None, "and it is one"


@pytest.mark.parametrize("restarts", [False, True])
def test_an_operator_who_goes_back_to_a_worse_version_is_not_overruled(start: StartRun, restarts: bool) -> None:
    driver = evaluated(start, [4.0, 1.0, 0.9, 1.0, 1.1])
    driver.run.roll_back(5)
    driver.commit()
    for _ in range(3):
        if restarts:
            driver = evaluated(start, [])
        train(driver, 5)
        evaluate(driver, 4.0)
        assert driver.run.to_roll_back is None


def test_an_evaluation_that_a_rollback_has_cut_short_is_no_measure(start: StartRun) -> None:
    driver = start(devices=1, run={"rounds": 0}, evaluation={"every": 5})
    for name in ("e0", "e1"):
        driver.hello(name, role="evaluate")
    train(driver, 5)
    driver.advance()
    report(driver, "e0", 0.5)
    driver.run.roll_back(3)
    driver.advance()
    assert driver.run.evaluations.latest["version"] == 5
    assert driver.run.evaluations._latest == []
    driver.commit()
    assert start().run.evaluations._latest == []


def test_by_default_a_run_whose_learning_breaks_down_goes_back(start: StartRun) -> None:
    driver = evaluated(start, [1.0, 1.3, 0.9, 1.0, 1.2, 3.1, 3.2, 3.3])
    assert driver.run.to_roll_back == 15


# Devices that lie about what they find


NINE = [f"e{i}" for i in range(9)]
TRUE = dict(zip(NINE, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), strict=True))  # some tasks are harder than others


def among_nine(start: StartRun, evaluations: list[dict[str, float]], **guards: Any) -> Driver:
    """A run whose nine held-out devices report ``evaluations``, one after the other; who is not there says nothing."""
    driver = start(devices=1, guards={"drift": 3.0, **guards}, evaluation={"every": 5})
    for losses in evaluations:
        for name in NINE:
            driver.hello(name, role="evaluate", state="online" if name in losses else "offline")
        train(driver, 5)
        driver.advance()
        for name, loss in losses.items():
            report(driver, name, loss)
        driver.advance()
    return driver


MINORITIES = pytest.mark.parametrize("liars", [NINE[:1], NINE[-1:], NINE[:4], NINE[-4:]], ids=",".join)


@MINORITIES
@pytest.mark.parametrize("reaction", ["hold", "rollback"])
@pytest.mark.parametrize("before", [0.0, 1e-6, 1.0])
def test_a_minority_neither_holds_a_run_nor_rolls_it_back(
    start: StartRun, liars: list[str], reaction: str, before: float
) -> None:
    """It says that all has become worse, and that all was well before."""
    good, bad = (TRUE | dict.fromkeys(liars, loss) for loss in (before * TRUE[liars[0]], 1e9))
    driver = among_nine(start, [good] * 5 + [bad] * 4, on_drift=reaction)
    assert not driver.run.config.run.paused
    assert driver.run.to_roll_back is None
    assert "drift" not in [event.kind for event in driver.store.events()]


@pytest.mark.parametrize("away", ["before", "then"])
def test_a_minority_that_comes_or_goes_does_not_either(start: StartRun, away: str) -> None:
    honest, false = {name: TRUE[name] for name in NINE[4:]}, dict.fromkeys(NINE[:4], 1e9)
    good, bad = (honest, TRUE | false) if away == "before" else (TRUE | dict.fromkeys(false, 0.0), honest)
    driver = among_nine(start, [good] * 5 + [bad] * 3)
    assert driver.run.to_roll_back is None


@MINORITIES
def test_a_minority_does_not_blind_the_alarm_and_is_named(start: StartRun, liars: list[str]) -> None:
    worse = {name: (1.0 if name in liars else 4.0) * loss for name, loss in TRUE.items()}
    driver = among_nine(start, [TRUE] * 5 + [worse] * 3)
    assert driver.run.to_roll_back is not None
    (text,) = [event.text for event in driver.store.events() if event.kind == "drift"]
    assert text.endswith(f"; nothing got worse at {', '.join(liars)}")


def test_who_comes_or_goes_does_not_blind_the_alarm(start: StartRun) -> None:
    worse = {name: 4.0 * loss for name, loss in TRUE.items() if name in NINE[4:]}
    good, bad = {name: TRUE[name] for name in NINE[4:]}, worse | dict.fromkeys(NINE[:4], 0.0)
    driver = among_nine(start, [good] * 5 + [bad] * 3)
    assert driver.run.to_roll_back == 25


@MINORITIES
def test_a_minority_does_not_choose_what_is_gone_back_to(start: StartRun, liars: list[str]) -> None:
    best, good, bad = ({name: times * loss for name, loss in TRUE.items()} for times in (0.8, 1.0, 4.0))
    lie = dict.fromkeys(liars, 1e-9)
    driver = among_nine(start, [good | lie, best, *[good | lie] * 3, bad | dict.fromkeys(liars, 1e9), bad, bad])
    assert driver.run.to_roll_back == 10


def test_who_alone_reports_a_huge_loss_is_named_once(start: StartRun) -> None:
    false = TRUE | {"e3": 50.0}
    driver = among_nine(start, [TRUE] * 5 + [false] * 3)
    events = [event.text for event in driver.store.events() if event.kind == "disagreement"]
    assert events == ["others do not find the losses that e3 reports: 50 of e3, usually 0.4"]


def test_all_that_got_worse_is_no_disagreement(start: StartRun) -> None:
    driver = among_nine(start, [TRUE] * 5 + [{name: 20 * loss for name, loss in TRUE.items()}] * 3, on_drift="tell")
    assert [event.kind for event in driver.store.events()] == ["drift"]


def test_the_alarm_remembers_what_each_device_found_across_a_restart(start: StartRun) -> None:
    among_nine(start, [TRUE] * 5)
    false = dict.fromkeys(NINE[:4], 1e9)
    assert among_nine(start, [TRUE | false]).run.to_roll_back is None
    worse = {name: 4.0 * loss for name, loss in TRUE.items()}
    assert among_nine(start, [worse] * 2).run.to_roll_back is None
    assert among_nine(start, [worse]).run.to_roll_back is not None


def test_a_run_does_not_end_with_what_a_minority_calls_the_best(start: StartRun) -> None:
    driver = start(devices=1, run={"rounds": 15}, guards={"drift": 0}, evaluation={"every": 5})
    for name in NINE:
        driver.hello(name, role="evaluate")
    for number in range(3):
        train(driver, 5)
        driver.advance()
        for name in NINE:
            report(driver, name, (0.0, 1e9, 1e9)[number] if name in NINE[:4] else TRUE[name] / (1 + number))
        driver.advance()
    assert driver.run.to_roll_back is None
    assert driver.run.finished


# Devices that only say that they are held out


def pass_deadline(driver: Driver) -> None:
    """Of all work, and the device that trains says that it is still there."""
    driver.now += 31
    driver.advance()
    driver.hello("d0")
    driver.advance()


def test_a_device_that_may_not_report_is_waited_for_once(start: StartRun) -> None:
    driver = start(devices=1, evaluation={"every": 5}, learning={"deadline": 30})
    for name in ("e0", "mute"):
        driver.hello(name, role="evaluate")
    for number in range(4):
        train(driver, 5)
        driver.hello("mute", boot=f"b{number}", role="evaluate")
        driver.advance()
        report(driver, "e0", 0.5)
        driver.advance()
        assert len(driver.run.evaluations.summaries) == number + (number > 0)
        pass_deadline(driver)
    assert [summary["devices"] for summary in driver.run.evaluations.summaries] == [1] * 4
    assert len(driver.requests("mute")) == 4


def test_a_device_that_starts_again_instead_of_an_answer_is_waited_for_once(start: StartRun) -> None:
    driver = start(devices=1, evaluation={"every": 5}, learning={"deadline": 30})
    for name in ("e0", "restless"):
        driver.hello(name, role="evaluate")
    for number in range(4):
        train(driver, 5)
        driver.advance()
        report(driver, "e0", 0.5)
        driver.advance()
        assert len(driver.run.evaluations.summaries) == number + (number > 0)
        driver.now += 29
        driver.hello("restless", boot=f"b{number}", role="evaluate")
        driver.advance()
    assert [summary["devices"] for summary in driver.run.evaluations.summaries] == [1] * 4


def test_a_device_that_was_late_is_waited_for_again_once_it_has_reported(start: StartRun) -> None:
    driver = start(devices=1, evaluation={"every": 5}, learning={"deadline": 30})
    for name in ("e0", "slow"):
        driver.hello(name, role="evaluate")
    train(driver, 5)
    driver.advance()
    report(driver, "e0", 0.5)
    pass_deadline(driver)
    driver.hello("slow", role="evaluate")
    train(driver, 5)
    driver.advance()
    report(driver, "e0", 0.5)
    driver.advance()
    report(driver, "slow", 0.5)
    assert driver.acks("slow")[-1][1:] == (False, "the evaluation has ended without it")
    assert not driver.run.device("slow").strikes
    driver.now += 5  # it rests a little
    train(driver, 5)
    driver.advance()
    report(driver, "e0", 0.5)
    driver.advance()
    report(driver, "slow", 0.5)
    driver.advance()
    assert [summary["devices"] for summary in driver.run.evaluations.summaries] == [1, 1, 2]


def test_where_all_are_silent_the_run_still_waits_for_them(start: StartRun) -> None:
    driver = start(devices=1, evaluation={"every": 5}, learning={"deadline": 30})
    driver.hello("e0", role="evaluate")
    train(driver, 5)
    driver.advance()
    pass_deadline(driver)
    driver.hello("e0", role="evaluate")
    train(driver, 5)
    evaluate(driver, 0.5)
    assert [summary["devices"] for summary in driver.run.evaluations.summaries] == [1]


def test_what_was_found_of_another_version_is_refused(start: StartRun) -> None:
    driver = start(devices=1, evaluation={"every": 5})
    driver.hello("e0", role="evaluate")
    train(driver, 5)
    driver.advance()
    work = driver.requests("e0")[-1]["work"]
    driver.send("e0", {"work": work, "evaluation": {"version": 4, "before": 9.0, "after": 1.0, "queries": 5}})
    assert driver.run.refusals["wrong version"] == 1


@pytest.mark.parametrize("after", [float("nan"), float("inf"), -1.0, 1e12])
def test_a_loss_that_is_none_is_refused(start: StartRun, after: float) -> None:
    driver = start(devices=1, evaluation={"every": 5})
    driver.hello("e0", role="evaluate")
    train(driver, 5)
    evaluate(driver, after)
    assert driver.run.refusals["malformed"] == 1
    assert driver.run.evaluations.summaries == []


# The end


def ended(start: StartRun, losses: list[float], **evaluation: Any) -> Driver:
    """A run of five updates an evaluation, whose evaluations have come to ``losses``."""
    driver = start(
        devices=1, run={"rounds": 5 * len(losses)}, guards={"drift": 0}, evaluation={"every": 5} | evaluation
    )
    driver.hello("e0", role="evaluate")
    for loss in losses:
        train(driver, 5)
        evaluate(driver, loss)
    return driver


def test_a_run_ends_with_its_best_version(start: StartRun) -> None:
    driver = ended(start, [1.0, 0.5, 0.7])
    assert driver.run.to_roll_back == 10
    assert not driver.run.finished
    best = driver.versions[10]
    driver.run.roll_back(10)
    driver.advance()
    assert driver.run.finished
    assert driver.versions[driver.run.version] == best
    driver.commit()
    assert [event.kind for event in driver.store.events()] == ["best", "rollback"]


@pytest.mark.parametrize(
    ("losses", "evaluation"),
    [([1.0, 0.69, 0.7], {}), ([1.0, 0.5, 0.7], {"best": False})],
    ids=["as good", "switched off"],
)
def test_a_run_ends_with_its_last_version(start: StartRun, losses: list[float], evaluation: dict[str, Any]) -> None:
    driver = ended(start, losses, **evaluation)
    assert driver.run.to_roll_back is None
    assert driver.run.finished


def test_an_evaluation_by_fewer_devices_is_no_better(start: StartRun) -> None:
    driver = start(devices=1, run={"rounds": 10}, evaluation={"every": 5})
    driver.hello("e0", role="evaluate")
    train(driver, 5)
    evaluate(driver, 0.5)
    driver.hello("e1", role="evaluate")
    train(driver, 5)
    driver.advance()
    for device in ("e0", "e1"):
        report(driver, device, 0.7)
    driver.advance()
    assert driver.run.evaluations.latest["devices"] == 2
    assert driver.run.to_roll_back is None
