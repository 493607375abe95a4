"""Every decision of a run: who works when, what is taken, what is refused and why, and what survives a crash."""

from __future__ import annotations

import time
from binascii import crc32
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.deltas import unpack
from coordinator.errors import StoreError
from coordinator.evaluation import LINGER
from coordinator.initialization import decode, encode
from coordinator.mqtt import pack
from coordinator.registry import MAX_SILENCE
from coordinator.run import CHECKPOINT_EVERY, HELLOS, REMEMBERED, REPEATS
from coordinator.store import Accepted
from coordinator.versions import ROOM
from tinyreptile import messages

from .driver import MODEL, MODES, Driver, Living, Update

pytestmark = pytest.mark.usefixtures("compiled")

BIG: list[list[Any]] = [["input", 1], ["dense", 64, "relu"], ["dense", 64, "relu"], ["dense", 1], ["squared_error"]]
CLASSES: list[list[Any]] = [["input", 1], ["dense", 3], ["cross_entropy"]]

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
        driver.advance()
        for i in range(devices):
            driver.hello(f"d{i}")
        driver.advance()
        return driver

    yield start
    if started:
        started[-1].close()


def evaluation(work: int, version: int = 0, **fields: Any) -> dict[str, Any]:
    return {"work": work, "evaluation": {"version": version, "before": 2.0, "after": 1.0, "queries": 5} | fields}


# Handing out work


def test_a_device_gets_work_once_it_has_said_hello(start: StartRun) -> None:
    driver = start()
    assert driver.sent == []
    driver.hello("d0")
    driver.advance()
    (request,) = driver.requests("d0")
    assert request["task"] == {"kind": "train", "steps": 4, "beta": 0.01, "bits": 8, "seconds": 60}
    assert request["version"] == 0
    assert request["data"] == encode(driver.run.model, driver.run.weights)
    assert request["crc"] == crc32(request["data"])


@pytest.mark.parametrize("state", ["unfit", "offline", "probe", "nonsense"])
def test_a_device_that_is_not_online_gets_no_work(start: StartRun, state: str) -> None:
    driver = start()
    driver.hello("d0", state=state)
    driver.advance()
    assert driver.sent == []


def test_nobody_gets_work_before_a_version_is_published(start: StartRun) -> None:
    driver = start()
    driver.run.disconnected()
    driver.hello("d0")
    assert not driver.run.next_work()
    driver.advance()
    assert len(driver.requests("d0")) == 1


def test_a_held_out_device_is_never_asked_to_train(start: StartRun) -> None:
    driver = start()
    driver.hello("held-out", role="evaluate")
    driver.advance()
    assert driver.requests("held-out") == []


def test_a_device_of_an_unknown_role_gets_no_work(start: StartRun) -> None:
    driver = start()
    driver.hello("d0", role="spectator")
    driver.advance()
    assert driver.sent == []


def test_serial_mode_has_one_device_at_work_at_a_time(start: StartRun) -> None:
    driver = start(devices=3)
    assert [len(driver.requests(f"d{i}")) for i in range(3)] == [1, 0, 0]
    driver.answer("d0")
    driver.advance()
    assert [len(driver.requests(f"d{i}")) for i in range(3)] == [1, 1, 0]


def test_serial_mode_hands_out_work_of_the_newest_version_only(start: StartRun) -> None:
    driver = start(devices=2)
    driver.answer("d0")
    driver.advance()
    assert driver.requests("d1")[-1]["version"] == 1
    assert driver.requests("d1")[-1]["data"] == encode(driver.run.model, driver.run.weights)


def test_the_device_that_has_been_idle_longest_is_next(start: StartRun) -> None:
    driver = start(devices=4)
    order = []
    for _ in range(9):
        device = driver.sent[-1][0].split("/")[3]
        order.append(device)
        driver.answer(device)
        driver.advance()
    assert order == ["d0", "d1", "d2", "d3", "d0", "d1", "d2", "d3", "d0"]


def test_asynchronous_mode_keeps_in_flight_devices_at_work(start: StartRun) -> None:
    driver = start(devices=5, learning={"mode": "asynchronous", "in_flight": 3})
    assert [len(driver.requests(f"d{i}")) for i in range(5)] == [1, 1, 1, 0, 0]
    driver.answer("d1")
    driver.advance()
    assert [len(driver.requests(f"d{i}")) for i in range(5)] == [1, 1, 1, 1, 0]
    assert driver.run.book.count("train") == 3


def test_a_run_takes_exactly_its_rounds(start: StartRun) -> None:
    driver = start(devices=4, run={"rounds": 6}, learning={"mode": "asynchronous", "in_flight": 4})
    while working := sorted(driver.run.book.open):
        driver.answer(driver.run.book.open[working[0]].device)
        driver.advance()
    assert driver.run.updates == driver.run.version == 6
    assert driver.run.finished
    assert sum(len(driver.requests(f"d{i}")) for i in range(4)) == 6, "work beyond the last round was handed out"


def test_a_run_of_0_rounds_goes_on(start: StartRun) -> None:
    driver = start(devices=1, run={"rounds": 0})
    for _ in range(3):
        driver.answer("d0")
        driver.advance()
    assert driver.run.rounds_left is None
    assert not driver.run.finished
    assert len(driver.requests("d0")) == 4


def test_batch_mode_averages_the_updates_of_one_version(start: StartRun) -> None:
    driver = start(devices=5, learning={"mode": "batch", "batch": 3, "schedule": "constant", "alpha": 0.5})
    assert [len(driver.requests(f"d{i}")) for i in range(5)] == [1, 1, 1, 0, 0]
    before = driver.run.weights.copy()
    updates = []
    for i in range(3):
        assert driver.run.version == 0
        assert np.array_equal(driver.run.weights, before)
        updates.append(driver.answer(f"d{i}", seed=i + 1))
        driver.advance()
    deltas = [unpack(driver.run.model, u.packed, 8, u.report["gains"]) for u in updates]
    assert driver.run.version == 1
    assert driver.run.updates == 3
    np.testing.assert_allclose(driver.run.weights, before + 0.5 * np.mean(deltas, axis=0), rtol=1e-12)
    assert {work.version for work in driver.run.book.open.values()} == {1}


def test_batch_mode_replaces_a_device_that_fails_within_its_batch(start: StartRun) -> None:
    driver = start(devices=3, learning={"mode": "batch", "batch": 2})
    driver.send("d0", {"work": driver.requests("d0")[0]["work"], "error": "the sensor is broken"})
    driver.advance()
    driver.answer("d1")
    driver.advance()
    driver.answer("d2")
    driver.advance()
    assert (driver.run.version, driver.run.updates) == (1, 2)


# Taking updates


def test_an_update_moves_the_initialization_by_alpha_times_its_delta(start: StartRun) -> None:
    driver = start(devices=1, learning={"alpha": 0.25, "schedule": "constant"})
    before = driver.run.weights.copy()
    update = driver.answer("d0")
    delta = unpack(driver.run.model, update.packed, 8, update.report["gains"])
    assert np.any(delta)
    np.testing.assert_allclose(driver.run.weights, before + 0.25 * delta, rtol=1e-12)


