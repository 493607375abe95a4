"""The databases behind a store: SQLite in a file (WAL, synchronous=FULL), PostgreSQL in a schema of the run's own.

Either lets one coordinator in: a lock goes with the connection, and with the process that holds it.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import resource
import secrets
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from errno import EFBIG, ENOSPC
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from .errors import StoreError
from .schema import APPLICATION_ID

BUSY_SECONDS = 5  # to wait for another program that reads or copies the file
FULL_BYTES = 256 << 10  # that a disk has free, at most, where it is the reason that nothing can be written
LOG_BYTES = 8 << 20  # of SQLite's log that stay, however large a reader has made it grow
LOCK_SECONDS = 2.0  # a server may take so long to notice that who had the lock has died


class Database:
    """Connections to one store: one that writes, and as many that read as there are readers."""

    _engine: sql.Engine
    _writer: sql.Connection

    @contextmanager
    def write(self) -> Iterator[sql.Connection]:
        """A connection in a transaction, which is durable when the context ends."""
        writer = self._live_writer()
        with writer.begin():
            self._begin(writer)
            yield writer

    @contextmanager
    def read(self) -> Iterator[sql.Connection]:
        """A connection that sees what was committed."""
        with self._engine.connect() as connection:
            yield connection

    def adopt(self) -> None:
        """Set the database up: it is a store of ours, or will be one."""

    def close(self) -> None:
        """Let go of everything, the lock last."""
        self._writer.close()
        self._engine.dispose()

    def discard(self) -> None:
        """Let go of everything, and leave nothing of what has been begun here."""
        self.close()

    def _live_writer(self) -> sql.Connection:
        return self._writer

    def _begin(self, writer: sql.Connection) -> None:
        """What a transaction begins with."""


def connect(location: str, run: str, create: bool) -> Database:
    """The database at ``location``, for ``run``; raises `StoreError` if another coordinator has it.

    Unless it is to ``create`` a store nothing is made where there is none.
    """
    return PostgreSQL(_url(location), run, create) if "://" in location else SQLite(file_of(location))


def file_of(location: str) -> Path:
    """Return the path of the SQLite file that ``location`` names; raises `StoreError` if it can name none."""
    if not location or location.endswith("/") or location.startswith((":memory:", "file:")):
        raise StoreError(f"{location!r} is no name of a store: it is a file, as kitchen.sqlite")
    if "://" in location:
        raise StoreError("a store in PostgreSQL is copied with pg_dump --schema, and restored with psql or pg_restore")
    path = Path(location)
    if path.is_dir():
        raise StoreError(f"the store {path} is a folder; name a file")
    return path


def location_text(location: str) -> str:
    """``location`` as it may be shown: without a password."""
    return _url(location).render_as_string(hide_password=True) if "://" in location else location


def _url(location: str) -> URL:
    try:
        url = make_url(location)
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in ("postgresql", "postgres") or not url.database:
        raise StoreError("a store is a file, or postgresql://[USER@]HOST[:PORT]/DATABASE")
    try:
        (url.host or "").encode("idna")
    except UnicodeError:
        raise StoreError(f"the store's host: no host can have the name {url.host!r}") from None
    return url.set(drivername="postgresql+psycopg")


class SQLite(Database):
    """One file. The lock is a file beside it: SQLite's own would keep out who only reads or copies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = _FileLock(path.resolve())  # one store has one lock, whatever links lead to it
        self._engine = sql.create_engine(URL.create("sqlite", database=str(path)))
        sql.event.listen(self._engine, "connect", self._prepare)
        try:
            self._made = make_private(path.resolve())
            self._writer = self._engine.connect()
        except BaseException:
            self._lock.release()
            raise

    @staticmethod
    def _prepare(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say
        connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA journal_size_limit={LOG_BYTES}")

    def adopt(self) -> None:  # noqa: D102 - as the base says
        self._writer.exec_driver_sql("PRAGMA journal_mode=WAL")
        self._writer.rollback()
        with self.write() as connection:  # which shows that it may be written, too
            connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")

    def _begin(self, writer: sql.Connection) -> None:
        writer.exec_driver_sql("BEGIN IMMEDIATE")

    def close(self) -> None:  # noqa: D102 - as the base says
        super().close()
        self._lock.release()

    def discard(self) -> None:  # noqa: D102 - as the base says
        super().close()
        if self._made:
            for part in _parts(self._path.resolve()):
                part.unlink(missing_ok=True)
        self._lock.release()


def _parts(path: Path) -> list[Path]:
    """Return the files that SQLite keeps for the database ``path``."""
    return [path.with_name(path.name + suffix) for suffix in ("", "-journal", "-wal", "-shm")]


def make_private(path: Path) -> bool:
    """Make ``path`` an empty file if there is none: its owner's alone, whatever the umask, and so is SQLite's log.

    Returns whether there was none.
    """
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return False
    except OSError as error:
        raise StoreError(f"the store {path} can't be used: {error.strerror}") from None
    os.fchmod(file, 0o600)
    os.close(file)
    return True


class _FileLock:
    """A lock beside ``path`` that ends with the process, and leaves no file behind.

    Anybody may open it, and holds the lock while he has it open: one that a killed process has left is no hindrance,
    whoever that ran as. With ``make`` false nothing is written: where there is no such file, nobody has the lock.
    """

    def __init__(self, path: Path, *, make: bool = True) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._file = -1
        self._made = make
        while True:
            try:
                self._file = self._open(make)
                if self._file < 0:
                    return
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._file)
                raise _in_use(str(path)) from None
            except OSError as error:
                raise StoreError(f"the store {path} can't be used: {self._reason(error)}") from None
            try:
                if self._path.stat().st_ino == os.fstat(self._file).st_ino:
                    return
            except FileNotFoundError:  # who held it has removed it just now
                pass
            os.close(self._file)

    def _open(self, make: bool) -> int:
        """Open the file that is there, or a new one; -1 if there is none and none is to be made."""
        with suppress(FileNotFoundError):
            try:
                return os.open(self._path, os.O_RDWR)
            except PermissionError:
                return os.open(self._path, os.O_RDONLY)  # another user's
        if not make:
            return -1
        try:
            file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        except FileExistsError:  # just now
            return self._open(make)
        os.fchmod(file, 0o644)
        return file

    def _reason(self, error: OSError) -> str:
        if not isinstance(error, PermissionError) or not self._path.exists():
            return str(error.strerror)
        owner = str(self._path.stat().st_uid)
        with suppress(KeyError):
            owner = pwd.getpwuid(int(owner)).pw_name
        return f"its lock {self._path} is of the user {owner}; delete it if no coordinator serves this run"

    def release(self) -> None:
        if self._file >= 0:
            if self._made:
                with suppress(OSError):  # another user's, in a folder where only its owner may delete it
                    self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1


