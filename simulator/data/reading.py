"""What a damaged archive does to its reader, told in one sentence."""

from __future__ import annotations

import contextlib
import csv
import tarfile
import wave
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from .catalogue import DataError

_DAMAGE = (
    OSError,  # gzip, tar and Pillow raise it, too
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    SyntaxError,  # of Pillow, for a broken PNG
    csv.Error,
    tarfile.TarError,
    wave.Error,
    zipfile.BadZipFile,
    zlib.error,
)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a broken file at ``path`` makes its reader raise into a `DataError`."""
    try:
        yield
    except _DAMAGE as error:
        raise DataError(
            f"{path} is damaged or not what it should be ({type(error).__name__}: {error}); delete it and fetch it anew"
        ) from None
