"""What `runs check` finds in a store, and what a coordinator does that is to go on with it."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, BigInteger, Boolean, Double, Integer, LargeBinary, Text

from coordinator import schema
from coordinator.errors import CoordinatorError, StoreError
from coordinator.replay import check, model_of
from coordinator.store import Store

from .driver import MODES, Driver

pytestmark = pytest.mark.usefixtures("compiled")

INFINITE = float("inf")
# Values that no column of a type has, whatever its range.
WRONG: dict[type, list[Any]] = {
    Integer: [-1, 2**40, 1.5, "text", b"bytes", None],
    BigInteger: [-1, 2**40, 1.5, "text", b"bytes", None],
    Double: [-1.0, INFINITE, -INFINITE, 1e300, "text", b"bytes", None],
    Text: [b"bytes", None],
    LargeBinary: ["text", 5, b""],
    Boolean: [2, -1, 0.5, "text", b"bytes", None],
    JSON: ["{", "", "[" * 100_000, b"bytes", None],
}
# What a column can't hold though it is of its type.
OF_COLUMNS: dict[str, list[Any]] = {
    "property.name": ["another", ""],
    "property.value": ['{"a": 1}', "[]", "null", "1e999", "7"],
    "setting.name": ["learning.alhpa", "run.seed", "broker.host", ""],
    "setting.value": ['"text"', "-1", "1e999", "NaN", "[]", "null"],
    "checkpoint.weights": [b"abc", bytes(8), bytes(16)],
    "checkpoint.crc": [7],
    "checkpoint.updates": [7],
    "checkpoint.version": [7],
    "accepted.updates": [3],
    "accepted.version": [3],
    "accepted.tau": [3],
    "accepted.weight": [0.5, 2.0],
    "accepted.moved": [0],
    "accepted.bits": [5, 16],
    "accepted.gains": ["[]", "[1]", "5", '{"a": 1}', "[0, 1, 1, 1]", "[1.5, 1, 1, 1]", "null"],
    "accepted.delta": [b"abc"],
    "accepted.kept": [1, 10**6],
    "accepted.scale": [0.5, 2.0],
    "accepted.combine": ["", "best"],
    "accepted.device": ["", "a/b", "a" * 33],
    "issued.device": ["", "a/b", "unknown"],
    "issued.kind": ["", "predict"],
    "issued.version": [99],
    "issued.bits": [5],
    "evaluation.updates": [99, 3],
    "evaluation.version": [99, 3],
    "evaluation.summary": [
        "[]",
        "{}",
        "null",
        "5",
        '{"updates": 5, "version": 5, "before": NaN, "after": 1}',
        '{"updates": 5, "version": 5, "before": 1, "after": 1, "losses": {"e0": "much"}}',
        '{"updates": 5, "version": 5, "before": 1, "after": 1, "losses": [1]}',
        '{"updates": 4, "version": 4, "before": 1, "after": 1}',
    ],
    "device.device": ["", "a/b"],
    "device.role": ["", "a" * 17],
    "event.updates": [99],
    "event.version": [99],
    "event.kind": ["", "a" * 33],
}


# What can be seen in the weights alone, by column.
WITHOUT_A_ROW = dict.fromkeys(("accepted.weight", "accepted.scale"), "version 9 is not what led to it") | dict.fromkeys(
    ("checkpoint.updates", "checkpoint.version", "checkpoint.weights", "checkpoint.crc"), "the checkpoint of version"
)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with rows in every table."""
    path = tmp_path_factory.mktemp("healthy") / "run.sqlite"
    driver = Driver(path, evaluation={"every": 5})
    for name in ("d0", "d1"):
        driver.hello(name)
    driver.hello("e0", role="evaluate")
    for count in range(12):
        driver.advance()
        for work in [work for work in driver.run.book.open.values() if work.kind == "evaluate"]:
            found = {"version": work.version, "before": 2.0, "after": 1.0, "queries": 5}
            driver.send("e0", {"work": work.id, "evaluation": found})
        work = next(work for work in driver.run.book.open.values() if work.kind == "train")
        driver.answer(work.device, seed=count)
        driver.commit()
        if count == 8:
            driver.store.write([driver.run.checkpoint()])
    driver.run.change({"learning.alpha": 0.25})
    driver.run.roll_back(11)
    driver.commit()
    driver.advance()
    driver.close()
    return path


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose rows of accepted updates are all after its last checkpoint."""
    path = tmp_path_factory.mktemp("replayed") / "run.sqlite"
    driver = Driver(path)
    for name in ("d0", "d1"):
        driver.hello(name)
    for count in range(12):
        driver.advance()
        driver.answer(next(iter(driver.run.book.open.values())).device, seed=count)
    driver.commit()
    driver.close()
    return path


def rewrite(path: Path, statement: str, *values: Any) -> None:
    """Change the store at ``path``, whatever its columns are to hold."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(statement, values)
    database.close()