class PostgreSQL(Database):
    """A schema of the run's own. The lock goes with the connection that writes."""

    def __init__(self, url: URL, run: str, create: bool) -> None:
        try:
            import psycopg  # noqa: F401 - the engine's driver
        except ImportError:
            raise StoreError(
                "a store in PostgreSQL needs the package psycopg: pip install 'tinyreptile[postgresql]'"
            ) from None
        self._where = url.render_as_string(hide_password=True)
        self._schema = f"tinyreptile_{run}"
        self._name = f"tinyreptile {run} {secrets.token_hex(4)}"
        options = f'-c search_path="{self._schema}" -c synchronous_commit=on'
        self._engine = sql.create_engine(
            url,
            connect_args={"options": options, "application_name": self._name, "connect_timeout": BUSY_SECONDS},
            pool_pre_ping=True,
        )
        self._writer = self._connect(create)

    def _connect(self, create: bool = False) -> sql.Connection:
        """A connection with the lock; raises `StoreError` if another coordinator has it, or there is no store."""
        writer = self._engine.connect()
        try:
            with writer.begin():
                there = sql.text("SELECT count(*) FROM pg_namespace WHERE nspname = :schema")
                if not writer.execute(there, {"schema": self._schema}).scalar_one():
                    if not create:
                        raise StoreError(f"there is no store of this run at {self._where}")
                    writer.exec_driver_sql(f'CREATE SCHEMA IF NOT EXISTS "{self._schema}"')
                # A session of ours whose connection was lost may live on at the server, with the lock.
                others = sql.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = :name AND pid <> pg_backend_pid()"
                )
                writer.execute(others, {"name": self._name})
                end = time.monotonic() + LOCK_SECONDS
                while not self._locks(writer):
                    if time.monotonic() > end:
                        raise _in_use(self._where)
                    time.sleep(LOCK_SECONDS / 20)
        except BaseException:
            writer.close()
            self._engine.dispose()
            raise
        return writer

    def _locks(self, writer: sql.Connection) -> bool:
        lock = sql.text("SELECT pg_try_advisory_lock(hashtext('tinyreptile'), hashtext(:schema))")
        return bool(writer.execute(lock, {"schema": self._schema}).scalar_one())

    def _live_writer(self) -> sql.Connection:
        if self._writer.closed or self._writer.invalidated:
            self._writer.close()
            self._writer = self._connect()
        return self._writer


