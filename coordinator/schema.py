"""The tables of a store, the same in SQLite and PostgreSQL, and how a store of an older format becomes one of this."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import (
    JSON,
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
)

FORMAT = 4
OLDEST = 2  # format that can be upgraded

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
    if not tables:
        return 0
    if "property" in tables:
        row = connection.execute(text("SELECT value FROM property WHERE name = 'format'")).first()
        if row is not None:
            return int(json.loads(row[0]) if isinstance(row[0], str) else row[0])
    if connection.dialect.name == "sqlite":  # formats 1 and 2 were SQLite's alone, and said so there
        return connection.exec_driver_sql("PRAGMA user_version").scalar_one() or None
    return None


def create(connection: Connection) -> None:
    """The tables of a new store."""
    metadata.create_all(connection)
    _mark(connection)


def upgrade(connection: Connection, found: int) -> None:
    """A store of the format ``found`` becomes one of this format, with all that it holds."""
    if found == 2:
        _upgrade_2(connection)
    else:
        for column in ("private INTEGER NOT NULL DEFAULT 0", "rho DOUBLE PRECISION NOT NULL DEFAULT 0"):
            connection.exec_driver_sql(f"ALTER TABLE device ADD COLUMN {column}")
    # The loss may be absent. SQLite changes no constraint of a column in its place.
    connection.exec_driver_sql("ALTER TABLE accepted RENAME COLUMN loss TO loss_3")
    connection.exec_driver_sql("ALTER TABLE accepted ADD COLUMN loss DOUBLE PRECISION")
    connection.exec_driver_sql("UPDATE accepted SET loss = loss_3")
    connection.exec_driver_sql("ALTER TABLE accepted DROP COLUMN loss_3")
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
        "INSERT INTO checkpoint (version, updates, weights, evaluated) "
        "SELECT version, updates, weights, 0 FROM checkpoint_2"
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
