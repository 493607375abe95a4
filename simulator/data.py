"""Finds data sets on this machine and vouches for them: every file is checked against its SHA-256 before it is read.

No data set comes with the project. They are looked for in the folder that is given, else in the one that
``TINYREPTILE_DATA`` names, else in ``~/.cache/tinyreptile``.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .tasks import TaskError

ENVIRONMENT = "TINYREPTILE_DATA"
CACHE = Path("~/.cache/tinyreptile")

SHA256 = {
    "occupancy_office": "ea81e124cb609888a1e72033cbdf4fe75699cc5ac73262a2c2a7a547c35a33fe",
    "occupancy_room_nodes": "ef3ec2b69eac47ff2da7a052b3a99121eaccac1549e100375bc46e723f39320e",
}

Arrays = dict[str, npt.NDArray[Any]]


class DataError(TaskError):
    """A data set that is not to be had here, or is not what it should be; the text says what to do."""


def load(name: str, folder: Path | None = None) -> Arrays:
    """Read data set ``name`` into its arrays by their keys; `find` says where it is looked for.

    Raises `DataError` where the file is absent, can't be read, or is not the one expected.
    """
    path = find(name, folder)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"data set {name}: {path} can't be read: {error.strerror or error}; {_advice(name)}") from None
    actual = hashlib.sha256(content).hexdigest()
    if actual != SHA256[name]:
        raise DataError(
            f"data set {name}: {path} is damaged or another version, its SHA-256 begins with {actual[:12]} "
            f"instead of {SHA256[name][:12]}; replace the file"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def find(name: str, folder: Path | None = None) -> Path:
    """Locate the file of data set ``name``: in ``folder``, else the one the environment names, else the cache.

    Raises `DataError` where the folder or the file is absent.
    """
    if name not in SHA256:
        raise DataError(f"a data set is one of {', '.join(SHA256)}, not {name!r}")
    origin = "--data"
    if folder is None and os.environ.get(ENVIRONMENT):
        folder, origin = Path(os.environ[ENVIRONMENT]), ENVIRONMENT
    if folder is not None and not folder.expanduser().is_dir():
        raise DataError(f"data set {name}: there is no folder {folder}, which {origin} names; {_advice(name)}")
    path = (folder or CACHE).expanduser() / f"{name}.npz"
    if not path.exists():
        raise DataError(f"data set {name}: {path} does not exist; {_advice(name)}")
    return path


def _advice(name: str) -> str:
    return f"name the folder that holds {name}.npz with --data DIR or {ENVIRONMENT}"
