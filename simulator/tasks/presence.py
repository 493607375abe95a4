"""Presence detection: is anybody in the room? Each device has its own sensors, place and day (real measurements).

Two public data sets with one label: UCI 357, an office watched by one node (Candanedo and Feldheim, Energy and
Buildings 112, 2016), and UCI 864, another room watched by four nodes (Singh et al., IEEE GLOBECOM Workshops 2018).
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from simulator.data import Arrays, load
from tinyreptile.learner import ONE
from tinyreptile.streams import QUERY, SUPPORT, TRAIN, Stream

from . import Task

CHANNELS = ("temperature", "humidity", "light", "CO2", "sound")

# What an office device is fitted with, as columns of its data set for each channel it has. The office had one node;
# boards with a part of its sensors stand in for a fleet of mixed hardware. Its humidity ratio is computed from
# temperature and humidity, no sensor of its own, and left out.
OFFICE = {
    "all": {"temperature": 0, "humidity": 1, "light": 2, "CO2": 3},
    "air": {"temperature": 0, "humidity": 1, "CO2": 3},
    "light": {"temperature": 0, "light": 2},
}
ROOM = {f"S{n + 1}": {"temperature": n, "light": 4 + n, "sound": 8 + n} for n in range(4)}

UNSEEN_DAYS = {"office": 2, "room": 1}
_DAY = 86_400  # seconds
_BLOCK = 1_800  # seconds
_ENOUGH = 20  # rows of each class that support and query of an unseen day must have
_LIMIT = 4.0  # standard deviations
_SHUFFLE = 1  # seed of the order of the devices


@dataclass(frozen=True)
class Slice:
    """One day of one node.

    Attributes:
        place: "office" or "room".
        node: its fitting or name.
        day: days since 1970, local clock.
        rows: int16 (samples, channels), Q5.10, normalised; 0 where the node lacks the channel's sensor.
        fitted: for each channel 1.0 in Q5.10 where the node has it, else 0.
        occupied: uint8 (samples,), 0 absent, 1 present.
        support: bool (samples,): in a block of time for support rather than query.
    """

    place: str
    node: str
    day: int
    rows: npt.NDArray[np.int16]
    fitted: tuple[int, ...]
    occupied: npt.NDArray[np.uint8]
    support: npt.NDArray[np.bool_]

    def indices(self, support: bool, label: int | None = None) -> npt.NDArray[np.intp]:
        """Rows of the support or of the query part, all or those with ``label``."""
        chosen = self.support == support
        return np.flatnonzero(chosen if label is None else chosen & (self.occupied == label))


class PresenceStream(Stream):
    """The samples of one slice; with the same ``seed`` the same ones.

    Inputs are the latest reading of each channel in standard deviations from the mean, then a flag a channel, 1 where
    the node is fitted with it. Training draws from all rows of the slice. Support is drawn from the even half-hours
    of the day, absent and present in turn; query from the odd half-hours, in the proportion they have. So the two
    share no row, and of neighbouring rows only those at the edges of the blocks; both begin anew each time.
    """

    inputs = 2 * len(CHANNELS)
    outputs = 2

    def __init__(self, part: Slice, seed: int) -> None:
        self._channels = len(part.fitted)
        self._fitted = part.fitted
        self._rows = part.rows.reshape(-1).data
        self._labels = part.occupied.tobytes()
        self._random = random.Random(seed)
        self._slice = part
        self._seed = seed
        self._orders: dict[str, Sequence[int]] = {}  # made when they are asked for: most streams only train
        self._part = TRAIN
        self._next = 0

    def begin(self, part: str) -> None:
        """Support and query begin their orders anew; training goes on at random."""
        self._part = part
        self._next = 0
        if part == QUERY and part not in self._orders:
            self._orders[part] = _shuffled(self._slice.indices(False), self._seed)
        elif part == SUPPORT and part not in self._orders:
            self._orders[part] = _alternating(self._slice, self._seed)

    async def sample(self, x: memoryview, y: array[int]) -> None:
        """Write the next row into ``x``, Q5.10, and its label into ``y``."""
        if self._part == TRAIN:
            at = self._random.randrange(len(self._labels))
        else:
            order = self._orders[self._part]
            at = order[self._next % len(order)]
            self._next += 1
        n = self._channels
        for i in range(n):
            x[i] = self._rows[at * n + i]
            x[n + i] = self._fitted[i]
        y[0] = self._labels[at]


class Presence(Task):
    """A device is a node on one day: in the office fitted with all sensors or a part of them, in the room S1 to S4.

    Unseen are the last two days of the office and the last of the room that are long enough and have both classes;
    training devices are all of the days before, those with nobody there included. So no day, and no label, is on both
    sides, and what is learned is tried on later days. Readings are normalised with the mean and the standard deviation
    that each channel has over the training devices. The devices' order is mixed, for fleets that use only the first.

    Raises `DataError` where a data set is not to be had.
    """

    name = "presence"
    model: ClassVar[list[list[Any]]] = [
        ["input", PresenceStream.inputs],
        ["dense", 16, "relu"],
        ["dense", 16, "relu"],
        ["dense", 2],
        ["cross_entropy"],
    ]
    settings: ClassVar[dict[str, dict[str, Any]]] = {
        "learning": {"steps": 16, "beta": 0.02, "alpha": 0.3, "alpha_end": 0.0, "bits": 8},
        "evaluation": {"steps": 20, "shots": 10, "queries": 100},
    }

    def __init__(self, data: Path | None = None) -> None:
        super().__init__(data)
        self.train, self.unseen = slices(load("occupancy_office", data), load("occupancy_room_nodes", data))
        self.devices = len(self.train)
        self.evaluators = len(self.unseen)

    def train_stream(self, index: int, seed: int) -> Stream:
        """Training device ``index``; ``seed`` decides the order of its samples."""
        return PresenceStream(self.train[index], seed * 100_003 + index)

    def unseen_stream(self, index: int, seed: int) -> Stream:
        """Held-out device ``index``; ``seed`` decides which of its rows are support and query samples, not its day."""
        return PresenceStream(self.unseen[index], seed * 100_003 + index)


def slices(office: Arrays, room: Arrays) -> tuple[list[Slice], list[Slice]]:
    """(training, unseen) slices of the two data sets' arrays, each in a mixed order that is always the same."""
    days = [
        _days("office", office["unix_time"], office["features"], office["occupied"], OFFICE),
        _days("room", room["unix_time"], room["features"], room["count"] > 0, ROOM),
    ]
    train: list[_Day] = []
    unseen: list[_Day] = []
    for place in days:
        held_out = [day for day in place if day.has_both_classes()][-UNSEEN_DAYS[place[0].place] :]
        train += [day for day in place if day.number < held_out[0].number]
        unseen += held_out
    known = np.concatenate([readings for day in train for readings in day.nodes.values()])
    mean, deviation = np.nanmean(known, axis=0), np.nanstd(known, axis=0)
    mix = random.Random(_SHUFFLE)
    mixed = [[part for day in side for part in day.slices(mean, deviation)] for side in (train, unseen)]
    for side in mixed:
        mix.shuffle(side)
    return mixed[0], mixed[1]


