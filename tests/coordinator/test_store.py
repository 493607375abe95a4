"""What survives: one suite for a store in SQLite and in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.deltas import unpack
from coordinator.entries import (
    Accepted,
    Checkpoint,
    Closed,
    Entry,
    Evaluated,
    Event,
    Forgotten,
    Issued,
    Known,
    Setting,
)
from coordinator.errors import StoreError, StoreUnavailable
from coordinator.rules import MetaUpdate, discount, schedule
from coordinator.store import EVALUATED_KEPT, Store
from tests.environment import free_port
from tests.fleet import new_run
from tests.postgresql import PostgreSQL
from tinyreptile.model import Model

OpenStore = Callable[..., Store]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    server = PostgreSQL()
    server.start()
    yield server
    server.stop()
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """A function that opens the one store of this test, for the first time or again."""
    sqlite = request.param == "sqlite"
    location = str(tmp_path / "run.sqlite") if sqlite else request.getfixturevalue("server").url()
    run = new_run()
    opened: list[Store] = []

    def start(**options: Any) -> Store:
        opened.append(Store(location, run, **options))
        return opened[-1]

    yield start
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store()


def accepted(work: int, updates: int, delta: bytes | None = b"abc") -> Accepted:
    return Accepted(work, updates, "d0", updates, 1, 0.25, True, 0.5, 32, 8, (1, 65536), delta, 12.5)


def summary(after: float) -> dict[str, Any]:
    return {"updates": 1, "version": 1, "before": 2.5, "after": after}


def known(device: str, **fields: Any) -> Known:
    return replace(Known(device, "train", "b1", "esp32", 4096, 1, 2, 3, 4, 5, "", 12.5), **fields)


def test_a_new_store_is_empty(store: Store) -> None:
    assert store.checkpoint() is None
    assert list(store.accepted_since(0)) == []
    assert store.open_work() == store.evaluations() == []
    assert store.last_work() == 0
    assert not store.is_accepted(1, "d0")


def test_what_was_written_is_read_by_the_next_start(open_store: OpenStore) -> None:
    weights = np.random.default_rng(1).normal(size=100)
    first = open_store()
    entries: list[Entry] = [
        Checkpoint(0, 0, weights),
        Issued(5, "d0", "train", 0, 8, 99.5),
        Issued(6, "d1", "evaluate", 0, 8, 99.5),
        accepted(5, 0),
        Evaluated(1, 1, summary(0.25), 12.5),
    ]
    first.write(entries)
    first.close()
    store = open_store()
    checkpoint = store.checkpoint()
    assert checkpoint is not None
    assert checkpoint.weights.tobytes() == weights.tobytes()
    assert list(store.accepted_since(0)) == [accepted(5, 0)]
    assert store.open_work() == [Issued(6, "d1", "evaluate", 0, 8, 99.5)]
    assert store.evaluations() == [Evaluated(1, 1, summary(0.25), 12.5)]
    assert store.last_work() == 6
    store.close()


def test_work_is_open_until_it_is_accepted_or_closed(store: Store) -> None:
    store.write([Issued(work, "d0", "train", 0, 8, 1.0) for work in (1, 2, 3)])
    store.write([accepted(1, 0), Closed(2)])
    assert [issued.work for issued in store.open_work()] == [3]


def test_an_update_is_accepted_of_its_own_device_only(store: Store) -> None:
    store.write([accepted(5, 0)])
    assert store.is_accepted(5, "d0")
    assert not store.is_accepted(5, "d1")
    assert not store.is_accepted(6, "d0")


def test_the_journal_is_read_in_the_order_of_its_updates(store: Store) -> None:
    store.write([accepted(9, 0), accepted(3, 1), accepted(7, 2)])
    assert [row.work for row in store.accepted_since(1)] == [3, 7]


def test_a_transaction_that_fails_leaves_nothing_behind(store: Store) -> None:
    store.write([accepted(1, 0)])
    with pytest.raises(StoreError):
        store.write([accepted(2, 1), accepted(1, 2)])
    assert [row.work for row in store.accepted_since(0)] == [1]
    store.write([accepted(2, 1)])
    assert store.is_accepted(2, "d0")


def test_properties_are_kept_and_compared(store: Store) -> None:
    store.bind({"run": "kitchen", "model": [["input", 1]]})
    store.bind({"run": "kitchen", "model": [["input", 1]]})
    assert store.properties() == {"run": "kitchen", "model": [["input", 1]]}
    with pytest.raises(StoreError, match=r'was begun with run "kitchen", now it is "hall"; give the run another name'):
        store.bind({"run": "hall", "model": [["input", 1]]})


def test_the_properties_of_a_new_store_are_those_it_is_first_bound_to(open_store: OpenStore) -> None:
    first = open_store()
    assert first.properties() == {}
    first.bind({"run": "kitchen"})
    first.close()
    second = open_store()
    assert second.properties() == {"run": "kitchen"}
    second.close()


def test_evaluations_are_read_in_the_order_of_their_updates(store: Store) -> None:
    store.write([Evaluated(20, 20, summary(2), 2.0), Evaluated(10, 10, summary(1), 1.0)])
    assert [past.updates for past in store.evaluations()] == [10, 20]


def test_floats_come_back_to_the_last_bit(store: Store) -> None:
    weights = np.array([0.1, -1e-300, 5e-324, np.pi, -0.0])
    store.write([Checkpoint(1, 1, weights)])
    checkpoint = store.checkpoint()
    assert checkpoint is not None
    assert checkpoint.weights.tobytes() == weights.tobytes()
    checkpoint.weights[0] = 7  # it is no view of something that must not change


def test_the_store_of_another_model_is_refused(store: Store) -> None:
    store.bind({"run": "kitchen", "model": [["input", 1]]})
    with pytest.raises(StoreError) as caught:
        store.bind({"run": "kitchen", "model": [["input", 2]]})
    assert str(caught.value) == (
        f'the store {store.location} was begun with model [["input", 1]], now it is [["input", 2]]; '
        "give the run another name, or the store another path"
    )


def test_the_last_work_is_the_highest_on_record_accepted_or_open(store: Store) -> None:
    store.write([accepted(100, 0)])
    assert store.last_work() == 100
    store.write([Issued(70, "d0", "train", 0, 8, 1.0), Issued(130, "d1", "train", 0, 8, 1.0)])
    assert store.last_work() == 130
    store.write([Closed(130)])
    assert store.last_work() == 100


def test_a_state_replays_from_disk_to_the_same_bits(open_store: OpenStore) -> None:
    model = Model([["input", 3], ["dense", 5, "relu"], ["dense", 2], ["squared_error"]])
    rng = np.random.default_rng(9)
    start = rng.normal(size=model.parameters)
    live = start.copy()
    meta = MetaUpdate(schedule("constant", 1, 1), discount("constant"), size=99)
    store = open_store()
    store.write([Checkpoint(0, 0, start)])
    for i in range(23):
        gains = tuple(rng.integers(1, 65537, len(model.offsets)).tolist())
        weight, moved = float(rng.random()), i % 4 == 3
        row = Accepted(i + 1, i, "d0", 0, 0, weight, moved, 0.5, 32, 8, gains, rng.bytes(model.parameters), 1.5)
        meta.fold(live, unpack(model, row.delta, row.bits, row.gains), row.decision())
        store.write([row])
        if i == 11:
            store.write([Checkpoint(12, 3, live)])
    store.close()
    store = open_store()
    checkpoint = store.checkpoint()
    assert checkpoint is not None
    replayed = checkpoint.weights
    again = MetaUpdate(schedule("constant", 0.5, 0), discount("constant"))
    for row in store.accepted_since(checkpoint.updates):
        again.fold(replayed, unpack(model, row.delta, row.bits, row.gains), row.decision())
    store.close()
    assert checkpoint.updates == 12
    assert replayed.tobytes() == live.tobytes()
    assert not np.array_equal(live, start)


def test_a_second_coordinator_is_refused_until_the_first_has_gone(store: Store, open_store: OpenStore) -> None:
    with pytest.raises(StoreError, match="is in use: another coordinator serves this run"):
        open_store()
    store.write([accepted(1, 0)])
    store.close()
    assert open_store().is_accepted(1, "d0")


def test_devices_are_kept_as_they_were_last_known(store: Store, open_store: OpenStore) -> None:
    store.write([known("d0"), known("d1"), known("d0", accepted=7)])
    store.write([known("d1", quarantine="it sends nonsense")])
    store.close()
    assert open_store().devices() == [known("d0", accepted=7), known("d1", quarantine="it sends nonsense")]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1"])
def test_what_is_no_cost_is_reported_in_either_database(store: Store, value: str) -> None:
    store.write([known("d0"), known("d1")])
    with store._database.write() as connection:
        connection.exec_driver_sql(f"UPDATE device SET rho = '{value}' WHERE device = 'd1'")
    with pytest.raises(StoreError, match="is damaged: table device, device 'd1': rho is "):
        store.devices()


def test_json_of_another_kind_is_reported_in_either_database(store: Store) -> None:
    store.write([accepted(1, 0)])
    with store._database.write() as connection:
        connection.exec_driver_sql("UPDATE accepted SET gains = '{\"a\": 1}'")
    with pytest.raises(
        StoreError, match=r"is damaged: table accepted, work 1: gains is .*: it is to be a list of numbers"
    ):
        list(store.accepted_since(0))


def test_a_forgotten_device_is_gone_until_it_comes_back(store: Store) -> None:
    store.write([known("d0"), Forgotten("d0"), known("d1")])
    assert [device.device for device in store.devices()] == ["d1"]
    store.write([Forgotten("d1"), known("d1", accepted=0)])
    assert store.devices() == [known("d1", accepted=0)]


def test_settings_stand_until_they_are_unset(store: Store) -> None:
    store.write([Setting("learning.alpha", 0.1), Setting("run.paused", True), Setting("learning.alpha", 0.2)])
    assert store.settings() == {"learning.alpha": 0.2, "run.paused": True}
    store.write([Setting("learning.alpha", None)])
    assert store.settings() == {"run.paused": True}


def test_events_are_read_in_their_order(store: Store) -> None:
    events = [Event(2.0, 5, 5, "rollback", "to version 3"), Event(1.0, 4, 4, "setting", "learning.alpha = 0.1")]
    store.write(events)
    assert store.events() == events[::-1]


def test_a_transaction_may_be_repeated_if_its_end_is_not_known(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    entries: list[Entry] = [
        Issued(1, "d0", "train", 0, 8, 1.0),
        Issued(2, "d0", "train", 0, 8, 1.0),
        accepted(1, 0),
        known("d0"),
        Evaluated(1, 1, summary(0.5), 3.0),
        Event(1.0, 1, 1, "setting", "x"),
        Setting("run.paused", True),
        Checkpoint(1, 1, np.ones(2)),
    ]
    store.write(entries)
    before = _everything(store)
    store._torn = True
    store.write(entries)
    assert _everything(store) == before
    with pytest.raises(StoreError):  # and without that doubt a repetition is a mistake
        store.write(entries)


def _everything(store: Store) -> Any:
    rows = list(store.accepted_since(0))
    versions = store.checkpoint_versions()
    return rows, versions, store.open_work(), store.devices(), store.evaluations(), store.events(), store.settings()


def test_deltas_and_checkpoints_of_the_history_are_kept_and_older_ones_dropped(open_store: OpenStore) -> None:
    store = open_store(history=10)
    store.write([Checkpoint(0, 0, np.zeros(2))])
    for i in range(40):
        store.write([accepted(100 + i, i)])
        if i % 5 == 4:
            store.write([Checkpoint(i + 1, i + 1, np.full(2, i + 1.0))])
    assert store.checkpoint_versions() == [(30, 30), (35, 35), (40, 40)]
    assert [row.updates for row in store.accepted_since(0) if row.delta is not None] == list(range(30, 40))
    assert len(list(store.accepted_since(0))) == 40
    checkpoint = store.checkpoint(37)
    assert checkpoint is not None
    assert (checkpoint.version, checkpoint.weights.tolist()) == (35, [35, 35])
    assert store.checkpoint(29) is None


def test_the_latest_evaluated_versions_are_kept_beyond_the_history(open_store: OpenStore) -> None:
    store = open_store(history=1)
    store.write([Checkpoint(0, 0, np.zeros(2))])
    for version in range(1, 2 * EVALUATED_KEPT + 1):
        store.write([accepted(version, version - 1), Checkpoint(version, version, np.zeros(2), evaluated=True)])
    last = 2 * EVALUATED_KEPT + 1
    store.write([accepted(last, last - 1), Checkpoint(last, last, np.zeros(2))])
    store.write([accepted(last + 1, last), Checkpoint(last + 1, last + 1, np.zeros(2))])
    assert [version for version, _ in store.checkpoint_versions()] == list(range(EVALUATED_KEPT + 1, last + 2))


def test_the_best_version_of_all_is_kept_however_old_it_is(open_store: OpenStore) -> None:
    store = open_store(history=1)
    store.write([Checkpoint(0, 0, np.zeros(2))])
    losses = {3: 0.5, 4: 0.25, 5: 0.25}  # and 1.0 for all others
    last = 2 * EVALUATED_KEPT + 1
    for version in range(1, last):
        store.write([accepted(version, version - 1), Checkpoint(version, version, np.zeros(2), evaluated=True)])
        store.write([Evaluated(version, version, summary(losses.get(version, 1.0)), 0.0)])
    store.write([accepted(last, last - 1), Checkpoint(last, last, np.zeros(2))])
    store.write([accepted(last + 1, last), Checkpoint(last + 1, last + 1, np.zeros(2))])
    assert [version for version, _ in store.checkpoint_versions()] == [4, *range(EVALUATED_KEPT + 1, last + 2)]


def test_a_version_may_have_a_regular_checkpoint_and_an_evaluated_one(open_store: OpenStore) -> None:
    store = open_store(history=1)
    store.write([Checkpoint(5, 5, np.ones(2), evaluated=True), Checkpoint(5, 5, np.ones(2))])
    store.write([Checkpoint(5, 5, np.ones(2), evaluated=True)])
    checkpoint = store.checkpoint()
    assert checkpoint is not None
    assert not checkpoint.evaluated
    assert store.checkpoint_versions() == [(5, 5)]


def test_old_rows_are_dropped_if_so_configured(open_store: OpenStore) -> None:
    store = open_store(history=2, rows=4)
    store.write([Checkpoint(0, 0, np.zeros(2)), *(accepted(i + 1, i) for i in range(10))])
    store.write([Checkpoint(10, 10, np.zeros(2))])
    assert [row.updates for row in store.accepted_since(0)] == list(range(10)), "versions 8 and 9 come of all of them"
    store.write([accepted(i + 1, i) for i in range(10, 20)])
    store.write([Checkpoint(18, 18, np.zeros(2)), Checkpoint(20, 20, np.zeros(2))])
    assert [row.updates for row in store.accepted_since(0)] == [16, 17, 18, 19]
    assert store.last_work() == 20


def test_without_a_limit_every_delta_is_kept(open_store: OpenStore) -> None:
    store = open_store(history=0)
    store.write([Checkpoint(0, 0, np.zeros(2)), *(accepted(i + 1, i) for i in range(10))])
    store.write([Checkpoint(10, 10, np.zeros(2))])
    assert all(row.delta == b"abc" for row in store.accepted_since(0))
    assert store.checkpoint_versions() == [(0, 0), (10, 10)]


def test_runs_have_nothing_in_common(server: PostgreSQL) -> None:
    stores = [Store(server.url(), name) for name in ("kitchen-1", "kitchen-2", "Kitchen-1")]
    stores[0].write([accepted(1, 0)])
    found = [store.is_accepted(1, "d0") for store in stores]
    for store in stores:
        store.close()
    assert found == [True, False, False]


def test_a_server_that_crashes_keeps_what_was_written_and_is_gone_on_with(server: PostgreSQL) -> None:
    store = Store(server.url(), new_run())
    store.write([accepted(1, 0)])
    server.stop()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="can't be used: "):
            store.write([accepted(2, 1)])
    server.start()
    store.write([accepted(2, 1)])
    assert [row.work for row in store.accepted_since(0)] == [1, 2]
    store.close()


def test_a_connection_that_was_cut_takes_its_lock_along(server: PostgreSQL) -> None:
    run = new_run()
    store = Store(server.url(), run)
    store._database._writer.connection.dbapi_connection.close()  # type: ignore[union-attr]
    with pytest.raises(StoreUnavailable):
        store.write([accepted(1, 0)])
    other = Store(server.url(), run)
    with pytest.raises(StoreError, match="is in use: another coordinator"):
        store.write([accepted(1, 0)])
    other.close()
    store.close()


@pytest.mark.parametrize("url", ["postgresql://", "mysql://localhost/x", "postgresql://localhost:port/x"])
def test_a_url_that_is_no_stores_is_told(url: str) -> None:
    with pytest.raises(StoreError, match="a store is a file, or postgresql://"):
        Store(url, "test")


def test_a_servers_absence_is_told_without_the_password() -> None:
    with pytest.raises(StoreUnavailable) as caught:
        Store(f"postgresql://me:secret@127.0.0.1:{free_port()}/runs", "test")
    assert "Connection refused" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_who_only_looks_makes_nothing_and_needs_no_right_to(server: PostgreSQL) -> None:
    import psycopg

    run = new_run()
    with pytest.raises(StoreError, match="there is no store of this run at postgresql"):
        Store(server.url(), run, create=False)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        schema = f"tinyreptile_{run}"
        assert connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone() is None
        store = Store(server.url(), run)
        store.write([Checkpoint(3, 2, np.ones(4))])
        store.close()
        connection.execute("CREATE USER reader")
        connection.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO reader')
        connection.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" TO reader')
    reader = Store(server.url().replace("tester", "reader"), run, create=False)
    assert reader.checkpoint_versions() == [(2, 3)]
    reader.close()


def test_a_user_without_rights_is_told(server: PostgreSQL) -> None:
    import psycopg

    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE USER guest")
    with pytest.raises(StoreError, match="can't be used: permission denied for database"):
        Store(server.url().replace("tester", "guest"), "test")