def loosened(healthy: Path, path: Path, table: str) -> Path:
    """Return a copy of ``healthy`` at ``path`` whose ``table`` takes any value anywhere."""
    shutil.copy(healthy, path)
    database = sqlite3.connect(path, isolation_level=None)
    (made,) = database.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone()
    database.execute("PRAGMA writable_schema = ON")
    loose = made.replace("NOT NULL", "")
    database.execute("UPDATE sqlite_master SET sql = ? WHERE type = 'table' AND name = ?", (loose, table))
    database.close()
    return path


def checked(path: Path) -> int:
    store = Store(str(path), "test", create=False)
    try:
        return check(store, model_of(store))
    finally:
        store.close()


def complaint(path: Path) -> str:
    """Return what the check has against the store at ``path``; empty if nothing."""
    try:
        checked(path)
    except StoreError as error:
        return str(error)
    return ""


def columns() -> list[str]:
    return [f"{table.name}.{column.name}" for table in schema.metadata.sorted_tables for column in table.c]


def damages(name: str) -> list[Any]:
    table, column = name.split(".")
    found = schema.metadata.tables[table].c[column]
    wrong = next(values for kind, values in WRONG.items() if isinstance(found.type, kind))
    return [value for value in wrong if not (value is None and found.nullable)] + OF_COLUMNS.get(name, [])


def damage(healthy: Path, path: Path, name: str, value: Any) -> bool:
    """Put ``value`` into the column of one row; whether SQLite lets that be at all, and it is no longer what it was."""
    table, column = name.split(".")
    loosened(healthy, path, table)
    database = sqlite3.connect(path, isolation_level=None)
    try:
        before = database.execute(f"SELECT {column} FROM {table}").fetchall()
        middle = f"(SELECT rowid FROM {table} ORDER BY rowid LIMIT 1 OFFSET (SELECT count(*) / 2 FROM {table}))"
        database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = {middle}", (value,))
        return repr(database.execute(f"SELECT {column} FROM {table}").fetchall()) != repr(before)
    except sqlite3.IntegrityError:  # the key of a table, which SQLite holds to its type
        return False
    finally:
        database.close()


def test_a_healthy_store_is_one(healthy: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(healthy, tmp_path / "run.sqlite"))
    assert checked(path) == 10, "not those since the last checkpoint before the rollback"


