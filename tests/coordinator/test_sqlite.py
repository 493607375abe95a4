"""A store in an SQLite file: durable, alone with its file, and how a bad file is told."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.databases import copy_sqlite, restore_sqlite
from coordinator.entries import Accepted, Checkpoint, Evaluated, Issued
from coordinator.errors import StoreError, StoreUnavailable
from coordinator.schema import FORMAT
from coordinator.store import Store

# The tables as coordinators of that format made them.
_FORMAT_2 = """
CREATE TABLE property (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE checkpoint (updates INTEGER PRIMARY KEY, version INTEGER NOT NULL, weights BLOB NOT NULL);
CREATE TABLE accepted (
    work INTEGER PRIMARY KEY,      -- an update is taken once, whatever is sent again
    updates INTEGER NOT NULL,      -- accepted updates before this one: its place in the order
    device TEXT NOT NULL,
    version INTEGER NOT NULL,      -- that it was learned from
    tau INTEGER NOT NULL,          -- its staleness
    weight REAL NOT NULL,          -- alpha * s(tau)
    moved INTEGER NOT NULL,        -- 1: it completed its batch and made a new version
    loss REAL NOT NULL,
    samples INTEGER NOT NULL,
    bits INTEGER NOT NULL,
    gains TEXT NOT NULL,
    delta BLOB,                    -- packed; dropped once a checkpoint holds it
    at REAL NOT NULL,              -- seconds since 1970
    kept INTEGER                   -- of a sparse delta: how many changes it holds
);
CREATE INDEX accepted_updates ON accepted (updates);
CREATE TABLE issued (
    work INTEGER PRIMARY KEY, device TEXT NOT NULL, kind TEXT NOT NULL, version INTEGER NOT NULL,
    bits INTEGER NOT NULL, deadline REAL NOT NULL,  -- seconds since 1970
    kept INTEGER
);
CREATE TABLE evaluation (
    updates INTEGER NOT NULL, version INTEGER NOT NULL, summary TEXT NOT NULL, at REAL NOT NULL
);
PRAGMA user_version=2;
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(str(path), "test")
    yield store
    store.close()


def accepted(work: int, updates: int, delta: bytes = b"abc") -> Accepted:
    return Accepted(work, updates, "d0", updates, 1, 0.25, True, 0.5, 32, 8, (1, 65536), delta, 12.5)


def test_what_was_written_survives_a_killed_process(path: Path) -> None:
    program = (
        "import sys, time, pathlib; import numpy as np; from coordinator.store import *; "
        "store = Store(sys.argv[1], 'test'); "
        "store.write([Checkpoint(3, 2, np.ones(4))]); print('written', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        os.kill(process.pid, signal.SIGKILL)
    store = Store(str(path), "test")
    checkpoint = store.checkpoint()
    store.close()
    assert checkpoint is not None
    assert (checkpoint.updates, checkpoint.version, checkpoint.weights.tolist()) == (3, 2, [1, 1, 1, 1])


def test_a_store_of_a_newer_format_is_refused(path: Path) -> None:
    Store(str(path), "test").close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE property SET value = ? WHERE name = 'format'", (str(FORMAT + 1),))
    database.close()
    with pytest.raises(StoreError, match=f"has format {FORMAT + 1}, this coordinator reads {FORMAT}; update"):
        Store(str(path), "test")


def test_a_store_of_a_format_too_old_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE accepted (work INTEGER)")
        database.execute("PRAGMA user_version=1")
    database.close()
    with pytest.raises(StoreError, match=f"has format 1, this coordinator reads {FORMAT}; its run can't"):
        Store(str(path), "test")


def test_a_store_of_format_2_is_upgraded_with_all_that_it_holds(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.executescript(_FORMAT_2)
        database.execute("INSERT INTO property VALUES ('run', '\"kitchen\"')")
        database.execute("INSERT INTO checkpoint VALUES (1, 1, ?)", (np.array([0.5, -0.0]).tobytes(),))
        row = (7, 1, "d0", 0, 2, 0.25, 1, 0.5, 32, 8, "[1, 65536]", b"abc", 12.5, None)
        database.execute("INSERT INTO accepted VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)", row)
        database.execute("INSERT INTO issued VALUES (9, 'd1', 'train', 1, 8, 99.5, 12)")
        database.execute("INSERT INTO evaluation VALUES (1, 1, '{\"after\": 0.25}', 12.5)")
    database.close()
    for _ in range(2):  # the second time it is of this format
        store = Store(str(path), "test")
        store.bind({"run": "kitchen"})
        checkpoint = store.checkpoint()
        assert checkpoint is not None
        assert (checkpoint.updates, checkpoint.version, checkpoint.weights.tolist()) == (1, 1, [0.5, -0.0])
        assert list(store.accepted_since(0)) == [replace(accepted(7, 1), version=0, tau=2)]
        assert store.open_work() == [Issued(9, "d1", "train", 1, 8, 99.5, 12)]
        assert store.evaluations() == [Evaluated(1, 1, {"after": 0.25}, 12.5)]
        assert [(device.device, device.accepted, device.seen) for device in store.devices()] == [("d0", 1, 12.5)]
        store.close()


def test_an_upgrade_that_is_cut_off_leaves_the_old_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(path) as database:
        database.executescript(_FORMAT_2)
    database.close()
    monkeypatch.setattr("coordinator.schema._mark", lambda connection: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Store(str(path), "test")
    monkeypatch.undo()
    Store(str(path), "test").close()


def test_a_file_that_is_no_store_is_told(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="is damaged or no store at all"):
        Store(str(path), "test")
    assert path.read_bytes() == b"no database at all" * 100


def test_a_damaged_store_is_told(path: Path) -> None:
    store = Store(str(path), "test")
    store.write([Checkpoint(0, 0, np.zeros(5000)), *(accepted(i, i, bytes(900)) for i in range(200))])
    store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"is damaged|can't be used"):  # noqa: PT012 - where it shows is SQLite's
        store = Store(str(path), "test")
        try:
            store.checkpoint()
            list(store.accepted_since(0))
        finally:
            store.close()


def test_a_store_in_an_absent_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="can't be used: No such file or directory"):
        Store(str(tmp_path / "absent" / "run.sqlite"), "test")


def test_a_path_that_is_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder; name a file"):
        Store(str(tmp_path), "test")


def test_a_folder_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    if os.geteuid() == 0:
        folder = Path("/proc")  # where not even root may
    with pytest.raises(StoreError, match=r"can't be used: (No such file|Permission denied)"):
        Store(str(folder / "run.sqlite"), "test")


def test_a_store_that_may_only_be_read_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(str(path), "test").close()
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3.dbapi2, "connect", lambda at, **o: connect(f"{Path(at).as_uri()}?mode=ro", uri=True, **o)
    )
    with pytest.raises(StoreError, match="can't be used: "):
        Store(str(path), "test")


def test_a_store_that_is_refused_is_not_kept_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"no database at all" * 100)
    opened = []
    connect = sqlite3.connect

    def watched(*arguments: Any, **options: Any) -> sqlite3.Connection:
        opened.append(connect(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3.dbapi2, "connect", watched)
    with pytest.raises(StoreError):
        Store(str(path), "test")
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")


def test_a_second_coordinator_is_refused_and_leaves_the_first_alone(path: Path, store: Store) -> None:
    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            Store(str(path), "test")
        assert str(caught.value) == f"the store {path} is in use: another coordinator serves this run"
    store.write([accepted(1, 0)])


def test_no_lock_is_left_behind(path: Path, store: Store) -> None:
    assert len(list(path.parent.glob("*.lock"))) == 1
    store.close()
    assert list(path.parent.glob("*.lock")) == []


def test_a_lock_left_by_a_killed_process_is_no_hindrance(path: Path) -> None:
    path.with_name("run.sqlite.lock").touch()
    store = Store(str(path), "test")
    with pytest.raises(StoreError, match="is in use"):
        Store(str(path), "test")
    store.close()


def test_the_store_is_read_while_a_transaction_is_under_way(store: Store) -> None:
    store.write([accepted(1, 0)])
    with store._database.write() as connection:
        connection.exec_driver_sql("DELETE FROM accepted")
        assert store.is_accepted(1, "d0")
    assert not store.is_accepted(1, "d0")


def test_a_copy_is_made_while_writing_goes_on(path: Path, store: Store) -> None:
    store.write([Checkpoint(0, 0, np.ones(3))])
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            store.write([accepted(written + 1, written, bytes(5000))])
            written += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copies = [path.with_name(f"copy-{i}.sqlite") for i in range(5)]
        for copy in copies:
            copy_sqlite(path, copy)
    finally:
        stop.set()
        writer.join()
    counts = []
    for copy in copies:
        other = Store(str(copy), "test")
        counts.append(len(list(other.accepted_since(0))))
        assert other.checkpoint() is not None
        other.close()
    assert counts == sorted(counts)
    assert 0 < counts[-1] <= written


def test_a_copy_replaces_nothing(path: Path, store: Store) -> None:
    target = path.with_name("copy.sqlite")
    target.write_bytes(b"precious")
    with pytest.raises(StoreError, match="exists already; a copy of a store replaces nothing"):
        copy_sqlite(path, target)
    assert target.read_bytes() == b"precious"


def test_what_is_no_store_is_not_copied(path: Path) -> None:
    sqlite3.connect(path).execute("CREATE TABLE recipe (name TEXT)").connection.close()
    with pytest.raises(StoreError, match="is no store of this coordinator's"):
        copy_sqlite(path, path.with_name("copy.sqlite"))
    with pytest.raises(StoreError, match="can't be copied"):
        copy_sqlite(path.with_name("absent.sqlite"), path.with_name("copy.sqlite"))
    assert sorted(file.name for file in path.parent.glob("*.sqlite*")) == ["run.sqlite"]


def test_a_store_is_not_made_by_who_only_looks(path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store at"):
        Store(str(path), "test", create=False)
    assert list(path.parent.glob("run*")) == []


def test_a_copy_that_can_not_be_written_is_told_and_leaves_nothing(path: Path, store: Store) -> None:
    with pytest.raises(StoreError, match=r"there is no folder .*absent for copy\.sqlite"):
        copy_sqlite(path, path.parent / "absent" / "copy.sqlite")
    assert sorted(file.name for file in path.parent.glob("copy*")) == []


def killed_with_a_log(path: Path) -> None:
    """A store at ``path`` whose coordinator was killed: SQLite's log is left beside it."""
    program = (
        "import os, signal, sys; import numpy as np; from coordinator.store import *; "
        "store = Store(sys.argv[1], 'test'); "
        "[store.write([Checkpoint(n, n, np.full(4000, n))]) for n in range(20)]; os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert path.with_name(path.name + "-wal").stat().st_size > 0


def newest(path: Path) -> int:
    store = Store(str(path), "test", create=False)
    checkpoint = store.checkpoint()
    damage = store.damage()
    store.close()
    assert checkpoint is not None
    assert damage == ""
    return checkpoint.updates


def test_a_restored_store_is_what_the_copy_was_and_the_one_before_is_kept(path: Path, store: Store) -> None:
    copy = path.with_name("copy.sqlite")
    store.write([Checkpoint(3, 2, np.ones(4))])
    copy_sqlite(path, copy)
    store.close()
    killed_with_a_log(path)
    kept = restore_sqlite(copy, path)
    assert kept is not None
    assert (newest(path), newest(kept), newest(copy)) == (3, 19, 3)
    assert sorted(file.name for file in path.parent.iterdir()) == ["copy.sqlite", "run.sqlite", "run.sqlite.before"]
    with pytest.raises(StoreError, match=r"run\.sqlite\.before is there, of an earlier restoration"):
        restore_sqlite(copy, path)


def test_a_store_is_restored_where_there_is_none(path: Path, store: Store) -> None:
    store.write([Checkpoint(3, 2, np.ones(4))])
    copy_sqlite(path, path.with_name("copy.sqlite"))
    assert restore_sqlite(path.with_name("copy.sqlite"), path.with_name("other.sqlite")) is None
    assert newest(path.with_name("other.sqlite")) == 3


def test_what_can_not_be_restored_leaves_the_store_as_it_was(path: Path, store: Store) -> None:
    copy = path.with_name("copy.sqlite")
    store.write([Checkpoint(3, 2, np.ones(4000))])
    copy_sqlite(path, copy)
    with pytest.raises(StoreError, match="is in use: another coordinator serves this run"):
        restore_sqlite(copy, path)
    store.close()
    data = bytearray(copy.read_bytes())
    data[len(data) // 2 : -4096] = bytes(len(data) - len(data) // 2 - 4096)
    copy.write_bytes(data)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"copy\.sqlite"):
        restore_sqlite(copy, path)
    for absent in (path.with_name("absent.sqlite"), path.parent / "absent" / "copy.sqlite"):
        with pytest.raises(StoreError, match="can't be copied"):
            restore_sqlite(absent, path)
    with pytest.raises(StoreError, match="there is no folder"):
        restore_sqlite(path, path.parent / "absent" / "run.sqlite")
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["copy.sqlite", "run.sqlite"]


def test_a_store_is_in_use_by_whatever_name(path: Path, store: Store) -> None:
    link = path.with_name("link.sqlite")
    link.symlink_to(path.name)
    with pytest.raises(StoreError, match="is in use: another coordinator serves this run"):
        Store(str(link), "test")


def test_every_commit_reaches_the_disk(store: Store) -> None:
    writer = store._database._writer
    assert writer.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    assert writer.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2, "FULL"


def test_a_full_disk_is_told_and_what_was_written_stays(path: Path, store: Store) -> None:
    store.write([accepted(1, 0)])
    writer = store._database._writer
    pages = writer.exec_driver_sql("PRAGMA page_count").scalar_one()
    writer.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    writer.rollback()
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as caught:
            store.write([accepted(2, 1, bytes(1_000_000))])
        assert str(caught.value) == f"the store {path} can't be used: database or disk is full"
    assert list(store.accepted_since(0)) == [accepted(1, 0)]
    writer.exec_driver_sql("PRAGMA max_page_count=100000")
    writer.rollback()
    store.write([accepted(2, 1, bytes(1_000_000))])
    assert [row.work for row in store.accepted_since(0)] == [1, 2]


def test_a_transaction_cut_off_by_the_processs_end_leaves_nothing(path: Path) -> None:
    program = (
        "import os, sys; from tests.coordinator.test_sqlite import *; "
        "store = Store(sys.argv[1], 'test'); store.write([Issued(1, 'd0', 'train', 0, 8, 1.0)]); "
        "store.write([accepted(1, 0)]); context = store._database.write(); connection = context.__enter__(); "
        "connection.exec_driver_sql('DELETE FROM accepted'); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], timeout=60, check=False)
    assert done.returncode == 9
    store = Store(str(path), "test")
    rows, work = list(store.accepted_since(0)), store.open_work()
    store.close()
    assert rows == [accepted(1, 0)]
    assert work == []


def test_another_programs_database_is_refused_and_left_as_it_is(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE recipe (name TEXT)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="is another program's database"):
        Store(str(path), "test")
    assert path.read_bytes() == before
