"""What must survive: one run in one SQLite file (WAL, synchronous=FULL).

Checkpoints of the float weights, and after each of them the packed deltas that were accepted since: the state is the
last checkpoint with its deltas replayed in order, the same to the last bit.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import StoreError
from .rules import Weights

SCHEMA = 2

_TABLES = """
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
"""


@dataclass(frozen=True)
class Accepted:
    """One row of the journal: an accepted update, as it came."""

    work: int
    updates: int
    device: str
    version: int
    tau: int
    weight: float
    moved: bool
    loss: float
    samples: int
    bits: int
    gains: tuple[int, ...]
    delta: bytes
    at: float
    kept: int | None = None


@dataclass(frozen=True)
class Issued:
    """Work that was handed out and is still open."""

    work: int
    device: str
    kind: str
    version: int
    bits: int
    deadline: float
    kept: int | None = None


@dataclass(frozen=True)
class Closed:
    """Work that has ended otherwise than by an accepted update."""

    work: int


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of one version on the held-out devices."""

    updates: int
    version: int
    summary: dict[str, Any]
    at: float


@dataclass(frozen=True)
class Checkpoint:
    """Float weights after ``updates`` accepted updates."""

    updates: int
    version: int
    weights: Weights


Entry = Accepted | Issued | Closed | Evaluated | Checkpoint


class SQLiteStore:
    """The store of one run. Its methods block; `journal.Journal` calls them from a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._errors():
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5)
        try:
            with self._errors():
                self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")  # one coordinator a run
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, SCHEMA):
            advice = "update the coordinator" if found > SCHEMA else "its run can't be continued: name another store"
            raise StoreError(f"the store {self._path} has format {found}, this coordinator reads {SCHEMA}; {advice}")
        if found == 0 and self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise StoreError(f"{self._path} is another program's database; give the store another path")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        if found == 0:
            with self._transaction():
                for statement in _TABLES.split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={SCHEMA}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                text = f"the store {self._path} is in use: another coordinator serves this run"
            else:
                text = f"the store {self._path} can't be used: {error}"
            raise StoreError(text) from error
        except sqlite3.DatabaseError as error:
            raise StoreError(f"the store {self._path} is damaged or no store at all: {error}") from error

    def close(self) -> None:
        """Close the file; what was committed stays."""
        self._db.close()

    def bind(self, properties: dict[str, Any]) -> None:
        """Make this the store of a run with ``properties`` (JSON values), or raise `StoreError` if it is another's."""
        found = self.properties()
        if not found:
            rows = [(name, json.dumps(value)) for name, value in properties.items()]
            with self._errors(), self._transaction():
                self._db.executemany("INSERT INTO property VALUES (?, ?)", rows)
            return
        for name, value in properties.items():
            if found.get(name) != value:
                raise StoreError(
                    f"the store {self._path} was begun with {name} {json.dumps(found.get(name))}, now it is "
                    f"{json.dumps(value)}; give the run another name, or the store another path"
                )

    def properties(self) -> dict[str, Any]:
        """What `bind` kept."""
        with self._errors():
            return {name: json.loads(value) for name, value in self._db.execute("SELECT name, value FROM property")}

    def write(self, entries: Sequence[Entry]) -> None:
        """Write ``entries`` in one transaction; once this returns they survive a power cut."""
        with self._errors(), self._transaction():
            for entry in entries:
                self._write(entry)

    def _write(self, entry: Entry) -> None:
        match entry:
            case Accepted():
                self._db.execute(
                    "INSERT INTO accepted VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                    (
                        entry.work,
                        entry.updates,
                        entry.device,
                        entry.version,
                        entry.tau,
                        entry.weight,
                        entry.moved,
                        entry.loss,
                        entry.samples,
                        entry.bits,
                        json.dumps(entry.gains),
                        entry.delta,
                        entry.at,
                        entry.kept,
                    ),
                )
                self._db.execute("DELETE FROM issued WHERE work = ?", (entry.work,))
            case Issued():
                self._db.execute(
                    "INSERT INTO issued VALUES (?,?,?,?,?,?,?)",
                    (entry.work, entry.device, entry.kind, entry.version, entry.bits, entry.deadline, entry.kept),
                )
            case Closed():
                self._db.execute("DELETE FROM issued WHERE work = ?", (entry.work,))
            case Evaluated():
                self._db.execute(
                    "INSERT INTO evaluation VALUES (?,?,?,?)",
                    (entry.updates, entry.version, json.dumps(entry.summary), entry.at),
                )
            case Checkpoint():
                self._db.execute(
                    "INSERT OR REPLACE INTO checkpoint VALUES (?,?,?)",
                    (entry.updates, entry.version, entry.weights.astype("<f8").tobytes()),
                )
                # Only the rows since the last checkpoint still have their delta.
                self._db.execute(
                    "UPDATE accepted SET delta = NULL WHERE updates < ?1 AND updates >= "
                    "ifnull((SELECT max(updates) FROM checkpoint WHERE updates < ?1), 0)",
                    (entry.updates,),
                )
                self._db.execute("DELETE FROM checkpoint WHERE updates < ?", (entry.updates,))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def checkpoint(self) -> Checkpoint | None:
        """The last checkpoint, or None in a new store."""
        with self._errors():
            row = self._db.execute("SELECT * FROM checkpoint ORDER BY updates DESC LIMIT 1").fetchone()
        return row and Checkpoint(row[0], row[1], np.frombuffer(row[2], "<f8").astype(np.float64))

    def accepted_since(self, updates: int) -> Iterator[Accepted]:
        """The journal from the ``updates``-th update on, in order."""
        with self._errors():
            query = (
                "SELECT work, updates, device, version, tau, weight, moved, loss, samples, bits, gains, delta, at, "
                "kept "
                "FROM accepted WHERE updates >= ? ORDER BY updates"
            )
            for row in self._db.execute(query, (updates,)):
                (work, place, device, version, tau, weight, moved, loss, samples, bits, gains, delta, at, kept) = row
                yield Accepted(
                    work,
                    place,
                    device,
                    version,
                    tau,
                    weight,
                    bool(moved),
                    loss,
                    samples,
                    bits,
                    tuple(json.loads(gains)),
                    delta,
                    at,
                    kept,
                )

    def is_accepted(self, work: int, device: str) -> bool:
        """Whether the update of ``work`` by ``device`` has been taken."""
        with self._errors():
            row = self._db.execute("SELECT 1 FROM accepted WHERE work = ? AND device = ?", (work, device)).fetchone()
        return row is not None

    def open_work(self) -> list[Issued]:
        """What was handed out and, as far as is known, not yet answered."""
        with self._errors():
            return [Issued(*row) for row in self._db.execute("SELECT * FROM issued")]

    def last_work(self) -> int:
        """The highest work id on record, 0 if none."""
        with self._errors():
            return int(
                self._db.execute(
                    "SELECT max(ifnull((SELECT max(work) FROM accepted), 0), ifnull((SELECT max(work) FROM issued), 0))"
                ).fetchone()[0]
            )

    def evaluations(self) -> list[Evaluated]:
        """All evaluations, in order."""
        with self._errors():
            rows = self._db.execute("SELECT * FROM evaluation ORDER BY updates, at").fetchall()
        return [Evaluated(row[0], row[1], json.loads(row[2]), row[3]) for row in rows]