def test_alpha_falls_with_the_progress_of_the_run(start: StartRun) -> None:
    driver = start(devices=1, run={"rounds": 4}, learning={"alpha": 0.4, "alpha_end": 0.0, "schedule": "linear"})
    for _ in range(4):
        driver.answer("d0")
        driver.advance()
    weights = [row.weight for row in driver.store.accepted_since(0)]
    np.testing.assert_allclose(weights, [0.4, 0.3, 0.2, 0.1], rtol=1e-12)


def test_an_update_of_many_chunks_is_taken_in_any_order(start: StartRun) -> None:
    driver = start(devices=1, run={"model": BIG})
    chunks = driver.learn("d0").messages()
    assert len(chunks) > 2
    last = len(chunks) - 1
    for index in (last, 0, 0, *range(1, last)):
        assert driver.run.updates == 0
        driver.send("d0", chunks[index])
    assert driver.run.updates == 1


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_delta_of_any_bits_is_taken(start: StartRun, bits: int) -> None:
    driver = start(devices=1, learning={"bits": bits})
    driver.answer("d0")
    driver.commit()
    assert [accepted for _, accepted, _ in driver.acks("d0")] == [True]


def test_an_update_is_acknowledged_only_once_it_is_durable(start: StartRun) -> None:
    driver = start(devices=1)
    update = driver.answer("d0")
    assert driver.run.updates == 1
    assert driver.acks("d0") == []
    driver.commit()
    assert driver.acks("d0") == [(update.work, True, "")]


def test_a_repeat_of_an_update_that_is_not_durable_yet_is_not_acknowledged(start: StartRun) -> None:
    driver = start(devices=1)
    update = driver.answer("d0")
    driver.send("d0", *update.messages())
    assert driver.acks("d0") == []
    driver.commit()
    assert driver.acks("d0") == [(update.work, True, "")]


def test_the_answer_travels_with_the_next_work_once_both_are_durable(start: StartRun) -> None:
    driver = start(devices=1, learning={"mode": "asynchronous"})
    first = driver.answer("d0")
    assert driver.run.next_work()
    assert len(driver.sent) == 1, "neither update nor work is durable"
    driver.commit()
    _, (_, message) = driver.sent
    assert (message["done"], message["work"], message["version"]) == (first.work, first.work + 1, 1)


def test_the_answer_waits_for_no_work(start: StartRun) -> None:
    driver = start(devices=1, learning={"mode": "asynchronous"})
    update = driver.answer("d0")
    driver.commit()
    assert driver.acks("d0") == [(update.work, True, "")]
    driver.advance()
    assert "done" not in driver.requests("d0")[-1]


def test_the_answer_is_not_lost_with_the_work_that_it_was_to_travel_with(start: StartRun) -> None:
    driver = start(devices=1, learning={"mode": "asynchronous"})
    update = driver.answer("d0")
    driver.run.next_work()
    driver.run.quarantine("d0", "a whim")
    driver.commit()
    assert driver.acks("d0") == [(update.work, True, "")]
    assert len(driver.requests("d0")) == 1


def test_a_repeated_update_is_acknowledged_again_and_not_applied_twice(start: StartRun) -> None:
    driver = start(devices=1)
    update = driver.answer("d0")
    driver.advance()
    weights = driver.run.weights.copy()
    driver.send("d0", *update.messages())
    driver.advance()
    assert driver.acks("d0") == [(update.work, True, "")] * 2
    assert driver.run.updates == 1
    assert np.array_equal(driver.run.weights, weights)


def test_outcomes_in_memory_are_limited(start: StartRun) -> None:
    driver = start(devices=1, learning={"deadline": 1})
    for _ in range(2 * REMEMBERED + 10):  # every other time the device rests
        driver.now += MAX_SILENCE + 1
        driver.run.expire()
        driver.run.next_work()
    assert len(driver.run._outcomes) == REMEMBERED


def test_a_late_update_is_refused_with_the_reason(start: StartRun) -> None:
    driver = start(devices=1)
    update = driver.learn("d0")
    driver.now += 61
    driver.run.expire()
    driver.send("d0", *update.messages())
    assert driver.acks("d0") == [(update.work, False, "the deadline has passed")]
    assert driver.run.refusals["late"] == 1
    assert driver.run.registry.devices["d0"].expired == 1
    assert driver.run.updates == 0


def test_an_update_for_an_unknown_work_id_is_refused(start: StartRun) -> None:
    driver = start(devices=1)
    chunks = driver.learn("d0").messages()
    driver.send("d0", chunks[0] | {"work": 77})
    assert driver.acks("d0") == [(77, False, "work 77 is not known here")]
    assert driver.run.refusals["unknown work"] == 1
    assert driver.run.book.count("train") == 1, "its real work stays open"


def test_an_update_from_a_device_never_heard_of_is_refused(start: StartRun) -> None:
    driver = start()
    driver.send("stranger", {"work": 5, "chunks": 1, "data": b"x"})
    assert driver.acks("stranger") == [(5, False, "work 5 is not known here")]
    assert "stranger" not in driver.run.registry.devices


def test_an_update_for_another_devices_work_is_refused_and_the_work_stays_open(start: StartRun) -> None:
    driver = start(devices=2)
    update = driver.learn("d0")
    driver.send("d1", *update.messages())
    assert driver.acks("d1") == [(update.work, False, f"work {update.work} was given to another device")]
    assert driver.acks("d0") == []
    driver.send("d0", *update.messages())
    driver.commit()
    assert driver.acks("d0") == [(update.work, True, "")]


def test_another_devices_finished_work_is_refused(start: StartRun) -> None:
    driver = start(devices=2)
    update = driver.answer("d0")
    driver.commit()
    driver.send("d1", *update.messages())
    assert [accepted for _, accepted, _ in driver.acks("d1")] == [False]


@pytest.mark.parametrize("version", [1, 1000])
def test_an_update_from_a_version_never_sent_is_refused(start: StartRun, version: int) -> None:
    driver = start(devices=1)
    update = driver.learn("d0")
    update.report["version"] = version
    driver.send("d0", *update.messages())
    ((_, accepted, reason),) = driver.acks("d0")
    assert not accepted
    assert f"version {version} was not sent with work {update.work}" in reason
    assert driver.run.refusals["wrong version"] == 1


def test_an_update_from_before_the_version_asked_for_is_refused(start: StartRun) -> None:
    driver = start(devices=2)
    driver.answer("d0")
    driver.advance()
    update = driver.learn("d1")
    update.report["version"] = 0
    driver.send("d1", *update.messages())
    assert [accepted for _, accepted, _ in driver.acks("d1")] == [False]
    assert driver.run.updates == 1


