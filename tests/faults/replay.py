"""A run's weights from its journal, computed once more: plain numpy and SQL, nothing of the coordinator's.

phi <- phi + weight * mean(scale * delta), as docs/architecture.md says it, from the first checkpoint on.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass
class Journal:
    """What a store holds of a run, as far as the bench looks at it.

    Attributes:
        updates: (place in the order, work id, device) of the accepted updates, in order.
        devices: device id to the number of accepted updates that it is on record with.
        checkpoints: version to weights, as they were kept.
        damage: what SQLite's integrity_check says against the file; "ok" if nothing.
    """

    updates: list[tuple[int, int, str]]
    devices: dict[str, int]
    checkpoints: dict[int, Array]
    damage: str


def read(path: Path) -> Journal:
    """The journal in the SQLite file ``path``, whose coordinator has ended."""
    with closing(_open(path)) as database:
        return Journal(
            updates=database.execute("SELECT updates, work, device FROM accepted ORDER BY updates").fetchall(),
            devices=dict(database.execute("SELECT device, accepted FROM device").fetchall()),
            checkpoints={
                version: np.frombuffer(weights, "<f8")
                for version, weights in database.execute("SELECT version, weights FROM checkpoint")
            },
            damage="; ".join(row[0] for row in database.execute("PRAGMA integrity_check")),
        )


def replay(path: Path) -> Iterator[tuple[int, Array]]:
    """(version, weights) of the run in ``path``, from its first checkpoint on that has all later deltas."""
    with closing(_open(path)) as database:
        model = json.loads(database.execute("SELECT value FROM property WHERE name = 'model'").fetchone()[0])
        (dropped,) = database.execute("SELECT max(updates) FROM accepted WHERE delta IS NULL").fetchone()
        query = "SELECT version, updates, weights FROM checkpoint WHERE updates > ? ORDER BY version LIMIT 1"
        version, updates, first = database.execute(query, (-1 if dropped is None else dropped,)).fetchone()
        weights = np.frombuffer(first, "<f8").copy()
        sizes = _tensors(model)
        batch: list[Array] = []
        yield version, weights
        query = (
            "SELECT delta, gains, bits, weight, scale, moved, combine FROM accepted WHERE updates >= ? ORDER BY updates"
        )
        for delta, gains, bits, weight, scale, moved, combine in database.execute(query, (updates,)):
            assert combine == "mean", "the bench's runs take means"
            steps = _numbers(delta, bits)[: sum(sizes)] * 65536.0
            batch.append(steps / np.repeat([float(gain) for gain in json.loads(gains)], sizes) / 4096.0 * scale)
            if moved:
                total = batch[0]
                for more in batch[1:]:
                    total = total + more
                weights = weights + weight * (total / len(batch))
                version, batch = version + 1, []
                yield version, weights


def _numbers(delta: bytes, bits: int) -> Array:
    """The signed numbers of 8 or 4 bits in ``delta``; of two in a byte the earlier is the low half."""
    cells = np.frombuffer(delta, np.uint8).astype(np.float64)
    if bits == 4:
        cells = np.stack([cells % 16, cells // 16], axis=1).ravel()
    else:
        assert bits == 8, "the bench's runs have deltas of 8 or 4 bits"
    return np.where(cells >= 2 ** (bits - 1), cells - 2.0**bits, cells)


def _tensors(model: list[list[Any]]) -> list[int]:
    """Parameters of each tensor of a model of dense layers: weights, then biases."""
    sizes = []
    inputs = model[0][1]
    for name, *numbers in model[1:-1]:
        assert name == "dense", "the bench's runs have dense layers"
        sizes += [inputs * numbers[0], numbers[0]]
        inputs = numbers[0]
    return sizes


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
