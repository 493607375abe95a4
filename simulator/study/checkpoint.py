"""Files of a study that survive a crash: written whole or not at all, and never taken for another job's."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from . import StudyError

Arrays = dict[str, npt.NDArray[Any]]


def write(path: Path, content: bytes | str) -> None:
    """Write ``content`` into ``path``; a reader sees all of it, or what was there before. Raises `StudyError`."""
    with _replace(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def save(path: Path, record: dict[str, Any], arrays: Arrays) -> None:
    """Keep ``record`` (JSON's types, with "settings") and ``arrays`` in ``path``, an .npz file; as `write`."""
    content: dict[str, Any] = {"record": json.dumps(record), **arrays}
    with _replace(path) as file:
        np.savez(file, **content)


@contextlib.contextmanager
def _replace(path: Path) -> Iterator[BinaryIO]:
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise StudyError(f"{path} can't be written: {error.strerror}; name another folder with --out") from None


def load(path: Path, settings: dict[str, Any], keys: Collection[str]) -> tuple[dict[str, Any], Arrays] | None:
    """What `save` kept in ``path``, None if it is not there.

    Raises `StudyError` for one with other ``settings``, or that is damaged: that is one without all ``keys``, too, be
    they the record's or names of arrays.
    """
    if not path.exists():
        return None
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            arrays = dict(file)
        record: dict[str, Any] = json.loads(str(arrays.pop("record")))
        stored = record["settings"]
        whole = isinstance(stored, dict) and record.keys() | arrays.keys() >= set(keys)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        whole = False
    if not whole:
        raise StudyError(f"{path} is damaged, or no checkpoint of a study: delete it, or begin anew with --fresh")
    same_settings(path, stored, settings)
    return record, arrays


def same_settings(path: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise `StudyError`, naming what differs, unless ``path`` was made with the ``wanted`` settings."""
    if stored == wanted:
        return
    there, here = _flat(stored), _flat(wanted)
    names = [name for name in here | there if here.get(name) != there.get(name)]
    differences = ", ".join(f"{name} is {there.get(name)!r} there and {here.get(name)!r} here" for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    raise StudyError(
        f"{path} has other settings: {differences}{more}. Keep it and name another folder with --out, "
        "or run it anew with --fresh"
    )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``settings`` with the names of nested ones joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
