"""The tables of a store, the same in SQLite and PostgreSQL, and how a store of an older format becomes one of this.

Each column has a type and a range. Whatever is read is checked against them (`checked`): SQLite keeps what is written,
whatever the type of a column, and what a program wrote that is not ours, or a disk has lost, must not be computed with.
"""

from __future__ import annotations

import json
import math
from binascii import crc32
from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    RowMapping,
    Table,
    Text,
    delete,
    insert,
    inspect,
    select,
    text,
    type_coerce,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import NullType

from tinyreptile import messages, reports

from .rules import COMBINATIONS

FORMAT = 5
OLDEST = 2  # format that can be upgraded
APPLICATION_ID = 0x54526570  # "TRep", by which file(1) and others may tell an SQLite file's owner

SHOWN = 40  # characters of a value in a message

metadata = MetaData()


# Types of values; JSON may be anything.
_PYTHON: dict[Any, type] = {Integer: int, BigInteger: int, Double: float, Text: str, LargeBinary: bytes, Boolean: bool}


class Damage(ValueError):
    """Something in a store that none of ours has written; the text names table, row and column."""


def _column(
    name: str,
    kind: Any,
    low: float = 0,
    high: float = math.inf,
    *,
    key: bool = False,
    optional: bool = False,
    check: Callable[[Any], object] | None = None,
) -> Column[Any]:
    """Return a column of numbers, or lengths of texts and bytes, from ``low`` to ``high``.

    ``check`` raises ValueError for a value that is none all the same.
    """
    info = {"python": _PYTHON.get(kind), "low": low, "high": high, "check": check}
    return Column(name, kind, primary_key=key, nullable=optional, autoincrement=False, info=info)


def _one_of(*values: object) -> Callable[[Any], object]:
    def check(value: Any) -> None:
        if value not in values:
            raise ValueError(f"it is to be one of {', '.join(map(str, values))}")

    return check


def _id(value: Any) -> None:
    messages.check_id(value, "it")


def _gains(value: Any) -> None:
    if not isinstance(value, list) or not value:
        raise ValueError("it is to be a list of numbers")
    reports.check_ints("they", value, 1, 65536)


# Of evaluations of earlier releases medians are missing, and losses.
_SUMMARY = (
    *((name, kind, low, high, False) for name, kind, low, high, _ in reports.EVALUATION_SUMMARY),
    *((name, "number", 0, 1e9, True) for name in ("before", "after")),
    *((name, int, 0, reports.COUNT, True) for name in ("updates", "version")),
    ("losses", dict, 0, reports.COUNT, False),
)


def _summary(value: Any) -> None:
    messages.check(_SUMMARY, value)
    for device, loss in value.get("losses", {}).items():
        messages.check_id(device, "a device id")
        messages.check((("loss", "number", 0, 1e9, True),), {"loss": loss})


_COUNT = reports.COUNT
_TIME = 1e12  # seconds since 1970