def spoiled(update: Update, how: str) -> dict[str, Any]:
    """Chunk 0 of ``update``, wrong in one way."""
    chunk = update.messages()[0]
    gains = update.report["gains"]
    changes: dict[str, Callable[[], dict[str, Any]]] = {
        "short data": lambda: {"data": chunk["data"][:-1]},
        "long data": lambda: {"data": chunk["data"] + b"\0"},
        "no data": lambda: {"data": b""},
        "too many chunks": lambda: {"chunks": 9999},
        "no gains": lambda: {"gains": None},
        "a gain too few": lambda: {"gains": gains[:-1]},
        "a gain of 0": lambda: {"gains": [0, *gains[1:]]},
        "a gain of text": lambda: {"gains": ["1", *gains[1:]]},
        "a loss of NaN": lambda: {"loss": float("nan")},
        "an infinite loss": lambda: {"loss": float("inf")},
        "a version of text": lambda: {"version": "1"},
    }
    return chunk | changes[how]()


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("short data", "wrong size"),
        ("long data", "wrong size"),
        ("no data", "wrong size"),
        ("too many chunks", "wrong size"),
        ("no gains", "malformed"),
        ("a gain too few", "wrong size"),
        ("a gain of 0", "malformed"),
        ("a gain of text", "malformed"),
        ("a loss of NaN", "malformed"),
        ("an infinite loss", "malformed"),
        ("a version of text", "malformed"),
    ],
)
def test_a_wrong_update_is_refused_with_the_reason_and_its_device_is_free(start: StartRun, how: str, kind: str) -> None:
    driver = start(devices=1)
    before = driver.run.weights.copy()
    chunk = spoiled(driver.learn("d0"), how)
    driver.run.take_update("d0", chunk)
    ((_, accepted, reason),) = driver.acks("d0")
    assert not accepted
    assert len(reason) > 10
    assert driver.run.refusals[kind] == 1
    assert np.array_equal(driver.run.weights, before)
    driver.advance()
    driver.answer("d0")
    driver.commit()
    assert driver.acks("d0")[-1][1], "the device can't go on"


def test_a_chunk_beyond_the_last_is_refused(start: StartRun) -> None:
    driver = start(devices=1)
    driver.send("d0", *(m | {"part": m.get("part", 0) + 1} for m in driver.learn("d0").messages()))
    assert driver.run.refusals["wrong size"] == 1
    assert driver.run.updates == 0


def test_an_update_after_the_last_round_is_refused(start: StartRun) -> None:
    driver = start(devices=2, run={"rounds": 5}, learning={"mode": "asynchronous", "in_flight": 2})
    first, late = driver.learn("d0"), driver.learn("d1")
    driver = start(run={"rounds": 1}, learning={"mode": "asynchronous", "in_flight": 2})
    for device, update in (("d0", first), ("d1", late)):
        driver.hello(device, work=update.work)
    driver.send("d0", *first.messages())
    assert driver.acks("d1") == [(late.work, False, "the run has ended")], "it need not go on"
    driver.send("d1", *late.messages())
    driver.commit()
    assert driver.acks("d1") == [(late.work, False, "the run has ended")] * 2
    assert driver.run.updates == 1
    assert driver.run.registry.devices["d1"].refused == 0, "it is not to blame"


def test_a_delta_for_an_evaluation_does_not_train_the_initialization(start: StartRun) -> None:
    driver = start(run={"rounds": 4}, evaluation={"every": 1})
    driver.hello("held-out", role="evaluate")
    driver.hello("d0")
    driver.advance()
    driver.answer("d0")
    driver.advance()
    before = driver.run.weights.copy()
    request = driver.requests("held-out")[0]
    assert request["task"]["kind"] == "evaluate"
    cheat = Update(request | {"task": request["task"] | {"bits": 8}}, driver.versions[request["version"]])
    for chunk in cheat.messages():
        driver.run.take_update("held-out", chunk)
    driver.commit()
    assert [accepted for _, accepted, _ in driver.acks("held-out")] == [False]
    assert np.array_equal(driver.run.weights, before)


def test_a_device_error_frees_the_work(start: StartRun) -> None:
    driver = start(devices=2)
    driver.send("d0", {"work": driver.requests("d0")[0]["work"], "error": "version 0 was not to be had"})
    driver.advance()
    assert driver.run.refusals["device error"] == 1
    assert len(driver.requests("d1")) == 1
    assert driver.store.open_work()[0].device == "d1"


def test_expired_work_frees_its_device_and_its_place(start: StartRun) -> None:
    driver = start(devices=2, learning={"deadline": 30})
    driver.now += 29
    driver.advance()
    assert driver.requests("d1") == []
    driver.now += 2
    driver.advance()
    assert len(driver.requests("d1")) == 1
    driver.hello("d0")
    driver.answer("d1")
    driver.advance()
    assert len(driver.requests("d0")) == 2


def answer_all(driver: Driver, count: int) -> None:
    """Those of the first ``count`` devices that have work have done it."""
    for number in range(count):
        if driver.run.registry.devices[f"d{number}"].work:
            driver.answer(f"d{number}")
    driver.commit()
    driver.sent.clear()
    driver.advance()


def test_devices_that_are_silent_do_not_keep_the_others_from_learning(start: StartRun) -> None:
    # Forty of fifty were revoked: they are online as far as anybody knows, and never answer.
    driver = start(run={"rounds": 0}, learning={"mode": "asynchronous", "in_flight": 20, "deadline": 60})
    for number in reversed(range(50)):  # the others are asked first
        driver.hello(f"d{number}")
    driver.advance()
    devices = driver.run.registry.devices
    answered = []
    for _ in range(400):
        driver.now += 1
        driver.advance()
        answer_all(driver, 10)
        answered.append(driver.run.updates)
    assert answered[30] > 10 * 5, "who is not heard of soon holds no place any more"
    assert sum(devices[f"d{number}"].expired > 0 for number in range(10, 50)) == 40
    before = driver.run.updates
    for _ in range(300):
        driver.now += 1
        driver.advance()
        answer_all(driver, 10)
    assert driver.run.updates - before > 0.7 * 300 * 10


@pytest.mark.parametrize("mode", MODES)
def test_hundreds_of_devices_that_only_seem_to_be_there_do_not_keep_the_living_from_learning(
    start: StartRun, mode: str
) -> None:
    driver = start(run={"rounds": 0}, learning=MODES[mode] | {"deadline": 60}, guards={"repeats": False})
    for number in range(300):  # by their retained status; they are asked first
        driver.hello(f"ghost{number}")
    names = {f"d{number}" for number in range(5)}
    for name in names:
        driver.hello(name)
    driver.advance()
    living = Living(driver, names)
    living.live(15 * 60)
    updates = living.live(600)
    assert updates > 0.7 * 600 / 2, "as many as one device at a time makes, at least"
    devices = driver.run.registry.devices
    living.live(1800)
    accepted = [devices[name].accepted for name in names]
    assert min(accepted) > 0.5 * max(accepted), "they take turns"
    on_trial = [work for work in driver.run.book.open.values() if work.device not in names]
    assert len(on_trial) <= 4, "who may be gone has a share, and no more"


