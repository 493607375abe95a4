"""A store in an SQLite file: durable, alone with its file, and how a bad file is told."""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.databases import LOG_BYTES, _FileLock, copy_sqlite, restore_sqlite, snapshot
from coordinator.entries import Accepted, Checkpoint, Evaluated, Issued, Known, Setting
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


SUMMARY = {"updates": 1, "version": 1, "before": 0.5, "after": 0.25}


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
        database.execute("INSERT INTO evaluation VALUES (1, 1, ?, 12.5)", (json.dumps(SUMMARY),))
    database.close()
    for _ in range(2):  # the second time it is of this format
        store = Store(str(path), "test")
        store.bind({"run": "kitchen"})
        checkpoint = store.checkpoint()
        assert checkpoint is not None
        assert (checkpoint.updates, checkpoint.version, checkpoint.weights.tolist()) == (1, 1, [0.5, -0.0])
        assert list(store.accepted_since(0)) == [replace(accepted(7, 1), version=0, tau=2)]
        assert store.open_work() == [Issued(9, "d1", "train", 1, 8, 99.5, 12)]
        assert store.evaluations() == [Evaluated(1, 1, SUMMARY, 12.5)]
        known = [(device.device, device.accepted, device.seen) for device in store.devices()]
        assert known == [("d0", 1, 12.5), ("d1", 0, 0.0)]
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


NOBODY = 65534
AS_NOBODY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


