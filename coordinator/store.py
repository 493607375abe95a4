"""What must survive: one run in one SQLite file, or in a schema of its own in a PostgreSQL database.

Checkpoints of the float weights, and the packed deltas that were accepted since: the state is the last checkpoint with
its deltas replayed in order, the same to the last bit. Devices, settings changed at run time and open work are there
as they were at the last transaction.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from . import schema
from .databases import connect, file_of, location_text, no_room
from .entries import (
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
from .errors import StoreError, StoreUnavailable

_log = logging.getLogger(__name__)

EVALUATED_KEPT = 11  # latest checkpoints of evaluated versions that are kept beyond ``history``, beside the best one


class Store:
    """The store of one run; its methods block. `write` is called from one thread, `journal.Journal`'s.

    Args:
        location: path of an SQLite file, or a URL ``postgresql://[user@]host[:port]/database``.
        run: the run's name; in PostgreSQL its schema is ``tinyreptile_`` and the name.
        history: latest updates that can be gone back over, to any version; 0: all.
        rows: accepted updates on record; 0: all.
        create: make a store where there is none.
        shown: what it is called in messages, in place of its location.

    Raises `StoreError` for a store that can't be used, each time with one sentence; `StoreUnavailable` where that may
    pass, as a full disk does.
    """

    def __init__(
        self, location: str, run: str, *, history: int = 1000, rows: int = 0, create: bool = True, shown: str = ""
    ) -> None:
        self.location = shown or location_text(location)
        self._create = create
        self._history = history
        self._rows = rows
        self._torn = False  # whether the last transaction may have been committed without our knowing
        with self._errors():
            if not create and "://" not in location and not file_of(location).is_file():
                raise StoreError(f"there is no store at {self.location}")
            self._database = connect(location, run, create)
        try:
            with self._errors():
                self._open()
        except BaseException:
            self._database.discard()
            raise

    def _open(self) -> None:
        with self._database.read() as connection:
            found = schema.found_format(connection)
        if found is None:
            raise StoreError(f"{self.location} is another program's database; give the store another path")
        if found == 0 and not self._create:
            raise StoreError(f"there is no store at {self.location}")
        if found > schema.FORMAT or 0 < found < schema.OLDEST:
            newer = found > schema.FORMAT
            advice = "update the coordinator" if newer else "its run can't be continued: name another store"
            raise StoreError(
                f"the store {self.location} has format {found}, this coordinator reads {schema.FORMAT}; {advice}"
            )
        self._database.adopt()
        if found != schema.FORMAT:
            with self._database.write() as connection:
                if found == 0:
                    schema.create(connection)
                else:
                    _log.info("the store %s is brought from format %d to %d", self.location, found, schema.FORMAT)
                    schema.upgrade(connection, found)
        with self._database.read() as connection:
            if missing := schema.missing(connection):
                raise schema.Damage(missing)
        self.checkpoint_versions()  # which are looked at whenever there is a new one

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            full = "" if "://" in self.location else no_room(error.orig, Path(self.location).resolve().parent)
            raise StoreUnavailable(f"the store {self.location} can't be used: {full or _reason(error)}") from error
        except ProgrammingError as error:  # a right is missing in PostgreSQL, say
            raise StoreError(f"the store {self.location} can't be used: {_reason(error)}") from error
        except DBAPIError as error:
            text = f"the store {self.location} is damaged or no store at all: {_reason(error)}"
            raise StoreError(text) from error
        except OSError as error:  # of its path
            raise StoreError(f"the store {self.location} can't be used: {error.strerror}") from None
        except schema.Damage as error:
            raise self.damaged(str(error)) from None

    def damaged(self, what: str) -> StoreError:
        """Return the error for a store of which ``what`` is not as it was written."""
        return StoreError(
            f"the store {self.location} is damaged: {what}; tinyreptile runs restore puts a back-up in its place"
        )

    def close(self) -> None:
        """Let go of it; what was committed stays."""
        self._database.close()

    # Writing

    def bind(self, properties: dict[str, Any]) -> None:
        """Make this the store of a run with ``properties`` (JSON values), or raise `StoreError` if it is another's."""
        self.check_beginning()
        found = self.properties()
        if not found:
            rows = [{"name": name, "value": value} for name, value in properties.items()]
            with self._errors(), self._database.write() as connection:
                connection.execute(sql.insert(schema.properties), rows)
            return
        for name, value in properties.items():
            if found.get(name) != value:
                raise StoreError(
                    f"the store {self.location} was begun with {name} {json.dumps(found.get(name))}, now it is "
                    f"{json.dumps(value)}; give the run another name, or the store another path"
                )

    def write(self, entries: Sequence[Entry]) -> None:
        """Write ``entries`` in one transaction; once this returns they survive a power cut.

        After a `StoreUnavailable` the same entries may be written again, even if they had been committed unnoticed.
        """
        try:
            with self._errors(), self._database.write() as connection:
                _Transaction(connection, self._torn).write(entries)
                if any(isinstance(entry, Checkpoint) for entry in entries):
                    self._trim(connection)
        except StoreUnavailable:
            self._torn = True
            raise
        self._torn = False

    def _trim(self, connection: sql.Connection) -> None:
        """Drop the deltas and checkpoints that nobody can go back over any more, and the oldest rows."""
        table, rows = schema.checkpoints, schema.accepted
        kept = connection.execute(sql.select(table.c.version, table.c.updates, table.c.evaluated)).all()
        newest = max(kept).updates
        oldest = newest - self._rows  # row on record
        if self._history:
            regular = [row for row in kept if not row.evaluated]
            first = min(regular).updates  # deltas before it have been dropped
            base = max((row for row in regular if row.updates <= newest - self._history), default=min(regular))
            evaluated = self._evaluated_kept(connection, kept)
            connection.execute(
                sql.update(rows).where(rows.c.updates >= first, rows.c.updates < base.updates).values(delta=None)
            )
            older = table.c.version < base.version
            connection.execute(sql.delete(table).where(older, table.c.version.not_in(evaluated)))
            connection.execute(sql.update(table).where(older, table.c.evaluated.is_(False)).values(evaluated=True))
            oldest = min(oldest, base.updates)  # nothing of the history is missing
        if self._rows:
            connection.execute(sql.delete(rows).where(rows.c.updates < oldest))

    def _evaluated_kept(self, connection: sql.Connection, kept: Sequence[Any]) -> set[int]:
        """Return the versions of ``kept`` checkpoints that stay beyond the history.

        They are the latest that were evaluated, those of them that anything came of, and of these the best on the
        held-out devices.
        """
        begun = sorted(row.version for row in kept if row.evaluated)
        table = schema.evaluations
        query = sql.select(table.c.version).where(table.c.version.in_([row.version for row in kept]))
        ended = connection.scalars(query.order_by(table.c.version)).all()
        medians = table.c.summary["median_after"].as_float()
        loss = sql.func.coalesce(medians, table.c.summary["after"].as_float())  # those of earlier releases have none
        best = connection.scalars(query.order_by(loss, table.c.version).limit(1)).all()
        return {*begun[-EVALUATED_KEPT:], *ended[-EVALUATED_KEPT:], *best}

    # Reading

    def rows(
        self, table: sql.Table, *conditions: Any, order: Sequence[Any] = (), names: Sequence[str] = (), limit: int = -1
    ) -> Iterator[dict[str, Any]]:
        """Yield rows of ``table``, each as `schema.checked`, with the columns ``names`` or all; -1: no ``limit``.

        Raises `StoreError` at the first that is damaged.
        """
        query = schema.rows_of(table, *names).where(*conditions).order_by(*order)
        if limit >= 0:
            query = query.limit(limit)
        with self._errors(), self._database.read() as connection:
            sqlite = connection.dialect.name == "sqlite"
            with connection.execution_options(yield_per=1000).execute(query) as found:
                for row in found:
                    yield schema.checked(table, row._mapping, sqlite=sqlite)

    def properties(self) -> dict[str, Any]:
        """What `bind` kept."""
        table = schema.properties
        return {row["name"]: row["value"] for row in self.rows(table, table.c.name != "format")}

    def check_beginning(self) -> None:
        """Raise `StoreError` if what a run begins with is gone, and what came of it is there: it is not new."""
        with self._errors(), self._database.read() as connection:
            if lost := schema.gone(connection):
                raise schema.Damage(lost)

    def settings(self) -> dict[str, Any]:
        """The settings that were changed while the run was going on, by ``table.key``."""
        table = schema.settings
        return {row["name"]: row["value"] for row in self.rows(table, order=[table.c.name])}

    def checkpoint(self, version: int | None = None) -> Checkpoint | None:
        """The last checkpoint, of those up to ``version``; None if there is none."""
        table = schema.checkpoints
        conditions = [] if version is None else [table.c.version <= version]
        found = list(self.rows(table, *conditions, order=[table.c.version.desc()], limit=1))
        if not found:
            return None
        row = found[0]
        if row["crc"] != schema.checksum(row["version"], row["updates"], row["weights"]):
            raise self.damaged(f"the checkpoint of version {row['version']} is not what was written")
        if len(row["weights"]) % 8:
            raise self.damaged(f"table checkpoint, version {row['version']}: weights are no row of numbers")
        weights = np.frombuffer(row["weights"], "<f8").astype(np.float64)
        if not np.isfinite(weights).all():
            raise self.damaged(f"table checkpoint, version {row['version']}: weights are not all finite numbers")
        return Checkpoint(row["updates"], row["version"], weights, row["evaluated"])

    def checkpoint_versions(self) -> list[tuple[int, int]]:
        """(version, updates) of all checkpoints, in order."""
        table = schema.checkpoints
        found = list(self.rows(table, order=[table.c.version], names=["version", "updates", "evaluated"]))
        if found and all(row["evaluated"] for row in found):
            raise self.damaged("table checkpoint: evaluated is true of all, and deltas are counted from none")
        return [(row["version"], row["updates"]) for row in found]

    def accepted_since(self, updates: int) -> Iterator[Accepted]:
        """The journal from the ``updates``-th update on, in order."""
        table = schema.accepted
        for row in self.rows(table, table.c.updates >= updates, order=[table.c.updates]):
            yield Accepted(**row | {"gains": tuple(row["gains"])})

    def first_delta(self) -> int | None:
        """Return the place of the first update whose delta is on record, or None."""
        table = schema.accepted
        query = sql.select(sql.func.min(table.c.updates)).where(table.c.delta.is_not(None))
        with self._errors(), self._database.read() as connection:
            first: int | None = connection.scalar(query)
        return first

    def is_accepted(self, work: int, device: str) -> bool:
        """Whether the update of ``work`` by ``device`` has been taken."""
        table = schema.accepted
        query = sql.select(table.c.work).where(table.c.work == work, table.c.device == device)
        with self._errors(), self._database.read() as connection:
            return connection.execute(query).first() is not None

    def open_work(self) -> list[Issued]:
        """What was handed out and, as far as is known, not yet answered."""
        return self._all(Issued, schema.issued, schema.issued.c.work)

    def devices(self) -> list[Known]:
        """All devices that were ever seen, and not forgotten since."""
        return self._all(Known, schema.devices, schema.devices.c.device)

    def evaluations(self) -> list[Evaluated]:
        """All evaluations, in order."""
        return self._all(Evaluated, schema.evaluations, schema.evaluations.c.updates, schema.evaluations.c.at)

    def events(self) -> list[Event]:
        """All that was done to the run, in order."""
        return self._all(Event, schema.events, schema.events.c.at)

    def damage(self) -> str:
        """What the database itself has to say against its files; empty if nothing."""
        with self._errors(), self._database.read() as connection:
            if connection.dialect.name != "sqlite":
                return ""  # PostgreSQL's pg_amcheck does that for a whole cluster
            found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        return "" if found == ["ok"] else str(found[0]).splitlines()[-1] + more

    def last_work(self) -> int:
        """The highest work id on record, 0 if none."""
        tables = (schema.accepted, schema.issued)
        latest = [self.rows(t, order=[t.c.work.desc()], names=["work"], limit=1) for t in tables]
        return max((row["work"] for rows in latest for row in rows), default=0)

    def _all(self, kind: Any, table: sql.Table, *order: sql.Column[Any]) -> list[Any]:
        return [kind(**row) for row in self.rows(table, order=order)]