@pytest.mark.parametrize("mode", MODES)
def test_hundreds_of_devices_that_fall_silent_at_once_do_not_either(start: StartRun, mode: str) -> None:
    driver = start(run={"rounds": 0}, learning=MODES[mode] | {"deadline": 60}, guards={"repeats": False})
    names = {f"d{number}" for number in range(205)}
    for name in sorted(names):
        driver.hello(name)
    driver.advance()
    living = Living(driver, names)
    while min(driver.run.registry.devices[name].accepted for name in names) < 1:
        living.live(10)
    living.names = {"d7", "d70", "d100", "d150", "d204"}  # the others were revoked, say
    living.live(15 * 60)
    assert living.live(600) > 0.7 * 600 / 2


def test_one_that_falls_silent_costs_a_serial_run_its_deadline_once(start: StartRun) -> None:
    driver = start(run={"rounds": 0}, learning={"deadline": 60}, guards={"repeats": False}, devices=6)
    living = Living(driver, {f"d{number}" for number in range(5)})
    living.live(120)
    assert driver.run.registry.devices["d5"].expired == 1
    assert living.live(1800) > 0.9 * 1800 / 2
    assert driver.run.registry.devices["d5"].expired > 1, "it is asked again, beside the others"
    living.names.add("d5")
    driver.hello("d5")
    living.live(120)
    assert driver.run.registry.devices["d5"].accepted > 5, "once it answers it is one of them"


def test_who_says_hello_again_and_again_is_not_sent_its_request_each_time(start: StartRun) -> None:
    driver = start(devices=2, run={"rounds": 0}, learning={"mode": "asynchronous", "in_flight": 2})
    work = driver.requests("d0")[0]["work"]
    for _ in range(HELLOS):
        driver.hello("d0")
    assert [request["work"] for request in driver.requests("d0")] == [work] * (1 + HELLOS)
    before = len(driver.requests("d0"))
    for _ in range(600):  # a minute
        driver.now += 0.1
        driver.hello("d0")
        driver.advance()
    assert (work, False, "its device says hello again and again") in driver.acks("d0")
    assert len(driver.requests("d0")) - before <= 7 * (1 + HELLOS), "it rests for longer each time"
    assert driver.run.registry.devices["d0"].strikes == 0


def test_a_retained_status_after_a_reconnection_is_no_sign_of_life(start: StartRun) -> None:
    driver = start(run={"rounds": 0}, learning={"deadline": 60}, guards={"repeats": False})
    names = {f"d{number}" for number in range(3)}
    everybody = [*(f"ghost{number}" for number in range(20)), *names]
    living = Living(driver, names)
    for name in everybody:
        driver.hello(name)
    living.live(900)
    for _ in range(5):
        driver.run.disconnected()
        for name in everybody:
            driver.hello(name)
        assert living.live(120) > 0.7 * 120 / 2


def test_what_an_overdue_device_answers_before_its_deadline_counts(start: StartRun) -> None:
    driver = start(devices=3, learning={"mode": "asynchronous", "in_flight": 1, "deadline": 60})
    for number in range(3):  # each of them overdue in its turn
        assert [bool(driver.requests(f"d{i}")) for i in range(3)] == [i <= number for i in range(3)]
        driver.now += 6
        driver.advance()
    driver.answer("d0")
    assert (driver.run.updates, driver.run.refusals.total()) == (1, 0)


def nearly_done(start: StartRun, left: int, devices: int = 12, in_flight: int = 4) -> Driver:
    """An asynchronous run of quick devices with ``left`` updates to go, of which so many are out, a second each."""
    rounds = 20 + left
    learning = {"mode": "asynchronous", "in_flight": in_flight, "deadline": 60}
    driver = start(devices=devices, run={"rounds": rounds}, learning=learning)
    while driver.run.updates < rounds - left:
        driver.now += 0.25
        driver.answer(min(driver.run.book.open.values(), key=lambda work: work.id).device)
        driver.advance()
    return driver


@pytest.mark.parametrize("left", [1, 2, 3])
def test_the_last_updates_are_asked_of_others_too_when_they_are_overdue(start: StartRun, left: int) -> None:
    driver = nearly_done(start, left)
    slow = [work.device for work in driver.run.book.open.values()]
    assert len(slow) == left
    at = driver.run.overdue_at()
    assert at is not None
    assert driver.now < at < driver.now + 3, "they took a second each"
    driver.now = at - 0.01
    driver.advance()
    assert len(driver.run.book.open) == left, "they may still come"
    while (at := driver.run.overdue_at()) is not None and len(driver.run.book.open) < 2 * left:
        driver.now = at + 0.001
        driver.advance()
    others = [work.device for work in driver.run.book.open.values() if work.device not in slow]
    assert len(others) >= left
    for device in others[:left]:
        driver.answer(device)
        driver.advance()
    assert driver.run.finished
    assert driver.now < 1030


def test_who_is_too_late_for_the_last_update_is_told_and_not_blamed(start: StartRun) -> None:
    driver = nearly_done(start, 1)
    (slow,) = [work.device for work in driver.run.book.open.values()]
    late = driver.learn(slow)
    driver.now += 10
    driver.advance()
    other = next(work.device for work in driver.run.book.open.values() if work.device != slow)
    weights = driver.answer(other) and driver.run.weights.copy()
    driver.advance()
    assert driver.acks(slow)[-1] == (late.work, False, "the run has ended")
    driver.send(slow, *late.messages())
    assert driver.acks(slow)[-2:] == [(late.work, False, "the run has ended")] * 2
    assert np.array_equal(driver.run.weights, weights)
    assert (driver.run.updates, driver.run.registry.devices[slow].refused) == (21, 0)
    assert driver.run.finished


def test_the_last_update_does_not_occupy_more_devices_than_it_has_to(start: StartRun) -> None:
    driver = nearly_done(start, 1, devices=40)
    for _ in range(58):
        driver.now += 1
        driver.advance()
    assert len(driver.run.book.open) <= 1 + 3 * 4


@pytest.mark.parametrize("mode", ["serial", "batch"])
def test_one_device_after_the_other_waits_for_the_deadline(start: StartRun, mode: str) -> None:
    driver = start(devices=2, learning={"mode": mode, "batch": 1, "deadline": 60})
    for _ in range(9):
        driver.now += 6
        driver.advance()
    assert driver.requests("d1") == []


def test_a_silent_device_that_says_something_is_asked_again(start: StartRun) -> None:
    driver = start(devices=1)
    for number in range(1, 4):
        driver.now += 61
        driver.advance()
        assert len(driver.requests("d0")) == number
        driver.hello("d0")
        driver.advance()
        assert len(driver.requests("d0")) == number + 1


def test_a_device_that_had_gone_offline_is_not_taken_for_silent(start: StartRun) -> None:
    driver = start(devices=1)
    driver.hello("d0", state="offline")
    driver.now += 61
    driver.advance()
    driver.hello("d0")
    driver.advance()
    assert len(driver.requests("d0")) == 2