@dataclass(frozen=True)
class _Day:
    """A day of a place: what its nodes measured, float (samples, channels), NaN where a node lacks the sensor."""

    place: str
    number: int
    nodes: dict[str, npt.NDArray[np.floating]]
    occupied: npt.NDArray[np.uint8]
    support: npt.NDArray[np.bool_]

    def has_both_classes(self) -> bool:
        """Whether support and query have rows enough of either class."""
        counts = [np.sum((self.support == part) & (self.occupied == label)) for part in (0, 1) for label in (0, 1)]
        return bool(min(counts) >= _ENOUGH)

    def slices(self, mean: npt.NDArray[np.floating], deviation: npt.NDArray[np.floating]) -> list[Slice]:
        """One a node, normalised with each channel's ``mean`` and ``deviation``."""
        result = []
        for node, readings in self.nodes.items():
            fitted = tuple(0 if np.isnan(channel).any() else ONE for channel in readings.T)
            normal = np.clip((readings - mean) / deviation, -_LIMIT, _LIMIT)
            rows = np.rint(np.nan_to_num(normal) * ONE).astype(np.int16)
            result.append(Slice(self.place, node, self.number, rows, fitted, self.occupied, self.support))
        return result


def _days(
    place: str,
    time: npt.NDArray[np.int64],
    features: npt.NDArray[np.float32],
    occupied: npt.NDArray[Any],
    nodes: dict[str, dict[str, int]],
) -> list[_Day]:
    """Part ``place`` into its days, in their order; ``nodes`` gives each node its columns of ``features``."""
    order = np.argsort(time, kind="stable")
    time, features, occupied = time[order], features[order], occupied[order].astype(np.uint8)
    result = []
    for number in np.unique(time // _DAY):
        rows = time // _DAY == number
        measured = {}
        for node, columns in nodes.items():
            readings = np.full((int(rows.sum()), len(CHANNELS)), np.nan)
            for channel, column in columns.items():
                readings[:, CHANNELS.index(channel)] = features[rows, column]
            measured[node] = readings
        result.append(_Day(place, int(number), measured, occupied[rows], time[rows] // _BLOCK % 2 == 0))
    return result


def _shuffled(indices: npt.NDArray[np.intp], seed: int) -> Sequence[int]:
    order = array("H", indices.tolist())
    random.Random(seed).shuffle(order)
    return order


def _alternating(part: Slice, seed: int) -> Sequence[int]:
    """Support rows of either class in turn, absent first; as many as the rarer class allows."""
    absent, present = (_shuffled(part.indices(True, label), seed) for label in (0, 1))
    if not absent or not present:
        return absent or present
    return array("H", [row for pair in zip(absent, present, strict=False) for row in pair])