def as_nobody(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python's ``program``, with the store's modules, as another user."""
    head = "import os, sys; from coordinator.databases import _FileLock, snapshot; from coordinator.errors import *; "
    head += "from pathlib import Path; from coordinator.store import Store; "
    drop = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); "
    command = [sys.executable, "-c", head + drop + program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A store that is to be in a folder where everybody may write, and delete only what is his own."""
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        Path(folder).chmod(0o1777)
        yield Path(folder) / "run.sqlite"


@AS_NOBODY
def test_a_lock_left_by_another_users_process_is_no_hindrance(shared: Path) -> None:
    done = as_nobody("_FileLock(Path(sys.argv[1])); os._exit(9)", shared)
    assert done.returncode == 9, done.stderr
    assert shared.with_name("run.sqlite.lock").stat().st_uid == NOBODY
    Store(str(shared), "test").close()
    shared.unlink()
    _FileLock(shared)  # and the other way round; it goes with the object's file
    program = "store = Store(sys.argv[1], 'test'); store.close(); print('used')"
    assert "is in use: another coordinator" in as_nobody(program, shared).stderr
    lock = shared.with_name("run.sqlite.lock")
    lock.unlink()
    lock.touch(0o644)
    done = as_nobody(program, shared)
    assert done.stdout == "used\n", done.stderr


@AS_NOBODY
def test_a_lock_that_can_not_be_opened_is_told_with_its_owner(shared: Path) -> None:
    lock = shared.with_name("run.sqlite.lock")
    lock.touch(0o600)
    done = as_nobody("Store(sys.argv[1], 'test')", shared)
    assert f"its lock {lock} is of the user root; delete it if no coordinator serves this run" in done.stderr


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
def test_a_store_and_its_copies_are_their_owners_alone_whatever_the_umask(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = Store(str(path), "test")
        store.write([accepted(1, 0)])
        copy_sqlite(path, path.with_name("copy.sqlite"))
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir() if file.suffix != ".lock"}
        store.close()
        restore_sqlite(path.with_name("copy.sqlite"), path)
    finally:
        os.umask(before)
    assert set(modes) == {"run.sqlite", "run.sqlite-wal", "run.sqlite-shm", "copy.sqlite"}
    assert set(modes.values()) == {0o600}
    assert path.stat().st_mode & 0o777 == 0o600


def test_sqlites_log_is_small_again_once_a_reader_has_gone(path: Path, store: Store) -> None:
    store.write([accepted(1, 0)])
    log = path.with_name("run.sqlite-wal")
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM accepted").fetchone()
    for number in range(2, 42):
        store.write([accepted(number, number, bytes(1 << 20))])
    assert log.stat().st_size > 40 << 20
    reader.execute("COMMIT")
    reader.close()
    for number in range(42, 46):
        store.write([accepted(number, number)])
    assert log.stat().st_size <= LOG_BYTES


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_whatever_does_not_fit_on_a_full_disk_is_told_as_such(small_disk: Path) -> None:
    path = small_disk / "run.sqlite"
    store = Store(str(path), "test")
    store.write([accepted(1, 0)])
    fill(small_disk / "filler")
    with pytest.raises(StoreUnavailable) as caught:
        store.write([accepted(2, 1, bytes(1_000_000))])
    assert str(caught.value) == f"the store {path} can't be used: the disk of {small_disk} is full"
    (small_disk / "filler").unlink()
    store.write([accepted(2, 1, bytes(1_000_000))])
    store.close()
    fill(small_disk / "filler")
    with pytest.raises(StoreUnavailable, match=f"the disk of {small_disk} is full"):  # where there is no log yet
        Store(str(path), "test")


def test_a_back_up_that_does_not_fit_leaves_nothing(path: Path, store: Store, small_disk: Path) -> None:
    store.write([Checkpoint(0, 0, np.zeros(1_000_000))])
    copy = small_disk / "copy.sqlite"
    with pytest.raises(StoreError) as caught:
        copy_sqlite(path, copy)
    assert str(caught.value) == f"{path} can't be copied to {copy}: the disk of {small_disk} is full"
    assert list(small_disk.iterdir()) == []


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


LIMITED = r"no file of this process may grow beyond 49,152 bytes \(ulimit -f\)"


def test_a_limit_of_files_sizes_is_told_as_such(path: Path, store: Store) -> None:
    with files_of_at_most(49152), pytest.raises(StoreUnavailable, match=f"can't be used: .*{LIMITED}"):
        store.write([Checkpoint(0, 0, np.zeros(100_000))])
    store.write([Checkpoint(0, 0, np.zeros(100_000))])
    store.close()
    before = sorted(path.parent.iterdir())
    copy = path.with_name("copy.sqlite")
    for make in (copy_sqlite, restore_sqlite):
        with files_of_at_most(49152), pytest.raises(StoreError, match=f"can't be copied to {copy}: .*{LIMITED}"):
            make(path, copy)
        with files_of_at_most(49152), pytest.raises(StoreError, match=f"to be checked: .*{LIMITED}"), snapshot(path):
            pass
    assert sorted(path.parent.iterdir()) == before


def test_a_store_that_can_not_be_made_leaves_nothing(tmp_path: Path) -> None:
    with files_of_at_most(8192), pytest.raises(StoreUnavailable, match=r"beyond 8,192 bytes \(ulimit -f\)"):
        Store(str(tmp_path / "new.sqlite"), "test")
    assert list(tmp_path.iterdir()) == []


def test_a_back_up_leaves_nothing_beside_a_store_that_nobody_serves(path: Path, store: Store) -> None:
    store.write([Checkpoint(0, 0, np.zeros(10))])
    store.close()
    copy = path.with_name("copy.sqlite")
    copy_sqlite(path, copy)
    assert sorted(path.parent.iterdir()) == sorted([path, copy])


def test_what_an_interrupted_back_up_has_left_goes_with_the_next(path: Path, store: Store) -> None:
    copy = path.with_name("copy.sqlite")
    for suffix in ("", "-journal", "-wal"):
        copy.with_name(f"copy.sqlite.unfinished{suffix}").write_bytes(b"half" * 1000)
    store.write([Checkpoint(3, 2, np.ones(4))])
    copy_sqlite(path, copy)
    assert sorted(file.name for file in path.parent.glob("copy*")) == ["copy.sqlite"]
    assert newest(copy) == 3


@pytest.mark.parametrize(
    "change", [{"weights": np.array([1, 1, 1, 1.0000001]).tobytes()}, {"weights": "text"}, {"updates": 4}]
)
def test_a_checkpoint_that_has_changed_on_the_disk_is_found_when_it_is_read(
    path: Path, store: Store, change: dict[str, Any]
) -> None:
    store.write([Checkpoint(3, 2, np.ones(4))])
    ((name, value),) = change.items()
    with sqlite3.connect(path) as database:
        assert database.execute(f"UPDATE checkpoint SET {name} = ?", (value,)).rowcount == 1
    database.close()
    with pytest.raises(
        StoreError,
        match=r"is damaged: (the checkpoint of version 2 is not what was written|.* 2: weights is 'text'.*); .*restore",
    ):
        store.checkpoint()


@pytest.mark.parametrize(
    ("name", "value"), [("rho", -1.0), ("rho", "much"), ("rho", 1e999), ("private", -3), ("private", "many")]
)
def test_a_damaged_cost_of_private_updates_is_told_and_counts_for_no_less(
    path: Path, store: Store, name: str, value: object
) -> None:
    store.write([Known("d0", "train", "b1", "linux", 0, 1, 0, 0, 0, 0, "", 1.0, 3, 0.5)])
    assert [(known.private, known.rho) for known in store.devices()] == [(3, 0.5)]
    with sqlite3.connect(path) as database:
        assert database.execute(f"UPDATE device SET {name} = ?", (value,)).rowcount == 1
    database.close()
    with pytest.raises(StoreError, match=f"is damaged: table device, device 'd0': {name} is "):
        store.devices()


def test_json_that_is_nested_without_an_end_is_told(path: Path, store: Store) -> None:
    store.write([Setting("learning.alpha", 0.5)])
    with sqlite3.connect(path) as database:
        assert database.execute("UPDATE setting SET value = ?", ("[" * 100_000,)).rowcount == 1
    database.close()
    with pytest.raises(
        StoreError, match=r"is damaged: table setting, name 'learning.alpha': value is '\[+\.\.\.: maximum"
    ):
        store.settings()


def test_a_store_of_format_4_gets_checksums(path: Path) -> None:
    store = Store(str(path), "test")
    store.write([Checkpoint(3, 2, np.ones(4)), Checkpoint(5, 4, np.zeros(4), evaluated=True)])
    store.close()
    with sqlite3.connect(path) as database:  # as it was
        database.execute("ALTER TABLE checkpoint DROP COLUMN crc")
        database.execute("UPDATE property SET value = '4' WHERE name = 'format'")
        database.execute("PRAGMA user_version=4")
    database.close()
    store = Store(str(path), "test")
    first, last = store.checkpoint(3), store.checkpoint()
    store.close()
    assert first is not None
    assert last is not None
    assert (first.weights.tolist(), last.updates, last.evaluated) == ([1, 1, 1, 1], 5, True)


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
        while not written:
            time.sleep(0.001)
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


def test_a_store_is_not_restored_from_itself(path: Path, store: Store) -> None:
    store.write([Checkpoint(3, 2, np.ones(4))])
    store.close()
    (link := path.with_name("link.sqlite")).symlink_to(path)
    before = path.read_bytes()
    for copy in (path, link):
        with pytest.raises(StoreError, match="is the store itself; name a copy of it"):
            restore_sqlite(copy, path)
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["link.sqlite", "run.sqlite"]


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


FOREIGN = {
    "a table": "CREATE TABLE recipe (name TEXT)",
    "a version": "CREATE TABLE recipe (name TEXT); PRAGMA user_version=4",
    "an old version": "CREATE TABLE recipe (name TEXT); PRAGMA user_version=2",
    "its own id": "PRAGMA application_id=7; CREATE TABLE accepted (work INTEGER); PRAGMA user_version=2",
    "only its own id": "PRAGMA application_id=7; PRAGMA user_version=1",
    "properties": "CREATE TABLE property (name TEXT, value TEXT); INSERT INTO property VALUES ('format', '4')",
    "other properties": "CREATE TABLE property (id INTEGER); CREATE TABLE accepted (work INTEGER)",
    "another format": "CREATE TABLE property (name TEXT, value TEXT); CREATE TABLE accepted (work INTEGER); "
    "INSERT INTO property VALUES ('format', '\"jpeg\"')",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_another_programs_database_is_refused_and_left_as_it_is(path: Path, kind: str) -> None:
    other = sqlite3.connect(path)
    other.executescript(FOREIGN[kind])
    other.close()
    before = path.read_bytes()
    for create in (True, False):
        with pytest.raises(StoreError, match="is another program's database"):
            Store(str(path), "test", create=create)
    assert path.read_bytes() == before