def test_a_batch_that_is_smaller_than_what_has_come_already_ends_with_the_next_update(start: StartRun) -> None:
    driver = start(devices=5, learning={"mode": "batch", "batch": 5})
    for number in range(3):
        driver.answer(f"d{number}")
    driver.run.change({"learning.batch": 2})
    driver.now += 61
    driver.hello("d3")
    driver.advance()
    driver.answer(next(iter(driver.run.book.open.values())).device)
    assert (driver.run.updates, driver.run.version) == (4, 1)


# Staleness


def test_a_device_that_lets_its_deadlines_pass_rests_longer_each_time(start: StartRun) -> None:
    driver = start(devices=1)
    rests = []
    for number in range(4):
        driver.now += 61
        driver.advance()
        begun = driver.now
        while len(driver.requests("d0")) == number + 1:
            driver.now += 0.5
            driver.advance()
        rests.append(driver.now - begun)
    assert rests == [60, 120, 240, 480]


def test_a_stale_update_is_discounted(start: StartRun) -> None:
    learning = {"mode": "asynchronous", "in_flight": 2, "schedule": "constant", "alpha": 0.5, "staleness_exponent": 1}
    driver = start(devices=2, learning=learning)
    for _ in range(3):
        driver.answer("d1")
        driver.advance()
    assert driver.run.version == 3
    before = driver.run.weights.copy()
    update = driver.answer("d0")  # learned from version 0
    delta = unpack(driver.run.model, update.packed, 8, update.report["gains"])
    np.testing.assert_allclose(driver.run.weights, before + 0.5 / 4 * delta, rtol=1e-12)
    driver.commit()
    assert [(row.tau, row.weight) for row in driver.store.accepted_since(3)] == [(3, 0.125)]


def test_a_constant_discount_takes_stale_updates_in_full(start: StartRun) -> None:
    learning = {"mode": "asynchronous", "in_flight": 2, "schedule": "constant", "alpha": 0.5, "staleness": "constant"}
    driver = start(devices=2, learning=learning)
    for _ in range(3):
        driver.answer("d1")
        driver.advance()
    driver.answer("d0")
    driver.commit()
    assert [(row.tau, row.weight) for row in driver.store.accepted_since(3)] == [(3, 0.5)]


# Publication


def test_versions_are_published_no_closer_than_the_publish_interval(start: StartRun) -> None:
    driver = start(devices=1, learning={"mode": "asynchronous", "publish_interval": 2.0})
    driver.answer("d0")
    driver.commit()
    assert driver.run.publish_at() == driver.now + 2.0
    driver.advance()
    assert driver.run.published_version == 0
    driver.now += 2.0
    driver.advance()
    assert driver.run.published_version == 1


def test_work_begins_from_a_newer_version_than_the_published_one(start: StartRun) -> None:
    driver = start(devices=2, learning={"mode": "asynchronous", "in_flight": 2, "publish_interval": 3600})
    for number in range(1, 40):
        driver.answer("d1")
        driver.advance()
        assert driver.requests("d1")[-1]["version"] == number
    assert driver.run.published_version == 0
    assert driver.store.accepted_since(0) is not None
    assert {row.tau for row in driver.store.accepted_since(0)} == {0}


def test_a_device_that_holds_the_version_is_sent_no_weights(start: StartRun) -> None:
    driver = start(devices=1, learning={"mode": "batch", "batch": 2})
    driver.answer("d0")
    driver.advance()
    request = driver.requests("d0")[-1]
    assert (request["from"], request["version"], request["data"]) == (0, 0, b"")


def test_versions_that_devices_hold_are_remembered_and_no_others(start: StartRun) -> None:
    driver = start(devices=2, run={"rounds": 0}, learning={"mode": "asynchronous", "in_flight": 2})
    driver.answer("d0")
    driver.hello("d0", state="offline")
    held = driver.run.registry.devices["d0"].holds
    for _ in range(3 * ROOM):
        driver.answer("d1")
        driver.advance()
        assert len(driver.run._versions._latest) <= ROOM
    assert held in driver.run._versions._latest


def test_a_device_is_told_its_task_when_it_has_changed(start: StartRun) -> None:
    driver = start(devices=1, run={"rounds": 0})
    told = []
    for number in range(6):
        driver.answer("d0")
        if number == 2:
            driver.run.change({"learning.steps": 7})
        driver.advance()
        told.append(driver.sent[-1][1].get("task", {}).get("steps"))
    assert told == [None, None, 7, None, None, None]


def test_a_device_that_lost_its_connection_is_told_all_again(start: StartRun) -> None:
    driver = start(devices=1)
    driver.answer("d0")
    driver.hello("d0")
    driver.advance()
    message = driver.sent[-1][1]
    assert message["task"]["steps"] == 4
    assert len(message["data"]) == 2 * driver.run.model.parameters


def test_what_a_device_lacks_is_sent_again_a_few_times(start: StartRun) -> None:
    driver = start(devices=1)
    driver.answer("d0")
    driver.advance()
    work = driver.requests("d0")[-1]["work"]
    for number in range(REPEATS):
        driver.send("d0", {"work": work, "whole": True})
        assert len(driver.requests("d0")) == 3 + number
        assert driver.sent[-1][1]["task"]["steps"] == 4
        assert driver.sent[-1][1]["data"]
    driver.send("d0", {"work": work, "whole": True})
    assert driver.acks("d0")[-1] == (work, False, "the initialization did not arrive, however often it was sent")
    assert driver.run.refusals["lost"] == 1


def test_a_large_initialization_comes_in_pieces_that_follow_one_another(start: StartRun) -> None:
    driver = start(devices=1, run={"model": BIG})
    (first, *others) = [message for _, message in driver.sent]
    data = encode(driver.run.model, driver.run.weights)
    assert [message["at"] for message in others] == list(range(len(first["data"]), len(data), messages.PIECE_BYTES))
    assert {message["work"] for message in others} == {first["work"]}
    assert b"".join(message["data"] for message in (first, *others)) == data
    assert all(len(pack(message)) <= messages.MESSAGE_BYTES for message in (first, *others))


# Devices that come and go


def test_a_lost_request_is_sent_again_when_the_device_says_hello(start: StartRun) -> None:
    driver = start(devices=1)
    first = driver.requests("d0")[0]
    driver.now += 20
    driver.hello("d0", work=0)
    assert len(driver.requests("d0")) == 2
    again = driver.requests("d0")[1]
    assert again["work"] == first["work"]
    assert (again["task"]["seconds"], again["seconds"]) == (60, 40), "the deadline stays where it was"


def test_a_repeated_request_begins_from_the_newest_version(start: StartRun) -> None:
    driver = start(devices=2, learning={"mode": "asynchronous", "in_flight": 2})
    for _ in range(3):
        driver.answer("d1")
        driver.now += 2
        driver.advance()
    update = driver.learn("d0")
    driver.hello("d0", work=0)
    again = driver.requests("d0")[-1]
    assert (again["work"], update.report["version"], again["version"]) == (update.work, 0, 3)
    driver.send("d0", *Update(again, driver.versions[3]).messages())
    driver.commit()
    assert driver.acks("d0")[-1][1]
    assert [row.tau for row in driver.store.accepted_since(3)] == [0]