@pytest.mark.parametrize(
    "tables",
    [
        *({"learning": learning} for learning in MODES.values()),
        {"learning": {"bits": 4, "top": 0.25}},
        {"learning": {"bits": 16, "schedule": "cosine", "alpha": 1.0, "staleness": "hinge"}},
        {"learning": MODES["asynchronous"], "guards": {"buffer": 3, "combine": "median", "reputation": True}},
        {"journal": {"history": 1, "rows": 1}, "run": {"rounds": 0}},
        {"journal": {"history": 0, "rows": 0}, "run": {"rounds": 0}},
        {"run": {"rounds": 40}},
    ],
    ids=lambda tables: ", ".join(f"{key} {value}" for table in tables.values() for key, value in table.items()),
)
def test_healthy_stores_of_all_kinds_pass(
    tables: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.run.CHECKPOINT_EVERY", 8)
    path = tmp_path / "run.sqlite"
    updates = 0
    for start in range(4):  # each time after a crash
        driver = Driver(path, evaluation={"every": 5}, **tables)
        for name in ("d0", "d1", "d2"):
            driver.hello(name, boot=f"b{start}", platform="linux \u00e4" * 20, ram=5000)
        driver.hello("e0", role="evaluate", boot=f"b{start}")
        for _ in range(10):
            driver.now += 1
            driver.advance()
            for work in list(driver.run.book.open.values()):
                if work.kind == "evaluate":
                    found = {"version": work.version, "before": 2, "after": 1e9, "queries": 5}
                    driver.send("e0", {"work": work.id, "evaluation": found})
                elif driver.run.rounds_left != 0:
                    driver.answer(work.device, seed=driver.run.updates + 1)
        driver.commit()
        assert driver.run.updates > updates
        updates = driver.run.updates
        if start == 1:
            driver.run.quarantine("d2", "a broken sensor, " * 50)
            driver.run.change({"guards.clip": 5.0, "learning.alpha": 0.125, "guards.trusted": None})
        if start == 2 and driver.run.version > 1:
            driver.run.roll_back(driver.store.checkpoint_versions()[0][0])
            driver.run.forget("d2")
        driver.commit()
        driver.close()
        checked(path)


@pytest.mark.parametrize("name", columns())
def test_damage_is_reported_with_its_table_row_and_column(name: str, healthy: Path, tmp_path: Path) -> None:
    table = name.split(".")[0]
    done = 0
    for number, value in enumerate(damages(name)):
        path = tmp_path / f"{number}.sqlite"
        if not damage(healthy, path, name, value):
            continue
        done += 1
        text = complaint(path)
        assert f"is damaged: table {table}" in text or f"is damaged: {WITHOUT_A_ROW.get(name)}" in text, (value, text)
        assert "\n" not in text
    assert done


def go_on(path: Path, **tables: dict[str, Any]) -> None:
    """Go on with the run at ``path``, which is refused in a sentence or works."""
    try:
        driver = Driver(path, **tables)
    except CoordinatorError:
        return
    try:
        for device in ("d0", "d1"):
            driver.hello(device, boot="b2")
        driver.now += 100  # whoever has work in the store may not be there any more
        for _ in range(3):
            driver.advance()
            driver.answer(next(iter(driver.run.book.open.values())).device, seed=driver.run.updates)
        driver.commit()
        driver.store.write([driver.run.checkpoint()])
        driver.run.status("running")
    finally:
        driver.close()


@pytest.mark.parametrize("name", columns())
def test_who_goes_on_with_a_damaged_store_refuses_or_goes_on(name: str, healthy: Path, tmp_path: Path) -> None:
    for number, value in enumerate(damages(name)):
        path = tmp_path / f"{number}.sqlite"
        if damage(healthy, path, name, value):
            go_on(path, evaluation={"every": 5})


@pytest.mark.parametrize("reputation", [False, True])
@pytest.mark.parametrize("name", [name for name in columns() if name.startswith("accepted.")])
def test_who_replays_a_damaged_row_refuses_or_goes_on(
    name: str, reputation: bool, replayed: Path, tmp_path: Path
) -> None:
    for number, value in enumerate(damages(name)):
        path = tmp_path / f"{number}.sqlite"
        if damage(replayed, path, name, value):
            go_on(path, guards={"reputation": reputation})


@pytest.mark.parametrize("table", [table.name for table in schema.metadata.sorted_tables])
def test_a_table_that_is_gone_is_reported(table: str, healthy: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(healthy, tmp_path / "run.sqlite"))
    rewrite(path, f"DROP TABLE {table}")
    with pytest.raises(StoreError, match=f"is damaged: (there is no )?table {table}"):
        checked(path)


@pytest.mark.parametrize("name", [c for c in columns() if c not in ("property.name", "property.value")])
def test_a_column_that_is_gone_is_reported(name: str, healthy: Path, tmp_path: Path) -> None:
    table, column = name.split(".")
    path = Path(shutil.copy(healthy, tmp_path / "run.sqlite"))
    rewrite(path, "DROP INDEX accepted_updates")
    rewrite(path, f"ALTER TABLE {table} RENAME COLUMN {column} TO elsewhere")
    with pytest.raises(StoreError, match=f"is damaged: table {table} has no column {column}"):
        checked(path)


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("DELETE FROM property WHERE name = 'format'", "no row with the format"),
        ("UPDATE property SET value = '1e999' WHERE name = 'format'", "name 'format': value is"),
        ("UPDATE property SET value = 'text' WHERE name = 'format'", "name 'format': value is"),
        ("DELETE FROM property WHERE name = 'weights'", "no row with the name 'weights'"),
        ("UPDATE property SET value = '[[\"input\", {}]]' WHERE name = 'model'", "name 'model' or 'weights'"),
        ("UPDATE property SET value = '[]' WHERE name = 'weights'", "name 'model' or 'weights'"),
        ("UPDATE property SET value = '[]' WHERE name = 'run'", "name 'run': value is"),
        ("DELETE FROM accepted WHERE updates = 6", "update 6 is missing, or there twice"),
        ("DELETE FROM accepted", "the updates before the checkpoint at 12 are missing"),
        ("UPDATE accepted SET delta = NULL WHERE updates = 6", "delta is absent"),
        ("UPDATE checkpoint SET evaluated = 1", "evaluated is true of all"),
        ("DELETE FROM event WHERE kind = 'rollback'", "version"),
        ("DELETE FROM device", "device is 'd.', which is not in table device"),
        ("INSERT INTO issued SELECT work, device, 'train', version, bits, at, NULL FROM accepted", "in table accepted"),
    ],
)
def test_rows_that_do_not_fit_one_another_are_reported(
    statement: str, complaint: str, healthy: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(healthy, tmp_path / "run.sqlite"))
    rewrite(path, statement)
    with pytest.raises(StoreError, match=complaint):
        checked(path)


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        (["checkpoint"], "table checkpoint has no row of the run, and table accepted has"),
        (["checkpoint", "accepted"], "table checkpoint has no row of the run, and table device has"),
        (["checkpoint", "accepted", "device", "evaluation", "event", "issued"], "and table setting has"),
        (["property"], "table property has no row of the run, and table checkpoint has"),
        (["property", "checkpoint"], "table property has no row of the run, and table accepted has"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_store_whose_beginning_is_gone_is_damaged_and_not_begun_anew(
    tables: list[str], complaint: str, healthy: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(healthy, tmp_path / "run.sqlite"))
    for table in tables:
        rewrite(path, f"DELETE FROM {table}" + " WHERE name != 'format'" * (table == "property"))
    rows = contents(path)
    for take_up in (checked, Driver):
        with pytest.raises(StoreError, match=f"is damaged: .*{complaint}"):
            take_up(path)
    assert contents(path) == rows


def test_a_start_that_was_cut_off_before_its_first_checkpoint_goes_on(healthy: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(healthy, tmp_path / "run.sqlite"))
    for table in schema.metadata.sorted_tables:
        if table.name != "property":
            rewrite(path, f"DELETE FROM {table.name}")
    assert "holds no run yet" in complaint(path)
    driver = Driver(path)
    assert driver.store.checkpoint_versions() == [(0, 0)]
    driver.close()


def contents(path: Path) -> list[list[Any]]:
    """Return all rows of the store at ``path``, by table."""
    database = sqlite3.connect(path)
    rows = [database.execute(f"SELECT * FROM {table.name}").fetchall() for table in schema.metadata.sorted_tables]
    database.close()
    return rows


def test_infinite_weights_are_reported_though_their_checksum_is_right(healthy: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(healthy, tmp_path / "run.sqlite"))
    database = sqlite3.connect(path, isolation_level=None)
    version, updates, weights = database.execute("SELECT version, updates, weights FROM checkpoint").fetchone()
    weights = bytes.fromhex("000000000000f07f") + weights[8:]
    crc = schema.checksum(version, updates, weights)
    database.execute("UPDATE checkpoint SET weights = ?, crc = ? WHERE version = ?", (weights, crc, version))
    database.close()
    with pytest.raises(StoreError, match=f"table checkpoint, version {version}: weights are not all finite numbers"):
        checked(path)
