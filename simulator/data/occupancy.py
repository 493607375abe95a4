"""Reads the two occupancy sets as the UCI repository publishes them: zip files of text, a row a measurement."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import numpy as np

from .catalogue import Arrays, DataError
from .reading import reading

OFFICE_FILES = ("datatraining.txt", "datatest.txt", "datatest2.txt")
ROOM_FILE = "Occupancy_Estimation.csv"

_DATES = ("%Y/%m/%d %H:%M:%S", "%d-%m-%Y %H:%M:%S")  # copies with either are about


def read_office(paths: Sequence[Path]) -> Arrays:
    """UCI 357: ``features`` float32 (rows, 5), ``feature_names``, ``occupied`` 0 or 1, ``unix_time``, ``part``.

    ``unix_time`` is the local clock read as UTC, in seconds; ``part`` 0, 1, 2 the training file and the two test files.
    Raises `DataError`.
    """
    (path,) = paths
    features, occupied, times, parts = [], [], [], []
    with reading(path):
        for part, name in enumerate(OFFICE_FILES):
            header, *rows = _rows(path, name)
            for _, date, *values in rows:  # the header has no name for the row's number
                features.append([float(value) for value in values[:-1]])
                occupied.append(int(values[-1]))
                times.append(_seconds(date, "%Y-%m-%d %H:%M:%S"))
                parts.append(part)
        return {
            "features": np.array(features, np.float32),
            "feature_names": np.array(header[1:-1]),
            "occupied": np.array(occupied, np.uint8),
            "unix_time": np.array(times, np.int64),
            "part": np.array(parts, np.uint8),
        }


def read_room_nodes(paths: Sequence[Path]) -> Arrays:
    """UCI 864: ``features`` float32 (rows, 16), ``feature_names``, ``count`` of people, ``unix_time`` as in the other.

    The project's own file comes from a copy that a spreadsheet had cut to nine decimals: S5_CO2_Slope, which no task
    uses, may differ from it in the last bit. Raises `DataError`.
    """
    (path,) = paths
    with reading(path):
        header, *rows = _rows(path, ROOM_FILE)
        layout = next(layout for layout in _DATES if _fits(" ".join(rows[0][:2]), layout))
        values = np.array([[float(value) for value in row[2:]] for row in rows])
        return {
            "features": values[:, :-1].astype(np.float32),
            "feature_names": np.array(header[2:-1]),
            "count": values[:, -1].astype(np.uint8),
            "unix_time": np.array([_seconds(f"{row[0]} {row[1]}", layout) for row in rows], np.int64),
        }


def _rows(path: Path, name: str) -> list[list[str]]:
    """The rows of the text ``name`` in the zip file ``path``, the header first."""
    with zipfile.ZipFile(path) as archive:
        member = next((member for member in archive.namelist() if PurePosixPath(member).name == name), None)
        if member is None:
            raise DataError(f"{path}: no {name} is in it; delete it and fetch it anew")
        rows = [row for row in csv.reader(io.StringIO(archive.read(member).decode())) if row]
    if len(rows) < 2:
        raise DataError(f"{path}: {name} has no rows; delete it and fetch it anew")
    return rows


def _seconds(text: str, layout: str) -> int:
    return int(datetime.strptime(text, layout).replace(tzinfo=UTC).timestamp())


def _fits(text: str, layout: str) -> bool:
    try:
        _seconds(text, layout)
    except ValueError:
        return False
    return True
