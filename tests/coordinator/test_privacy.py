"""A coordinator of devices whose updates are private: what it asks of them, counts, and does not hold against them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line.console import epsilon_text
from coordinator.control import Control
from coordinator.entries import Known
from coordinator.errors import ConfigError
from coordinator.schema import FORMAT, metadata
from coordinator.store import Store
from tinyreptile import messages, reports

from .driver import Driver, configuration

Start = Callable[..., Driver]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    drivers = []

    def start(**tables: Any) -> Driver:
        drivers.append(Driver(tmp_path / "run.sqlite", **tables))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.close()


def hello(driver: Driver, device: str, role: str = "train", **privacy: float) -> None:
    status = {"protocol": messages.PROTOCOL, "state": "online", "boot": "b1", "role": role, "work": 0} | privacy
    driver.run.take_status(device, messages.check(reports.STATUS, status))


def answer(driver: Driver, device: str, seed: int = 1, **ledger: float) -> None:
    """``device`` does its work, keeps its loss to itself, and tells its ``ledger``."""
    update = driver.learn(device, seed)
    del update.report["loss"]
    update.report |= ledger
    driver.send(device, *update.messages())


def accounted(driver: Driver, device: str = "d0") -> tuple[int, float]:
    """What is known, durably, of the updates of ``device`` and of their cost."""
    driver.commit()
    (known,) = (known for known in driver.store.devices() if known.device == device)
    return known.private, known.rho


@pytest.mark.parametrize(
    ("demand", "offer", "complaint"),
    [
        ({"noise": 2.0}, {}, "its updates have noise of 0, this run asks for 2"),
        ({"noise": 2.0}, {"clip": 0.5, "noise": 1.5}, "its updates have noise of 1.5, this run asks for 2"),
        ({"noise": 2.0, "clip": 0.25}, {"clip": 0.5, "noise": 2.0}, "its changes are bound to 0.5, this run asks for"),
        ({"clip": 0.25}, {}, "its changes are bound to 0, this run asks for 0.25"),
    ],
)
def test_who_offers_less_than_the_run_asks_for_gets_no_work_and_is_told_why(
    start: Start, demand: dict[str, float], offer: dict[str, float], complaint: str
) -> None:
    driver = start(privacy=demand)
    hello(driver, "d0", **offer)
    driver.advance()
    assert driver.requests("d0") == []
    device = driver.run.registry.devices["d0"]
    assert device.state == "unfit"
    assert device.error.startswith(complaint)
    hello(driver, "d0", clip=0.25, noise=2.0)
    driver.advance()
    assert len(driver.requests("d0")) == 1


def test_held_out_devices_are_asked_for_no_privacy(start: Start) -> None:
    driver = start(privacy={"noise": 2.0})
    hello(driver, "d0", role="evaluate")
    assert driver.run.registry.devices["d0"].state == "online"


@pytest.mark.usefixtures("compiled")
def test_an_update_without_its_loss_is_taken(start: Start) -> None:
    driver = start()
    hello(driver, "d0", clip=0.5, noise=2.0)
    driver.advance()
    answer(driver, "d0")
    driver.commit()
    assert driver.run.updates == 1
    assert [row.loss for row in driver.store.accepted_since(0)] == [None]
    status = driver.run.status("running")
    assert "loss" not in status
    assert status["staleness"] == 0


@pytest.mark.usefixtures("compiled")
def test_what_may_be_made_is_accounted_before_it_is_asked_for_and_survives_a_restart(start: Start) -> None:
    driver = start()
    hello(driver, "d0", clip=0.5, noise=2.0, private=0, rho=0.0)
    for count in (1, 2):
        driver.advance()
        answer(driver, "d0", count, private=count, rho=count * 0.5)
    driver.advance()  # a third, which is never answered
    assert [(request["private"], request["noise"]) for request in driver.requests("d0")] == [
        (0, 2.0),
        (1, 2.0),
        (2, 2.0),
    ]
    assert accounted(driver) == (3, 3 * 2 / 2.0**2)
    assert driver.run.status("running")["rho"] == 1.5
    driver.close()
    again = start()
    device = again.run.registry.devices["d0"]
    assert (device.private, device.rho) == (3, 1.5)
    hello(again, "d0", clip=0.5, noise=2.0, private=0, rho=0.0)  # retained, of its start
    again.advance()
    assert again.requests("d0")[-1]["private"] == 2  # the third once more: it is accounted
    assert accounted(again) == (3, 1.5)


def test_a_request_leaves_when_its_update_is_accounted(start: Start) -> None:
    driver = start()
    hello(driver, "d0", clip=0.5, noise=2.0, private=7, rho=3.5)
    driver.publish()
    assert driver.run.next_work()
    assert driver.requests("d0") == []  # not before the store has it
    assert accounted(driver) == (8, 4.0)
    assert driver.requests("d0")[-1]["private"] == 7


@pytest.mark.usefixtures("compiled")
def test_the_ledger_of_the_device_counts_if_it_is_higher(start: Start) -> None:
    driver = start()
    hello(driver, "d0", clip=0.5, noise=2.0, private=40, rho=90.0)
    assert accounted(driver) == (40, 90.0)
    driver.advance()
    answer(driver, "d0", private=50, rho=100.0)  # another run has some of them
    assert accounted(driver) == (50, 100.0)
    hello(driver, "d0", clip=0.5, noise=2.0, private=1, rho=0.5)  # an old status: it only grows
    assert accounted(driver) == (50, 100.0)


def test_what_a_forgotten_device_has_spent_comes_back_with_its_hello(start: Start) -> None:
    driver = start()
    hello(driver, "d0", clip=0.5, noise=2.0, private=9, rho=4.5)
    driver.commit()
    driver.run.forget("d0")
    driver.commit()
    assert driver.store.devices() == []
    hello(driver, "d0", clip=0.5, noise=2.0, private=9, rho=4.5)
    assert accounted(driver) == (9, 4.5)


@pytest.mark.usefixtures("compiled")
def test_the_ledger_of_an_update_that_is_not_taken_counts_all_the_same(start: Start) -> None:
    driver = start()
    hello(driver, "d0", clip=0.5, noise=2.0, private=0, rho=0.0)
    driver.advance()
    driver.now += 61
    driver.run.expire()
    answer(driver, "d0", private=3, rho=1.5)
    assert driver.run.updates == 0
    assert accounted(driver) == (3, 1.5)


def test_a_request_that_does_not_account_for_all_is_replaced_once_the_device_tells(start: Start) -> None:
    driver = start()
    hello(driver, "d0", clip=0.5, noise=2.0, private=0, rho=0.0)
    driver.advance()
    (first,) = driver.requests("d0")
    hello(driver, "d0", clip=0.5, noise=2.0, private=1, rho=0.5)  # the update got lost, and the answer of another run
    driver.advance()
    _, second = driver.requests("d0")
    assert (second["work"] > first["work"], second["private"]) == (True, 1)
    assert accounted(driver) == (2, 1.0)
    assert driver.run.registry.devices["d0"].failures == 0


def test_a_request_that_is_sent_again_costs_nothing_more(start: Start) -> None:
    driver = start()
    hello(driver, "d0", clip=0.5, noise=2.0, private=0, rho=0.0)
    driver.advance()
    work = driver.requests("d0")[-1]["work"]
    for _ in range(2):
        driver.run.take_update("d0", {"work": work, "whole": True})
    assert [request["private"] for request in driver.requests("d0")] == [0, 0, 0]
    assert accounted(driver) == (1, 0.5)


@pytest.mark.usefixtures("compiled")
def test_updates_of_a_device_without_its_ledger_add_up(start: Start) -> None:
    driver = start()
    hello(driver, "d0", clip=0.5, noise=2.0, private=9, rho=4.5)
    for count in (1, 2, 3):  # it begins anew
        driver.advance()
        answer(driver, "d0", count, private=count, rho=count * 0.5)
    assert accounted(driver) >= (12, 6.0)


@pytest.mark.usefixtures("compiled")
def test_noise_of_another_strength_costs_what_it_costs(start: Start) -> None:
    driver = start()
    rho = 0.0
    for count, noise in enumerate((2.0, 1.0)):
        hello(driver, "d0", clip=0.5, noise=noise, private=count, rho=rho)
        driver.advance()
        rho += 2 / noise**2
        answer(driver, "d0", private=count + 1, rho=rho)
    assert accounted(driver) == (2, 2 / 2.0**2 + 2 / 1.0**2)


CLAIMS = {"private": (-1, 1 << 31, 1.5, "9", True, None), "rho": (-1, 1.1e15, float("nan"), float("inf"), "9", True)}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in CLAIMS for value in CLAIMS[name]])
@pytest.mark.parametrize("fields", [reports.STATUS, reports.UPDATE], ids=["status", "update"])
def test_a_ledger_that_is_no_count_is_refused(fields: Any, name: str, value: Any) -> None:
    message = {"protocol": messages.PROTOCOL, "state": "online", "boot": "b1", "work": 1}
    with pytest.raises(messages.MessageError, match=name):
        messages.check(fields, message | {name: value})


@pytest.mark.usefixtures("compiled")
def test_the_largest_claim_harms_nobody_else(start: Start) -> None:
    driver = start()
    hello(driver, "liar", clip=0.5, noise=2.0, private=reports.COUNT, rho=reports.RHO)
    for seed in (1, 2):
        driver.advance()
        answer(driver, "liar", seed, private=reports.COUNT, rho=reports.RHO)
    assert accounted(driver, "liar") == (reports.COUNT, reports.RHO)
    messages.check(messages.WORK, driver.requests("liar")[-1])
    status = driver.run.status("running") | {"rate": 0.0, "boot": "b"}
    messages.check(reports.RUN_STATUS, status)
    assert "at delta" in epsilon_text(status["rho"]) or "rho" in epsilon_text(status["rho"])


@pytest.mark.usefixtures("compiled")
def test_what_is_not_private_costs_nothing(start: Start) -> None:
    driver = start()
    driver.hello("d0")
    driver.advance()
    driver.answer("d0")
    assert driver.run.registry.devices["d0"].private == 0
    assert "rho" not in driver.run.status("running")


async def test_an_operator_is_told(start: Start) -> None:
    driver = start()
    hello(driver, "d0", clip=0.5, noise=2.0)
    driver.advance()

    class Written:
        async def flush(self) -> None:
            driver.commit()

    control = Control(driver.run, driver.store, Written(), drain=lambda: None, clear=lambda topic: None)  # type: ignore[arg-type]
    (told,) = await control.answer({"request": 1, "client": "c", "command": "devices"})
    (row,) = told["rows"]
    assert (row["clip"], row["noise"], row["private"], row["rho"]) == (0.5, 2.0, 1, 0.5)


@pytest.mark.usefixtures("compiled")
def test_noise_is_no_reason_to_refuse_an_update_but_is_scaled_down(start: Start) -> None:
    driver = start(guards={"refuse": 5.0, "clip": 4.0, "strikes": 1})
    hello(driver, "d0", clip=0.5, noise=3.0)  # of 25 parameters: a norm of 7.5 is to be expected
    driver.advance()
    update = driver.learn("d0")
    update.report["gains"] = [1 + gain // 60 for gain in update.report["gains"]]  # a delta 60 times as long
    driver.send("d0", *update.messages())
    driver.commit()
    assert driver.run.updates == 1
    (row,) = driver.store.accepted_since(0)
    assert row.scale < 0.5
    assert not driver.run.registry.devices["d0"].quarantine


@pytest.mark.usefixtures("compiled")
def test_a_plain_update_of_that_length_is_refused(start: Start) -> None:
    driver = start(guards={"refuse": 5.0, "clip": 4.0, "strikes": 1})
    driver.hello("d0")
    driver.advance()
    update = driver.learn("d0")
    update.report["gains"] = [1 + gain // 60 for gain in update.report["gains"]]
    driver.send("d0", *update.messages())
    driver.commit()
    assert driver.run.updates == 0
    assert driver.run.refusals == {"too large": 1}


@pytest.mark.parametrize("value", [-1.0, float("nan"), "much"])
def test_a_demand_that_is_no_noise_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"privacy\.noise"):
        configuration(tmp_path / "run.sqlite", privacy={"noise": value})


@pytest.mark.usefixtures("compiled")
def test_a_store_of_format_3_is_upgraded_with_all_that_it_holds(tmp_path: Path, start: Start) -> None:
    driver = start()
    driver.hello("d0")
    for seed in (1, 2):
        driver.advance()
        driver.answer("d0", seed)
    driver.commit()
    driver.close()
    weights = driver.run.weights.tolist()
    loss = driver.run.losses[-1]
    path = tmp_path / "run.sqlite"
    with sqlite3.connect(path) as database:  # as it was
        columns = [column.name for column in metadata.tables["accepted"].columns]
        database.execute("ALTER TABLE device DROP COLUMN private")
        database.execute("ALTER TABLE device DROP COLUMN rho")
        database.execute("ALTER TABLE checkpoint DROP COLUMN crc")
        database.execute("ALTER TABLE accepted RENAME TO new")
        database.execute("DROP INDEX accepted_updates")
        kinds = {"gains": "JSON", "delta": "BLOB", "device": "TEXT", "combine": "TEXT", "loss": "DOUBLE NOT NULL"}
        made = ", ".join(f"{name} {kinds.get(name, 'NUMERIC')}" for name in columns)
        database.execute(f"CREATE TABLE accepted ({made}, PRIMARY KEY (work))")
        database.execute("CREATE INDEX accepted_updates ON accepted (updates)")
        database.execute(f"INSERT INTO accepted SELECT {', '.join(columns)} FROM new")
        database.execute("DROP TABLE new")
        database.execute("UPDATE property SET value = ? WHERE name = 'format'", (json.dumps(3),))
        database.execute("PRAGMA user_version=3")
    database.close()
    for _ in range(2):  # the second time it is of this format
        store = Store(str(path), "test")
        rows = list(store.accepted_since(0))
        assert [row.work for row in rows] == sorted(row.work for row in rows)
        assert rows[-1].loss == loss
        assert [(known.device, known.accepted, known.private, known.rho) for known in store.devices()] == [
            ("d0", 2, 0, 0.0)
        ]
        store.close()
    again = start()
    assert again.run.weights.tolist() == weights
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (FORMAT,)
    database.close()
    hello(again, "d0", clip=0.5, noise=2.0)
    again.advance()
    answer(again, "d0")
    again.commit()
    assert [row.loss for row in again.store.accepted_since(2)] == [None]


def test_what_is_known_of_a_device_has_its_privacy(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run.sqlite"), "test")
    known = Known("d0", "train", "b", "p", 1, 2, 3, 4, 5, 6, "", 7.0, 8, 9.5)
    store.write([known])
    assert store.devices() == [known]
    store.close()