def test_a_repeated_request_never_begins_from_what_is_not_durable(start: StartRun) -> None:
    driver = start(devices=2, learning={"mode": "asynchronous", "in_flight": 2})
    driver.answer("d1")
    driver.hello("d0", work=0)
    assert driver.run.version == 1
    assert driver.requests("d0")[-1]["version"] == 0


def test_a_request_that_is_not_durable_is_not_repeated(start: StartRun) -> None:
    driver = start(devices=1)
    driver.answer("d0")
    driver.run.next_work()
    driver.hello("d0", work=0)
    assert len(driver.requests("d0")) == 1
    driver.commit()
    assert len(driver.requests("d0")) == 2


def test_a_device_that_still_has_its_work_is_not_asked_again(start: StartRun) -> None:
    driver = start(devices=1)
    driver.hello("d0", work=driver.requests("d0")[0]["work"])
    assert len(driver.requests("d0")) == 1


def test_a_reboot_frees_the_work_of_the_earlier_start(start: StartRun) -> None:
    driver = start(devices=2)
    lost = driver.learn("d0")
    driver.hello("d0", boot="b2")
    assert driver.run.refusals["lost"] == 1
    driver.send("d0", *lost.messages())
    assert driver.acks("d0") == [(lost.work, False, "the device has started anew")]
    driver.advance()
    assert len(driver.requests("d1")) == 1


def test_a_device_that_goes_offline_keeps_its_work_until_the_deadline(start: StartRun) -> None:
    driver = start(devices=2)
    update = driver.learn("d0")
    driver.hello("d0", state="offline")
    driver.advance()
    assert driver.requests("d1") == []
    driver.hello("d0", work=update.work)
    driver.send("d0", *update.messages())
    driver.commit()
    assert driver.acks("d0") == [(update.work, True, "")]


def test_an_offline_device_gets_no_work(start: StartRun) -> None:
    driver = start(devices=2)
    driver.hello("d1", state="offline")
    driver.answer("d0")
    driver.advance()
    assert driver.requests("d1") == []
    assert len(driver.requests("d0")) == 2


def test_after_a_lost_connection_devices_are_asked_only_once_they_are_heard_of_again(start: StartRun) -> None:
    driver = start(devices=2)
    update = driver.learn("d0")
    driver.run.disconnected()
    driver.advance()
    assert driver.run.status("running")["devices"] == 0
    driver.hello("d0", work=update.work)
    driver.send("d0", *update.messages())
    driver.advance()
    assert driver.acks("d0") == [(update.work, True, "")]
    assert driver.requests("d1") == []


# A crash, and another start


def trained(start: StartRun, updates: int, devices: int = 3, **tables: dict[str, Any]) -> Driver:
    """A run of ``updates`` accepted updates, some of them stale."""
    driver = start(devices=devices, **tables)
    for i in range(updates):
        oldest = min(driver.run.book.open.values(), key=lambda work: (work.id * 7919) % 31)
        driver.answer(oldest.device, seed=i + 1)
        driver.advance()
    return driver


ASYNCHRONOUS = {"mode": "asynchronous", "in_flight": 3}
BATCH = {"mode": "batch", "batch": 4}


@pytest.mark.parametrize("learning", [{}, ASYNCHRONOUS, BATCH], ids=["serial", "asynchronous", "batch"])
def test_a_restart_goes_on_from_the_same_bits(start: StartRun, learning: dict[str, Any]) -> None:
    driver = trained(start, 10, devices=5, learning=learning)
    weights, version, updates = driver.run.weights.copy(), driver.run.version, driver.run.updates
    open_work = {(w.id, w.device, w.version) for w in driver.run.book.open.values()}
    again = start(learning=learning)
    assert again.run.weights.tobytes() == weights.tobytes()
    assert (again.run.version, again.run.updates) == (version, updates)
    assert {(w.id, w.device, w.version) for w in again.run.book.open.values()} == open_work
    assert open_work


def test_a_restart_from_a_checkpoint_goes_on_from_the_same_bits(start: StartRun) -> None:
    driver = trained(start, 6)
    checkpoint = driver.run.checkpoint()
    assert checkpoint is not None
    driver.store.write([checkpoint])
    driver.answer("d0")
    driver.commit()
    weights = driver.run.weights.copy()
    again = start()
    assert again.run.weights.tobytes() == weights.tobytes()
    assert again.run.updates == 7


def test_checkpoints_are_written_by_the_way(start: StartRun) -> None:
    driver = trained(start, CHECKPOINT_EVERY + 3, run={"rounds": 0})
    checkpoint = driver.store.checkpoint()
    assert checkpoint is not None
    assert checkpoint.updates == CHECKPOINT_EVERY


def test_what_was_not_durable_is_as_if_it_had_never_come(start: StartRun) -> None:
    driver = trained(start, 2)
    weights = driver.run.weights.copy()
    update = driver.answer(next(iter(driver.run.book.open.values())).device)
    device = driver.run._outcomes[update.work][0]
    again = start()
    assert again.run.weights.tobytes() == weights.tobytes()
    again.send(device, *update.messages())
    again.commit()
    assert again.acks(device) == [(update.work, True, "")]
    assert again.run.updates == 3


def test_a_repeated_update_of_an_earlier_start_is_acknowledged_again(start: StartRun) -> None:
    driver = start(devices=1)
    update = driver.answer("d0")
    driver.commit()
    again = start()
    again.send("d0", *update.messages())
    again.commit()
    assert again.acks("d0") == [(update.work, True, "")]
    assert again.run.updates == 1