properties = Table("property", metadata, _column("name", Text, 1, 32, key=True), _column("value", JSON))
settings = Table("setting", metadata, _column("name", Text, 1, 64, key=True), _column("value", JSON))
checkpoints = Table(
    "checkpoint",
    metadata,
    _column("version", Integer, 0, _COUNT, key=True),
    _column("updates", Integer, 0, _COUNT),
    _column("weights", LargeBinary, 8),  # little-endian float64
    _column("evaluated", Boolean),
    _column("crc", BigInteger, 0, (1 << 32) - 1),  # `checksum` of the others
)
accepted = Table(
    "accepted",
    metadata,
    _column("work", Integer, 1, _COUNT, key=True),  # an update is taken once, whatever is sent again
    _column("updates", Integer, 0, _COUNT),
    _column("device", Text, check=_id),
    _column("version", Integer, 0, _COUNT),
    _column("tau", Integer, 0, _COUNT),
    _column("weight", Double, 0, 1),
    _column("moved", Boolean),
    _column("loss", Double, 0, 1e9, optional=True),
    _column("samples", Integer, 1, 1_000_000),
    _column("bits", Integer, check=_one_of(4, 8, 16)),
    _column("gains", JSON, check=_gains),
    _column("delta", LargeBinary, 1, optional=True),
    _column("at", Double, 0, _TIME),
    _column("kept", Integer, 1, _COUNT, optional=True),
    _column("norm", Double, 0, 1e15),
    _column("scale", Double, 0, 1),
    _column("combine", Text, check=_one_of(*COMBINATIONS)),
    Index("accepted_updates", "updates"),
)
issued = Table(
    "issued",
    metadata,
    _column("work", Integer, 1, _COUNT, key=True),
    _column("device", Text, check=_id),
    _column("kind", Text, check=_one_of(messages.TRAIN, messages.EVALUATE)),
    _column("version", Integer, 0, _COUNT),
    _column("bits", Integer, check=_one_of(4, 8, 16)),
    _column("deadline", Double, 0, _TIME),
    _column("kept", Integer, 1, _COUNT, optional=True),
)
evaluations = Table(
    "evaluation",
    metadata,
    _column("updates", Integer, 0, _COUNT),
    _column("version", Integer, 0, _COUNT),
    _column("summary", JSON, check=_summary),
    _column("at", Double, 0, _TIME),
)
devices = Table(
    "device",
    metadata,
    _column("device", Text, key=True, check=_id),
    _column("role", Text, 1, 16),
    _column("boot", Text, 0, 16),
    _column("platform", Text, 0, reports.TEXT),
    _column("ram", Integer, 0, _COUNT),
    _column("accepted", Integer, 0, _COUNT),
    _column("refused", Integer, 0, _COUNT),
    _column("expired", Integer, 0, _COUNT),
    _column("failures", Integer, 0, _COUNT),
    _column("strikes", Integer, 0, _COUNT),
    _column("quarantine", Text),
    _column("seen", Double, 0, _TIME),
    _column("private", Integer, 0, reports.COUNT),
    _column("rho", Double, 0, reports.RHO),
)
events = Table(
    "event",
    metadata,
    _column("at", Double, 0, _TIME),
    _column("updates", Integer, 0, _COUNT),
    _column("version", Integer, 0, _COUNT),
    _column("kind", Text, 1, 32),
    _column("text", Text),
)


def checked(table: Table, row: RowMapping, *, sqlite: bool) -> dict[str, Any]:
    """Return the values of ``row``, as the database has them, if each is of its column's type and range.

    It may lack columns of ``table``. Raises `Damage`.
    """
    return {name: _value(table.c[name], value, row, sqlite) for name, value in row.items()}


def _value(column: Column[Any], value: Any, row: RowMapping, sqlite: bool) -> Any:
    if value is None and column.nullable:
        return None
    try:
        if column.info["python"] is not None:
            value = _plain(column, value, sqlite)
        elif sqlite:  # the driver of PostgreSQL has read it
            if isinstance(value, str):
                value = json.loads(value)
            elif not isinstance(value, int | float) or not math.isfinite(value):  # SQLite keeps a number as one
                raise TypeError("it is to be JSON")
        if (check := column.info["check"]) is not None:
            check(value)
    except (TypeError, ValueError, RecursionError) as error:  # MessageError among them
        raise Damage(f"{_place(column.table, row)}: {column.name} is {_shown(value)}: {error}") from None
    return value


def _plain(column: Column[Any], value: Any, sqlite: bool) -> Any:
    """Return ``value`` if it is of the type and in the range of ``column``, else raise ValueError."""
    kind = column.info["python"]
    if kind is bool:
        if sqlite and value in (0, 1) and isinstance(value, int):
            return bool(value)
        if not isinstance(value, bool):
            raise ValueError("it is to be true or false")
        return value
    if kind is float and isinstance(value, int):  # a column's default, in a store that was upgraded
        value = float(value)
    if not isinstance(value, int | float | str | bytes) or not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"it is to be {_NAMES[kind]}")
    low, high = column.info["low"], column.info["high"]
    if isinstance(value, str | bytes):
        if not low <= len(value) <= high:
            raise ValueError(f"its length is to be {_range(low, high)}")
    elif not low <= value <= high or not math.isfinite(value):
        raise ValueError(f"it is to be {_range(low, high)}")
    return value


