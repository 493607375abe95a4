"""What survives: checkpoints and journal in one file, and how a bad file is told."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.deltas import unpack
from coordinator.errors import StoreError
from coordinator.rules import MetaUpdate, discount, schedule
from coordinator.store import SCHEMA, Accepted, Checkpoint, Closed, Entry, Evaluated, Issued, SQLiteStore
from tinyreptile.model import Model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(path)
    yield store
    store.close()


def accepted(work: int, updates: int, delta: bytes = b"abc") -> Accepted:
    return Accepted(work, updates, "d0", updates, 1, 0.25, True, 0.5, 32, 8, (1, 65536), delta, 12.5)


def test_a_new_store_is_empty(store: SQLiteStore) -> None:
    assert store.checkpoint() is None
    assert list(store.accepted_since(0)) == []
    assert store.open_work() == store.evaluations() == []
    assert store.last_work() == 0
    assert not store.is_accepted(1, "d0")


def test_what_was_written_is_read_by_the_next_start(path: Path) -> None:
    weights = np.random.default_rng(1).normal(size=100)
    first = SQLiteStore(path)
    entries: list[Entry] = [
        Checkpoint(0, 0, weights),
        Issued(5, "d0", "train", 0, 8, 99.5),
        Issued(6, "d1", "evaluate", 0, 8, 99.5),
        accepted(5, 0),
        Evaluated(1, 1, {"after": 0.25, "devices": 3}, 12.5),
    ]
    first.write(entries)
    first.close()
    store = SQLiteStore(path)
    checkpoint = store.checkpoint()
    assert checkpoint is not None
    assert checkpoint.weights.tobytes() == weights.tobytes()
    assert list(store.accepted_since(0)) == [accepted(5, 0)]
    assert store.open_work() == [Issued(6, "d1", "evaluate", 0, 8, 99.5)]
    assert store.evaluations() == [Evaluated(1, 1, {"after": 0.25, "devices": 3}, 12.5)]
    assert store.last_work() == 6
    store.close()


def test_work_is_open_until_it_is_accepted_or_closed(store: SQLiteStore) -> None:
    store.write([Issued(work, "d0", "train", 0, 8, 1.0) for work in (1, 2, 3)])
    store.write([accepted(1, 0), Closed(2)])
    assert [issued.work for issued in store.open_work()] == [3]


def test_an_update_is_accepted_of_its_own_device_only(store: SQLiteStore) -> None:
    store.write([accepted(5, 0)])
    assert store.is_accepted(5, "d0")
    assert not store.is_accepted(5, "d1")
    assert not store.is_accepted(6, "d0")


def test_the_journal_is_read_in_the_order_of_its_updates(store: SQLiteStore) -> None:
    store.write([accepted(9, 0), accepted(3, 1), accepted(7, 2)])
    assert [row.work for row in store.accepted_since(1)] == [3, 7]


def test_a_checkpoint_replaces_the_last_one_and_the_deltas_before_it(store: SQLiteStore) -> None:
    weights = np.zeros(2)
    store.write([Checkpoint(0, 0, weights), accepted(1, 0), accepted(2, 1), accepted(3, 2)])
    store.write([Checkpoint(2, 2, weights + 1)])
    checkpoint = store.checkpoint()
    assert checkpoint is not None
    assert (checkpoint.updates, checkpoint.weights.tolist()) == (2, [1, 1])
    assert [row.delta for row in store.accepted_since(0)] == [None, None, b"abc"]
    store.write([accepted(4, 3), Checkpoint(4, 4, weights)])
    assert [row.delta for row in store.accepted_since(0)] == [None] * 4


def test_a_transaction_that_fails_leaves_nothing_behind(store: SQLiteStore) -> None:
    store.write([accepted(1, 0)])
    with pytest.raises(StoreError):
        store.write([accepted(2, 1), accepted(1, 2)])
    assert [row.work for row in store.accepted_since(0)] == [1]
    store.write([accepted(2, 1)])
    assert store.is_accepted(2, "d0")


def test_what_was_written_survives_a_killed_process(path: Path) -> None:
    program = (
        "import sys, time, pathlib; import numpy as np; from coordinator.store import *; "
        "store = SQLiteStore(pathlib.Path(sys.argv[1])); "
        "store.write([Checkpoint(3, 2, np.ones(4))]); print('written', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        os.kill(process.pid, signal.SIGKILL)
    store = SQLiteStore(path)
    checkpoint = store.checkpoint()
    store.close()
    assert checkpoint is not None
    assert (checkpoint.updates, checkpoint.version, checkpoint.weights.tolist()) == (3, 2, [1, 1, 1, 1])


def test_properties_are_kept_and_compared(store: SQLiteStore) -> None:
    store.bind({"run": "kitchen", "model": [["input", 1]]})
    store.bind({"run": "kitchen", "model": [["input", 1]]})
    assert store.properties() == {"run": "kitchen", "model": [["input", 1]]}
    with pytest.raises(StoreError, match=r'was begun with run "kitchen", now it is "hall"; give the run another name'):
        store.bind({"run": "hall", "model": [["input", 1]]})


def test_a_store_of_a_newer_format_is_refused(path: Path) -> None:
    SQLiteStore(path).close()
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version={SCHEMA + 1}")
    database.close()
    with pytest.raises(StoreError, match=f"has format {SCHEMA + 1}, this coordinator reads {SCHEMA}; update"):
        SQLiteStore(path)


def test_a_file_that_is_no_store_is_told(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="is damaged or no store at all"):
        SQLiteStore(path)
    assert path.read_bytes() == b"no database at all" * 100


def test_a_damaged_store_is_told(path: Path) -> None:
    store = SQLiteStore(path)
    store.write([Checkpoint(0, 0, np.zeros(5000)), *(accepted(i, i, bytes(900)) for i in range(200))])
    store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"is damaged|can't be used"):  # noqa: PT012 - where it shows is SQLite's
        store = SQLiteStore(path)
        try:
            store.checkpoint()
            list(store.accepted_since(0))
        finally:
            store.close()


def test_the_properties_of_a_new_store_are_those_it_is_first_bound_to(path: Path) -> None:
    first = SQLiteStore(path)
    assert first.properties() == {}
    first.bind({"run": "kitchen"})
    first.close()
    second = SQLiteStore(path)
    assert second.properties() == {"run": "kitchen"}
    second.close()


def test_evaluations_are_read_in_the_order_of_their_updates(store: SQLiteStore) -> None:
    store.write([Evaluated(20, 20, {"after": 2}, 2.0), Evaluated(10, 10, {"after": 1}, 1.0)])
    assert [past.updates for past in store.evaluations()] == [10, 20]


def test_floats_come_back_to_the_last_bit(store: SQLiteStore) -> None:
    weights = np.array([0.1, -1e-300, 5e-324, np.pi, -0.0])
    store.write([Checkpoint(1, 1, weights)])
    checkpoint = store.checkpoint()
    assert checkpoint is not None
    assert checkpoint.weights.tobytes() == weights.tobytes()
    checkpoint.weights[0] = 7  # it is no view of something that must not change


def test_a_store_in_an_absent_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="can't be used: unable to open database file"):
        SQLiteStore(tmp_path / "absent" / "run.sqlite")


def test_a_path_that_is_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="can't be used: unable to open database file"):
        SQLiteStore(tmp_path)


def test_a_folder_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    if os.geteuid() == 0:
        folder = Path("/proc")  # where not even root may
    with pytest.raises(StoreError, match="can't be used: unable to open database file"):
        SQLiteStore(folder / "run.sqlite")


def test_a_store_that_may_only_be_read_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SQLiteStore(path).close()
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda at, **o: connect(f"{at.as_uri()}?mode=ro", uri=True, **o))
    with pytest.raises(StoreError, match="can't be used: "):
        SQLiteStore(path)


def test_a_store_that_is_refused_is_not_kept_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"no database at all" * 100)
    opened = []
    connect = sqlite3.connect

    def watched(*arguments: Any, **options: Any) -> sqlite3.Connection:
        opened.append(connect(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", watched)
    with pytest.raises(StoreError):
        SQLiteStore(path)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")


def test_a_second_coordinator_is_refused(path: Path, store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **options: connect(*a, **options | {"timeout": 0.05}))
    with pytest.raises(StoreError) as caught:
        SQLiteStore(path)
    assert str(caught.value) == f"the store {path} is in use: another coordinator serves this run"
    store.write([accepted(1, 0)])


def test_the_store_of_another_model_is_refused(path: Path, store: SQLiteStore) -> None:
    store.bind({"run": "kitchen", "model": [["input", 1]]})
    with pytest.raises(StoreError) as caught:
        store.bind({"run": "kitchen", "model": [["input", 2]]})
    assert str(caught.value) == (
        f'the store {path} was begun with model [["input", 1]], now it is [["input", 2]]; '
        "give the run another name, or the store another path"
    )


def test_every_commit_reaches_the_disk(store: SQLiteStore) -> None:
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"


def test_a_full_disk_is_told_and_what_was_written_stays(path: Path, store: SQLiteStore) -> None:
    store.write([accepted(1, 0)])
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StoreError) as caught:
        store.write([accepted(2, 1, bytes(1_000_000))])
    assert str(caught.value) == f"the store {path} can't be used: database or disk is full"
    assert list(store.accepted_since(0)) == [accepted(1, 0)]


def test_a_transaction_cut_off_by_the_processs_end_leaves_nothing(path: Path) -> None:
    program = (
        "import os, sys, pathlib; from tests.coordinator.test_store import *; "
        "store = SQLiteStore(pathlib.Path(sys.argv[1])); store.write([Issued(1, 'd0', 'train', 0, 8, 1.0)]); "
        "store.write([accepted(1, 0)]); store._db.execute('BEGIN'); store._write(accepted(2, 1)); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], timeout=60, check=False)
    assert done.returncode == 9
    store = SQLiteStore(path)
    rows, work = list(store.accepted_since(0)), store.open_work()
    store.close()
    assert rows == [accepted(1, 0)]
    assert work == []


def test_the_last_work_is_the_highest_on_record_accepted_or_open(store: SQLiteStore) -> None:
    store.write([accepted(100, 0)])
    assert store.last_work() == 100
    store.write([Issued(70, "d0", "train", 0, 8, 1.0), Issued(130, "d1", "train", 0, 8, 1.0)])
    assert store.last_work() == 130
    store.write([Closed(130)])
    assert store.last_work() == 100


def test_checkpoint_after_checkpoint_leaves_only_the_deltas_since_the_last(store: SQLiteStore) -> None:
    store.write([Checkpoint(0, 0, np.zeros(2))])
    for i in range(12):
        store.write([accepted(100 + i, i)])
        if i % 4 == 3:
            store.write([Checkpoint(i - 1, i - 1, np.zeros(2))])  # two updates are newer
            assert [row.updates for row in store.accepted_since(0) if row.delta is not None] == [i - 1, i]


def test_a_state_replays_from_disk_to_the_same_bits(path: Path) -> None:
    model = Model([["input", 3], ["dense", 5, "relu"], ["dense", 2], ["squared_error"]])
    rng = np.random.default_rng(9)
    start = rng.normal(size=model.parameters)
    live = start.copy()
    meta = MetaUpdate(schedule("constant", 1, 1), discount("constant"), size=99)
    store = SQLiteStore(path)
    store.write([Checkpoint(0, 0, start)])
    for i in range(23):
        gains = tuple(rng.integers(1, 65537, len(model.tensors)).tolist())
        weight, moved = float(rng.random()), i % 4 == 3
        row = Accepted(i + 1, i, "d0", 0, 0, weight, moved, 0.5, 32, 8, gains, rng.bytes(model.parameters), 1.5)
        meta.fold(live, unpack(model, row.delta, row.bits, row.gains), row.weight, row.moved)
        store.write([row])
        if i == 11:
            store.write([Checkpoint(12, 3, live)])
    store.close()
    store = SQLiteStore(path)
    checkpoint = store.checkpoint()
    assert checkpoint is not None
    replayed = checkpoint.weights
    again = MetaUpdate(schedule("constant", 0.5, 0), discount("constant"))
    for row in store.accepted_since(checkpoint.updates):
        again.fold(replayed, unpack(model, row.delta, row.bits, row.gains), row.weight, row.moved)
    store.close()
    assert checkpoint.updates == 12
    assert replayed.tobytes() == live.tobytes()
    assert not np.array_equal(live, start)


def test_another_programs_database_is_refused_and_left_as_it_is(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE recipe (name TEXT)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="is another program's database"):
        SQLiteStore(path)
    assert path.read_bytes() == before