def test_a_stranger_that_names_work_of_an_earlier_start_costs_no_look_into_the_store(
    start: StartRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(devices=1)
    again = start()
    looks: list[tuple[int, str]] = []
    monkeypatch.setattr(again.store, "is_accepted", lambda work, device: looks.append((work, device)))
    for device in ("d0", "stranger"):
        again.send(device, {"work": 77, "data": b"x"})
    assert looks == [(77, "d0")]
    assert again.acks("stranger") == [(77, False, "work 77 is not known here")]


def test_open_work_of_an_earlier_start_is_taken_up(start: StartRun) -> None:
    driver = start(devices=1)
    update = driver.learn("d0")
    again = start()
    again.hello("d0", work=update.work)
    again.advance()
    assert again.requests("d0") == [], "it is still at it"
    again.send("d0", *update.messages())
    again.commit()
    assert again.acks("d0") == [(update.work, True, "")]


def test_open_work_of_an_earlier_start_is_asked_for_again_if_the_device_lost_it(start: StartRun) -> None:
    work = start(devices=1).requests("d0")[0]["work"]
    again = start()
    again.hello("d0", work=0)
    assert [request["work"] for request in again.requests("d0")] == [work]


def test_open_work_of_an_earlier_start_is_closed_if_the_device_has_started_anew(start: StartRun) -> None:
    work = start(devices=1).requests("d0")[0]["work"]
    again = start()
    again.hello("d0", boot="b2", work=0)
    assert work not in again.run.book.open
    assert again.run.refusals["lost"] == 1


def test_what_is_known_of_devices_outlives_a_crash(start: StartRun) -> None:
    driver = trained(start, 5, devices=3)
    driver.hello("d9", role="evaluate")
    driver.hello("d9", boot="b7", role="evaluate", state="offline")
    driver.advance()
    failing = next(iter(driver.run.book.open.values()))
    driver.run.take_update(failing.device, {"work": failing.id, "error": "out of memory"})
    driver.commit()
    before = {device.id: device.known() for device in driver.run.registry.devices.values()}
    again = start()
    assert {device.id: device.known() for device in again.run.registry.devices.values()} == before
    assert before[failing.device].refused == before[failing.device].failures == 1
    assert sum(device.accepted for device in before.values()) == 5
    assert all(device.state == "offline" for device in again.run.registry.devices.values())


def test_open_work_of_an_earlier_start_expires(start: StartRun) -> None:
    start(devices=1)
    again = start(devices=2)
    assert again.requests("d1") == []
    again.now += 61
    again.advance()
    assert len(again.requests("d1")) == 1


def test_open_work_of_an_earlier_start_expires_even_if_the_wall_clock_has_gone_back(
    start: StartRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(devices=1)
    yesterday = time.time() - 86_400
    monkeypatch.setattr(time, "time", lambda: yesterday)
    again = start(devices=2)
    assert again.requests("d1") == []
    again.now += 61
    again.advance()
    assert len(again.requests("d1")) == 1


def test_work_ids_are_never_given_out_twice(start: StartRun) -> None:
    driver = start(devices=1)
    device_has = driver.requests("d0")[0]["work"]
    driver.now += 61
    driver.run.expire()
    driver.hello("d0")
    while driver.run.next_work():
        pass
    not_durable = max(driver.run.book.open)
    assert not_durable > device_has
    again = start()
    again.now += 61
    again.advance()
    again.hello("d0")
    again.advance()
    assert again.requests("d0")[-1]["work"] > not_durable


def test_settings_may_change_across_a_restart(start: StartRun) -> None:
    driver = trained(start, 4, learning=ASYNCHRONOUS)
    weights = driver.run.weights.copy()
    again = start(learning={"mode": "batch", "batch": 7, "alpha": 0.9, "alpha_end": 0.9, "bits": 4, "steps": 2})
    assert again.run.weights.tobytes() == weights.tobytes()
    assert again.run.updates == 4


def test_the_model_may_not_change_across_a_restart(start: StartRun) -> None:
    start(devices=1)
    with pytest.raises(StoreError, match=r"was begun with model.*another name"):
        start(run={"model": BIG})


def test_the_runs_name_may_not_change_across_a_restart(start: StartRun) -> None:
    start(devices=1)
    with pytest.raises(StoreError, match='was begun with run "test", now it is "other"'):
        start(run={"name": "other"})


def test_the_seed_decides_the_first_initialization(tmp_path: Path) -> None:
    drivers = [Driver(tmp_path / f"{i}.sqlite", run={"seed": seed}) for i, seed in enumerate((3, 3, 4))]
    first, same, other = (driver.run.weights.tobytes() for driver in drivers)
    for driver in drivers:
        driver.close()
    assert first == same != other


# Evaluation


def test_an_evaluation_is_asked_of_all_idle_held_out_devices_when_it_is_due(start: StartRun) -> None:
    driver = start(devices=1, evaluation={"every": 2, "steps": 7, "shots": 3, "queries": 9, "beta": 0.02})
    for name in ("e0", "e1"):
        driver.hello(name, role="evaluate")
    driver.answer("d0")
    driver.advance()
    assert driver.requests("e0") == []
    driver.answer("d0")
    driver.advance()
    for name in ("e0", "e1"):
        (request,) = driver.requests(name)
        assert request["version"] == 2
        assert request["task"] == {
            "kind": "evaluate", "steps": 7, "shots": 3, "queries": 9, "beta": 0.02, "seconds": 60
        }  # fmt: skip


def test_an_evaluation_uses_the_learning_rate_of_training_unless_told_otherwise(start: StartRun) -> None:
    driver = start(devices=1, evaluation={"every": 1}, learning={"beta": 0.03})
    driver.hello("e0", role="evaluate")
    driver.answer("d0")
    driver.advance()
    assert driver.requests("e0")[0]["task"]["beta"] == 0.03


def test_training_goes_on_during_an_evaluation(start: StartRun) -> None:
    driver = start(devices=1, evaluation={"every": 1})
    driver.hello("e0", role="evaluate")
    for _ in range(3):
        driver.answer("d0")
        driver.advance()
    assert driver.run.updates == 3
    assert len(driver.requests("e0")) == 1


def test_an_evaluation_is_the_mean_over_the_devices(start: StartRun) -> None:
    driver = start(devices=1, evaluation={"every": 1})
    for name in ("e0", "e1"):
        driver.hello(name, role="evaluate")
    driver.answer("d0")
    driver.advance()
    for name, before, after in (("e0", 4.0, 1.0), ("e1", 2.0, 0.5)):
        work = driver.requests(name)[0]["work"]
        driver.send(name, evaluation(work, 1, before=before, after=after))
        assert driver.acks(name) == [(work, True, "")]
    driver.advance()
    summary = {"updates": 1, "version": 1, "devices": 2, "before": 3.0, "after": 0.75}
    summary |= {"median_before": 3.0, "median_after": 0.75}
    assert driver.run.evaluations.summaries == [summary]
    assert [past.summary for past in driver.store.evaluations()] == [summary | {"losses": {"e0": 1.0, "e1": 0.5}}]
    assert driver.run.status("running")["evaluation"] == summary


def test_balanced_accuracy_is_the_mean_over_the_classes_that_were_seen(start: StartRun) -> None:
    driver = start(run={"model": CLASSES, "rounds": 0}, evaluation={"every": 0})
    driver.run.config.run.rounds = 0
    driver.run.config.evaluation.every = 1
    driver.hello("e0", role="evaluate")
    driver.hello("e1", role="evaluate")
    driver.run.updates += 1  # one update later
    driver.advance()
    counts = [([8, 2, 0], [4, 0, 0], [8, 1, 0]), ([2, 8, 0], [1, 4, 0], [2, 4, 0])]
    for name, (seen, hits_before, hits_after) in zip(("e0", "e1"), counts, strict=True):
        work = driver.requests(name)[0]["work"]
        fields = {"seen": seen, "hits_before": hits_before, "hits_after": hits_after}
        driver.send(name, evaluation(work, **fields))
    driver.advance()
    (summary,) = driver.run.evaluations.summaries
    assert summary["balanced_accuracy_before"] == pytest.approx((5 / 10 + 4 / 10) / 2)
    assert summary["balanced_accuracy_after"] == pytest.approx((10 / 10 + 5 / 10) / 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"before": float("nan")},
        {"after": "1"},
        {"queries": 0},
        {"seen": [1, 2]},
        {"seen": [1, 2, -3], "hits_before": [0, 0, 0], "hits_after": [0, 0, 0]},
        {"seen": [1, 2, 3], "hits_before": [0, 0, 0]},
        {"seen": [5, 0, 0], "hits_before": [6, 0, 0], "hits_after": [5, 0, 0]},
    ],
)
def test_a_malformed_evaluation_is_refused(start: StartRun, fields: dict[str, Any]) -> None:
    driver = start(run={"model": CLASSES, "rounds": 0})
    driver.run.config.evaluation.every = 1
    driver.hello("e0", role="evaluate")
    driver.run.updates += 1
    driver.advance()
    driver.send("e0", evaluation(driver.requests("e0")[0]["work"], **fields))
    assert [accepted for _, accepted, _ in driver.acks("e0")] == [False]
    assert driver.run.refusals["malformed"] == 1
    driver.advance()
    assert driver.run.evaluations.summaries == []