class _Transaction:
    """Entries on their way into the tables, those of a kind together; with ``again`` some may be there already."""

    def __init__(self, connection: sql.Connection, again: bool) -> None:
        self._connection = connection
        self._dialect = connection.dialect.name
        self._again = again

    def write(self, entries: Sequence[Entry]) -> None:
        kinds: dict[type, list[Any]] = {}
        for entry in entries:
            kinds.setdefault(type(entry), []).append(entry)
        accepted, closed = kinds.get(Accepted, []), kinds.get(Closed, [])
        self._insert(schema.issued, kinds.get(Issued, []))
        self._insert(schema.accepted, accepted)
        self._delete(schema.issued.c.work, [entry.work for entry in (*accepted, *closed)])
        # The last word on a device or a setting stands.
        known = {e.device: e for e in entries if isinstance(e, Known | Forgotten)}
        self._replace(schema.devices, [entry for entry in known.values() if isinstance(entry, Known)])
        self._delete(schema.devices.c.device, [e.device for e in known.values() if isinstance(e, Forgotten)])
        changed = {entry.name: entry for entry in kinds.get(Setting, [])}
        self._replace(schema.settings, [entry for entry in changed.values() if entry.value is not None])
        self._delete(schema.settings.c.name, [entry.name for entry in changed.values() if entry.value is None])
        for kind, table in ((Evaluated, schema.evaluations), (Event, schema.events)):
            for entry in kinds.get(kind, []):
                if not (self._again and self._has(table, entry)):
                    self._insert(table, [entry])
        for checkpoint in kinds.get(Checkpoint, []):
            self._checkpoint(checkpoint)

    def _insert(self, table: sql.Table, entries: Iterable[Entry]) -> None:
        if rows := [vars(entry) for entry in entries]:
            self._connection.execute(_insertion(self._dialect, table, self._again), rows)

    def _replace(self, table: sql.Table, entries: Iterable[Entry]) -> None:
        if rows := [vars(entry) for entry in entries]:
            self._connection.execute(_replacement(self._dialect, table), rows)

    def _delete(self, column: sql.Column[Any], values: Sequence[Any]) -> None:
        if values:
            self._connection.execute(_deletion(column), [{"gone": value} for value in values])

    def _has(self, table: sql.Table, entry: Evaluated | Event) -> bool:
        query = sql.select(table.c.at).where(table.c.at == entry.at, table.c.updates == entry.updates)
        return self._connection.execute(query).first() is not None

    def _checkpoint(self, entry: Checkpoint) -> None:
        """A version has one state; as a regular checkpoint it is also one where deltas may be counted from."""
        weights = entry.weights.astype("<f8").tobytes()
        crc = schema.checksum(entry.version, entry.updates, weights)
        statement = _insert(self._dialect)(schema.checkpoints)
        both = schema.checkpoints.c.evaluated & statement.excluded.evaluated
        self._connection.execute(
            statement.on_conflict_do_update(index_elements=["version"], set_={"evaluated": both}),
            vars(entry) | {"weights": weights, "crc": crc},
        )


# Statements are made once: that takes longer than their execution.


@cache
def _insert(dialect: str) -> Any:
    """The dialect's own INSERT, which knows ON CONFLICT; a start does not wait for the import of another dialect."""
    return import_module(f"sqlalchemy.dialects.{dialect}").insert


@cache
def _insertion(dialect: str, table: sql.Table, again: bool) -> Any:
    return _insert(dialect)(table).on_conflict_do_nothing() if again else sql.insert(table)


@cache
def _replacement(dialect: str, table: sql.Table) -> Any:
    statement = _insert(dialect)(table)
    new = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
    return statement.on_conflict_do_update(index_elements=table.primary_key, set_=new)


@cache
def _deletion(column: sql.Column[Any]) -> Any:
    return sql.delete(column.table).where(column == sql.bindparam("gone"))


def _reason(error: DBAPIError) -> str:
    """What the database said, on one line, without the statement."""
    return " ".join(str(error.orig).split())