_NAMES: dict[type, str] = {int: "a whole number", float: "a number", str: "a text", bytes: "binary"}


def _range(low: float, high: float) -> str:
    return f"{low:.15g} or more" if high == math.inf else f"{low:.15g} to {high:.15g}"


def _place(table: Any, row: RowMapping) -> str:
    """Return which row of which table that is."""
    keys = [column.name for column in table.primary_key] or [next(iter(table.c)).name]
    return f"table {table.name}, " + ", ".join(f"{key} {_shown(row[key])}" for key in keys if key in row)


def _shown(value: Any) -> str:
    text = "absent" if value is None else repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def missing(connection: Connection) -> str:
    """Return which table, column or key is not as it is to be, in words; empty if all are."""
    inspector = inspect(connection)
    there = inspector.get_table_names()
    for table in metadata.sorted_tables:
        if table.name not in there:
            return f"there is no table {table.name}"
        columns = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.c:
            if column.name not in columns:
                return f"table {table.name} has no column {column.name}"
        keys = inspector.get_pk_constraint(table.name)["constrained_columns"]
        if keys != [column.name for column in table.primary_key]:
            return f"the key of table {table.name} is {', '.join(keys) or 'missing'}"
    return ""


def gone(connection: Connection) -> str:
    """Return which table has lost what a run begins with, in words; empty if rows are only where they can be.

    First its properties are written, then a checkpoint, and nothing else before.
    """
    first = {properties: [properties.c.name != "format"], checkpoints: []}
    filled = [
        table
        for table in (*first, *(table for table in metadata.sorted_tables if table not in first))
        if connection.execute(select(1).select_from(table).where(*first.get(table, [])).limit(1)).first()
    ]
    for place, table in enumerate(first):
        if filled[place:] and filled[place] is not table:
            return f"table {table.name} has no row of the run, and table {filled[place].name} has"
    return ""


def found_format(connection: Connection) -> int | None:
    """The format of the store behind ``connection``; 0 if nothing is there, None if it is not a store's."""
    tables = inspect(connection).get_table_names()
    sqlite = connection.dialect.name == "sqlite"
    owner = connection.exec_driver_sql("PRAGMA application_id").scalar_one() if sqlite else 0
    if owner not in (0, APPLICATION_ID):
        return None
    if not tables:
        return 0
    if owner != APPLICATION_ID and not _has_work(connection, tables):
        return None
    if "property" in tables:
        try:
            row = connection.execute(text("SELECT value FROM property WHERE name = 'format'")).first()
        except DBAPIError:
            if owner == APPLICATION_ID:
                raise  # it is damaged
            return None
        if row is not None:
            try:
                found = json.loads(row[0]) if isinstance(row[0], str) else row[0]
            except (ValueError, RecursionError):
                found = None
            if isinstance(found, int) and not isinstance(found, bool):
                return found
            if owner == APPLICATION_ID:
                raise Damage(f"table property, name 'format': value is {_shown(row[0])}: it is to be a whole number")
            return None
    if sqlite:  # formats 1 and 2 were SQLite's alone, and said so there
        version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        if version in (1, 2):
            return int(version)
        if owner == APPLICATION_ID:
            raise Damage("table property has no row with the format of the store")
    return None


def _has_work(connection: Connection, tables: list[str]) -> bool:
    """Return whether there is a table of accepted work, as in every format."""
    return "accepted" in tables and any(c["name"] == "work" for c in inspect(connection).get_columns("accepted"))