@contextmanager
def snapshot(path: Path) -> Iterator[Path]:
    """A copy of the store in the file ``path``, which goes with the context; ``path`` and its folder are only read.

    Raises `StoreError` if a coordinator has it, or it can't be read.
    """
    if not path.is_file():
        raise StoreError(f"there is no store at {path}")
    with tempfile.TemporaryDirectory(prefix="tinyreptile-") as folder:
        copy = Path(folder) / path.name
        lock = _FileLock(path.resolve(), make=False)
        try:
            for suffix in ("", "-wal"):
                part = path.resolve().with_name(path.resolve().name + suffix)
                if part.exists() or not suffix:
                    shutil.copyfile(part, copy.with_name(copy.name + suffix))
        except OSError as error:
            reason = no_room(error, Path(folder)) or error.strerror
            raise StoreError(f"{path} can't be copied to {folder} to be checked: {reason}") from None
        finally:
            lock.release()
        yield copy


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy the store in the file ``source``, as of its last transaction, to ``target``; writing may go on.

    Raises `StoreError`; then there is no ``target``, or what was there before.
    """
    if target.exists():
        raise StoreError(f"{target} exists already; a copy of a store replaces nothing")
    if not target.parent.is_dir():
        raise StoreError(f"there is no folder {target.parent} for {target.name}")
    for alone in (True, False):
        if alone and _is_open(source):
            continue
        with _copied(source, target, alone=alone) as unfinished:
            if alone and _is_open(source):  # a coordinator has begun with it since
                continue
            unfinished.replace(target)
            return


def restore_sqlite(copy: Path, store: Path) -> Path | None:
    """Put ``copy``, which `copy_sqlite` has made, in the place of ``store``; returns where that one is now, if any.

    SQLite's log beside a store belongs to it: with another file in the store's place it would damage that one. So it
    is moved with the store. Raises `StoreError`; then all is as it was.
    """
    if not store.resolve().parent.is_dir():
        raise StoreError(f"there is no folder {store.resolve().parent} for {store.name}")
    if store.resolve() == copy.resolve():
        raise StoreError(f"{copy} is the store itself; name a copy of it")
    lock = _FileLock(store.resolve())
    try:
        kept = store.with_name(store.name + ".before")
        if kept.exists() or kept.resolve() == copy.resolve():
            raise StoreError(f"{kept} is there, of an earlier restoration; move it away first")
        with _copied(copy, store, alone=not _is_open(copy)) as unfinished:
            with closing(sqlite3.connect(unfinished)) as database:
                found = [row[0] for row in database.execute("PRAGMA integrity_check")]
            if found != ["ok"]:
                raise StoreError(f"{copy} is damaged: {found[0]}")
            there = store.exists()
            if there:  # whole in one file, should this be interrupted; a damaged one goes as it is
                with suppress(sqlite3.Error), closing(sqlite3.connect(store)) as database:
                    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for suffix in ("-wal", "-shm", ""):
                part = store.with_name(store.name + suffix)
                if part.exists():
                    part.replace(kept.with_name(kept.name + suffix))
            unfinished.replace(store)
        return kept if there else None
    finally:
        lock.release()


def _is_open(path: Path) -> bool:
    """Whether anybody may write to the database ``path``, as its log shows; where there is none, reading makes none."""
    return path.with_name(path.name + "-wal").exists()


@contextmanager
def _copied(source: Path, target: Path, *, alone: bool = False) -> Iterator[Path]:
    """A copy of the store in the file ``source`` beside ``target``, which is removed if it is not put anywhere.

    ``alone``: it is certain that nobody writes to ``source``.
    """
    mode = "ro&immutable=1" if alone else "ro"
    unfinished = target.with_name(target.name + ".unfinished")
    parts = _parts(unfinished)
    try:
        for part in parts:
            part.unlink(missing_ok=True)
        with closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode={mode}", uri=True)) as database:
            if database.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise StoreError(f"{source} is no store of this coordinator's")
            make_private(unfinished)
            with closing(sqlite3.connect(unfinished)) as copy:
                database.backup(copy)
        yield unfinished
    except (sqlite3.Error, OSError) as error:
        reason = no_room(error, target.resolve().parent) or str(error)
        raise StoreError(f"{source} can't be copied to {target}: {reason}") from None
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def no_room(error: BaseException | None, folder: Path) -> str:
    """Return in words that a file in ``folder`` can't grow, if ``error`` comes of that; empty if it does not.

    SQLite says "disk I/O error" where its log or its index can't.
    """
    name = getattr(error, "sqlite_errorname", "")
    number = getattr(error, "errno", None)
    if not name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN")) and number not in (EFBIG, ENOSPC):
        return ""
    with suppress(OSError):
        if shutil.disk_usage(folder).free < FULL_BYTES:
            return f"the disk of {folder} is full"
    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if most == resource.RLIM_INFINITY or name.startswith("SQLITE_CANTOPEN"):
        return ""
    return (
        f"{getattr(error, 'strerror', error)}, and no file of this process may grow beyond {most:,} bytes (ulimit -f)"
    )


def _in_use(where: str) -> StoreError:
    return StoreError(f"the store {where} is in use: another coordinator serves this run")