def test_an_evaluation_for_a_piece_of_training_is_refused(start: StartRun) -> None:
    driver = start(devices=1)
    driver.run.take_evaluation("d0", evaluation(driver.requests("d0")[0]["work"]))
    assert [accepted for _, accepted, _ in driver.acks("d0")] == [False]


def test_an_evaluator_that_vanishes_does_not_hold_up_the_others(start: StartRun) -> None:
    driver = start(devices=1, run={"rounds": 1}, learning={"deadline": 30})
    for name in ("e0", "e1"):
        driver.hello(name, role="evaluate")
    driver.answer("d0")
    driver.advance()
    driver.send("e0", evaluation(driver.requests("e0")[0]["work"], 1))
    driver.hello("e1", role="evaluate", state="offline")
    driver.advance()
    assert not driver.run.finished
    driver.now += 31
    driver.advance()
    assert driver.run.finished
    assert driver.run.evaluations.summaries[-1]["devices"] == 1


def test_a_run_ends_with_an_evaluation_of_its_last_version(start: StartRun) -> None:
    driver = start(devices=1, run={"rounds": 2}, evaluation={"every": 0})
    driver.hello("e0", role="evaluate")
    for _ in range(2):
        driver.answer("d0")
        driver.advance()
    assert not driver.run.finished
    (request,) = driver.requests("e0")
    assert request["version"] == 2
    assert encode(driver.run.model, driver.run.weights) == driver.versions[2]
    driver.send("e0", evaluation(request["work"], 2))
    driver.advance()
    assert driver.run.finished
    assert driver.run.evaluations.summaries[-1]["version"] == 2


def test_a_run_without_held_out_devices_ends_with_its_last_update(start: StartRun) -> None:
    driver = start(devices=1, run={"rounds": 1})
    driver.answer("d0")
    assert not driver.run.finished
    driver.advance()
    assert driver.run.finished
    assert driver.run.evaluations.summaries == []


def test_a_finished_run_waits_a_little_for_held_out_devices_that_are_away(start: StartRun) -> None:
    driver = start(devices=1, run={"rounds": 1})
    driver.hello("e0", role="evaluate")
    driver.hello("e0", role="evaluate", state="offline")
    driver.answer("d0")
    driver.advance()
    driver.now += LINGER - 1
    driver.advance()
    assert not driver.run.finished
    driver.hello("e0", role="evaluate")
    driver.advance()
    assert len(driver.requests("e0")) == 1
    assert not driver.run.finished


def test_a_finished_run_does_not_wait_for_ever_for_held_out_devices(start: StartRun) -> None:
    driver = start(devices=1, run={"rounds": 1})
    driver.hello("e0", role="evaluate")
    driver.hello("e0", role="evaluate", state="offline")
    driver.answer("d0")
    driver.advance()
    driver.now += LINGER + 1
    driver.advance()
    assert driver.run.finished


def test_an_evaluation_survives_a_restart_and_is_not_repeated(start: StartRun) -> None:
    driver = start(devices=1, run={"rounds": 1})
    driver.hello("e0", role="evaluate")
    driver.answer("d0")
    driver.advance()
    driver.send("e0", evaluation(driver.requests("e0")[0]["work"], 1))
    driver.advance()
    again = start(run={"rounds": 1})
    assert again.run.finished
    assert again.run.evaluations.summaries == driver.run.evaluations.summaries


def test_an_evaluation_cut_off_by_a_crash_is_done_anew(start: StartRun) -> None:
    driver = start(devices=1, run={"rounds": 1})
    driver.hello("e0", role="evaluate")
    driver.answer("d0")
    driver.advance()
    first = driver.requests("e0")[0]["work"]
    again = start(run={"rounds": 1})
    assert again.run.book.open == {}
    again.hello("e0", role="evaluate", work=first)
    again.run._evaluated_at = 0
    again.run._ended_at = None
    again.advance()
    assert again.requests("e0")[-1]["work"] > first


# Report


def test_the_status_message_says_what_has_happened(start: StartRun) -> None:
    driver = start(devices=3, learning={"mode": "asynchronous", "in_flight": 2})
    driver.hello("e0", role="evaluate")
    driver.hello("small", state="unfit")
    driver.now += 0.25
    update = driver.answer("d0")
    driver.commit()
    driver.send("d0", {"work": 3, "chunks": 1, "data": b"x"})
    status = driver.run.status("running")
    assert status["protocol"] == messages.PROTOCOL
    assert (status["state"], status["run"], status["mode"]) == ("running", "test", "asynchronous")
    assert (status["version"], status["updates"], status["rounds"]) == (1, 1, 100)
    assert (status["devices"], status["evaluators"], status["unfit"], status["in_flight"]) == (3, 1, 1, 1)
    assert status["loss"] == pytest.approx(update.report["loss"])
    assert status["round_trip_p50"] == pytest.approx(0.25)
    assert status["refusals"] == {"unknown work": 1}


def test_what_is_published_is_the_initialization_rounded_to_int16(start: StartRun) -> None:
    driver = start(devices=1)
    driver.answer("d0")
    driver.advance()
    published = decode(driver.run.model, driver.versions[1])
    assert np.max(np.abs(published - driver.run.weights)) <= 0.5 / 4096


def test_the_journal_holds_every_accepted_update_as_it_came(start: StartRun) -> None:
    driver = start(devices=1)
    update = driver.answer("d0")
    driver.commit()
    (row,) = driver.store.accepted_since(0)
    assert isinstance(row, Accepted)
    assert (row.work, row.device, row.version, row.updates, row.moved) == (update.work, "d0", 0, 0, True)
    assert row.delta == bytes(update.packed)
    assert list(row.gains) == update.report["gains"]
    assert (row.samples, row.bits, row.loss) == (4, 8, update.report["loss"])
    assert driver.config.run.model == MODEL
