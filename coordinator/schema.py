"""The tables of a store, the same in SQLite and PostgreSQL, and how a store of an older format becomes one of this."""

from __future__ import annotations

import json
from binascii import crc32
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
    Table,
    Text,
    delete,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError

FORMAT = 5
OLDEST = 2  # format that can be upgraded
APPLICATION_ID = 0x54526570  # "TRep", by which file(1) and others may tell an SQLite file's owner

metadata = MetaData()


def _column(name: str, kind: Any, *, key: bool = False) -> Column[Any]:
    return Column(name, kind, primary_key=key, nullable=False, autoincrement=False)


properties = Table("property", metadata, _column("name", Text, key=True), _column("value", JSON))
settings = Table("setting", metadata, _column("name", Text, key=True), _column("value", JSON))
checkpoints = Table(
    "checkpoint",
    metadata,
    _column("version", Integer, key=True),
    _column("updates", Integer),
    _column("weights", LargeBinary),  # little-endian float64
    _column("evaluated", Boolean),
    _column("crc", BigInteger),  # `checksum` of the others
)
accepted = Table(
    "accepted",
    metadata,
    _column("work", Integer, key=True),  # an update is taken once, whatever is sent again
    _column("updates", Integer),
    _column("device", Text),
    _column("version", Integer),
    _column("tau", Integer),
    _column("weight", Double),
    _column("moved", Boolean),
    Column("loss", Double),
    _column("samples", Integer),
    _column("bits", Integer),
    _column("gains", JSON),
    Column("delta", LargeBinary),
    _column("at", Double),
    Column("kept", Integer),
    _column("norm", Double),
    _column("scale", Double),
    _column("combine", Text),
    Index("accepted_updates", "updates"),
)
issued = Table(
    "issued",
    metadata,
    _column("work", Integer, key=True),
    _column("device", Text),
    _column("kind", Text),
    _column("version", Integer),
    _column("bits", Integer),
    _column("deadline", Double),
    Column("kept", Integer),
)
evaluations = Table(
    "evaluation",
    metadata,
    _column("updates", Integer),
    _column("version", Integer),
    _column("summary", JSON),
    _column("at", Double),
)
devices = Table(
    "device",
    metadata,
    _column("device", Text, key=True),
    _column("role", Text),
    _column("boot", Text),
    _column("platform", Text),
    _column("ram", Integer),
    _column("accepted", Integer),
    _column("refused", Integer),
    _column("expired", Integer),
    _column("failures", Integer),
    _column("strikes", Integer),
    _column("quarantine", Text),
    _column("seen", Double),
    _column("private", Integer),
    _column("rho", Double),
)
events = Table(
    "event",
    metadata,
    _column("at", Double),
    _column("updates", Integer),
    _column("version", Integer),
    _column("kind", Text),
    _column("text", Text),
)


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
            if row is not None:
                return int(json.loads(row[0]) if isinstance(row[0], str) else row[0])
        except DBAPIError:
            if owner == APPLICATION_ID:
                raise  # it is damaged
            return None
        except (ValueError, TypeError):
            return None
    if sqlite:  # formats 1 and 2 were SQLite's alone, and said so there
        found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        return found if found in (1, 2) else None
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
        row = connection.execute(select(table.c.updates, table.c.weights).where(table.c.version == version)).one()
        crc = checksum(version, row.updates, row.weights)
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


def _mark(connection: Connection) -> None:
    connection.execute(insert(properties).values(name="format", value=FORMAT))
    if connection.dialect.name == "sqlite":  # where coordinators of format 2 look for it
        connection.exec_driver_sql(f"PRAGMA user_version={FORMAT}")


def property_values(connection: Connection) -> dict[str, Any]:
    """All properties but the format."""
    rows = connection.execute(select(properties.c.name, properties.c.value).where(properties.c.name != "format"))
    return {name: value for name, value in rows}  # noqa: C416 - rows are no pairs to dict's type
