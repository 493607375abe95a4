"""Files of a study that survive a crash: written whole or not at all, and never taken for another job's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import StudyError

Arrays = dict[str, npt.NDArray[Any]]


def write(path: Path, content: bytes | str) -> None:
    """Write ``content`` into ``path``; a reader sees all of it, or what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)


def save(path: Path, record: dict[str, Any], arrays: Arrays) -> None:
    """Keep ``record`` (JSON's types, with "settings") and ``arrays`` in ``path``, an .npz file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    content: dict[str, Any] = {"record": json.dumps(record), **arrays}
    with part.open("wb") as file:
        np.savez(file, **content)
    part.replace(path)


def load(path: Path, settings: dict[str, Any]) -> tuple[dict[str, Any], Arrays] | None:
    """What `save` kept in ``path``, None if it is not there; raises `StudyError` for one with other ``settings``."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        record: dict[str, Any] = json.loads(str(arrays.pop("record")))
    except (OSError, ValueError, KeyError) as error:
        raise StudyError(
            f"{path} is no checkpoint of a study ({error}): delete it, or begin anew with --fresh"
        ) from None
    same_settings(path, record["settings"], settings)
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