def checksum(version: int, updates: int, weights: bytes) -> int:
    """Return what a checkpoint is read against: a bit that has flipped on the disk is found then."""
    return crc32(weights, crc32(f"{version} {updates}".encode()))


def create(connection: Connection) -> None:
    """The tables of a new store."""
    metadata.create_all(connection)
    _mark(connection)


def upgrade(connection: Connection, found: int) -> None:
    """A store of the format ``found`` becomes one of this format, with all that it holds."""
    if found == 2:
        _upgrade_2(connection)
    else:
        connection.exec_driver_sql("ALTER TABLE checkpoint ADD COLUMN crc BIGINT NOT NULL DEFAULT 0")
    if found == 3:
        for column in ("private INTEGER NOT NULL DEFAULT 0", "rho DOUBLE PRECISION NOT NULL DEFAULT 0"):
            connection.exec_driver_sql(f"ALTER TABLE device ADD COLUMN {column}")
    if found < 4:
        # The loss may be absent. SQLite changes no constraint of a column in its place.
        connection.exec_driver_sql("ALTER TABLE accepted RENAME COLUMN loss TO loss_3")
        connection.exec_driver_sql("ALTER TABLE accepted ADD COLUMN loss DOUBLE PRECISION")
        connection.exec_driver_sql("UPDATE accepted SET loss = loss_3")
        connection.exec_driver_sql("ALTER TABLE accepted DROP COLUMN loss_3")
    table = checkpoints
    for version in connection.scalars(select(table.c.version)).all():
        row = connection.execute(
            rows_of(table, "version", "updates", "weights").where(table.c.version == version)
        ).one()
        whole = checked(table, row._mapping, sqlite=connection.dialect.name == "sqlite")
        crc = checksum(**whole)
        connection.execute(update(table).where(table.c.version == version).values(crc=crc))
    connection.execute(delete(properties).where(properties.c.name == "format"))
    _mark(connection)


def _upgrade_2(connection: Connection) -> None:
    """What format 3 has beyond format 2; the table of devices is new, and as it is now."""
    connection.exec_driver_sql("ALTER TABLE checkpoint RENAME TO checkpoint_2")
    for column in ("norm DOUBLE NOT NULL DEFAULT 0", "scale DOUBLE NOT NULL DEFAULT 1"):
        connection.exec_driver_sql(f"ALTER TABLE accepted ADD COLUMN {column}")
    connection.exec_driver_sql("ALTER TABLE accepted ADD COLUMN combine TEXT NOT NULL DEFAULT 'mean'")
    metadata.create_all(connection)
    connection.exec_driver_sql(
        "INSERT INTO checkpoint (version, updates, weights, evaluated, crc) "
        "SELECT version, updates, weights, 0, 0 FROM checkpoint_2"
    )
    connection.exec_driver_sql("DROP TABLE checkpoint_2")
    connection.exec_driver_sql(
        "INSERT INTO device SELECT device, 'train', '', '', 0, count(*), 0, 0, 0, 0, '', max(at), 0, 0 "
        "FROM accepted GROUP BY device"
    )
    connection.exec_driver_sql(  # who has work and has not delivered any yet
        "INSERT INTO device SELECT DISTINCT device, 'train', '', '', 0, 0, 0, 0, 0, 0, '', 0, 0, 0 "
        "FROM issued WHERE device NOT IN (SELECT device FROM device)"
    )


def _mark(connection: Connection) -> None:
    connection.execute(insert(properties).values(name="format", value=FORMAT))
    if connection.dialect.name == "sqlite":  # where coordinators of format 2 look for it
        connection.exec_driver_sql(f"PRAGMA user_version={FORMAT}")


def rows_of(table: Table, *names: str) -> Any:
    """Return a query for rows of ``table`` as `checked` takes them, with the columns ``names`` or all."""
    columns = [table.c[name] for name in names] or list(table.c)
    return select(*(type_coerce(column, NullType()).label(column.name) for column in columns))
