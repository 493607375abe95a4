"""Finds data sets on this machine and vouches for them: every file is checked against its SHA-256 before it is read.

No data set comes with the project. They are looked for in the folder that is given, else in the one that
``TINYREPTILE_DATA`` names, else in ``~/.cache/tinyreptile``.

A file NAME.npz is taken if it is the one that the project's figures were made with (`SHA256`), or if its SHA-256
stands in NAME.npz.sha256 beside it, which `save` writes when a file is made here from an official archive: compression
is not the same everywhere, so such a file can't have a SHA-256 that is known beforehand. That record tells damage, not
malice. What the arrays themselves are is told by `content_digest`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from io import BufferedRandom
from pathlib import Path
from typing import Any, cast

import numpy as np

from .catalogue import DATA_SETS, SHA256, Arrays, DataError

ENVIRONMENT = "TINYREPTILE_DATA"
CACHE = Path("~/.cache/tinyreptile")


def load(name: str, folder: Path | None = None) -> Arrays:
    """Read data set ``name`` into its arrays by their keys; `find` says where it is looked for.

    Raises `DataError` where the file is absent, can't be read, or is not the one expected.
    """
    path = find(name, folder)
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
            known = [digest for digest in (SHA256.get(name), recorded(path)) if digest]
            if actual not in known:
                raise DataError(
                    f"data set {name}: {path} is damaged or another version, its SHA-256 begins with {actual[:12]} "
                    f"instead of {' or '.join(digest[:12] for digest in known) or 'one that is recorded beside it'}; "
                    "replace the file"
                )
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
    except OSError as error:
        raise DataError(f"data set {name}: {path} can't be read: {error.strerror or error}; {_advice(name)}") from None


def find(name: str, folder: Path | None = None) -> Path:
    """Locate the file of data set ``name``: in ``folder``, else the one the environment names, else the cache.

    Raises `DataError` where the folder or the file is absent.
    """
    if name not in DATA_SETS:
        raise DataError(f"a data set is one of {', '.join(DATA_SETS)}, not {name!r}")
    place, origin = folder_of(folder)
    if origin and not place.is_dir():
        raise DataError(f"data set {name}: there is no folder {place}, which {origin} names; {_advice(name)}")
    path = place / f"{name}.npz"
    if not path.exists():
        raise DataError(f"data set {name}: {path} does not exist; {_advice(name)}")
    return path


def folder_of(folder: Path | None = None) -> tuple[Path, str]:
    """The folder of the data sets, and who names it: "--data" if one is given, the environment, or "" for the cache."""
    if folder is not None:
        return folder.expanduser(), "--data"
    if named := os.environ.get(ENVIRONMENT):
        return Path(named).expanduser(), ENVIRONMENT
    return CACHE.expanduser(), ""


def save(name: str, arrays: Arrays, folder: Path) -> Path:
    """Write ``arrays`` as NAME.npz into ``folder``, with its SHA-256 beside it, and return its path.

    Whoever reads sees the whole file or none. Raises `DataError` where it can't be written.
    """
    path = folder / f"{name}.npz"
    with _written(path) as file:
        np.savez_compressed(file, **cast(dict[str, Any], arrays))
        file.flush()
        file.seek(0)
        # Recorded first: a file without its record would be taken for a damaged one.
        record(path, hashlib.file_digest(file, "sha256").hexdigest())
    return path


def recorded(path: Path) -> str | None:
    """The SHA-256 that is recorded beside ``path``, or None."""
    try:
        return _beside(path).read_text(encoding="ascii").split()[0]
    except (OSError, UnicodeError, IndexError):
        return None


def record(path: Path, sha256: str) -> None:
    """Record ``sha256`` beside ``path``, in the format of sha256sum; raises `DataError`."""
    with _written(_beside(path)) as file:
        file.write(f"{sha256}  {path.name}\n".encode())


def forget(path: Path) -> None:
    """Delete ``path`` and what is recorded of it, if they are there; raises `DataError`."""
    try:
        path.unlink(missing_ok=True)
        _beside(path).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path} can't be deleted: {error.strerror}; delete it yourself") from None


def content_digest(arrays: Arrays) -> str:
    """SHA-256 over every array's key, dtype, shape and little-endian bytes, in the order of the keys."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        array = arrays[key]
        little = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        digest.update(f"{key} {little.dtype.str} {array.shape}\n".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _written(path: Path) -> Iterator[BufferedRandom]:
    """A file to write, which takes its place as ``path`` once it is whole and on disk."""
    new = path.with_name(path.name + ".new")
    try:
        try:
            with new.open("w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{path} can't be written: {error.strerror or error}; make room or name another folder with --folder DIR"
        ) from None


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _advice(name: str) -> str:
    return (
        f"name the folder that holds {name}.npz with --data DIR or {ENVIRONMENT}, "
        f"or get it with tinyreptile data fetch {name}"
    )
