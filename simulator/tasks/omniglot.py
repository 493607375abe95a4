"""Omniglot: which of a few characters is it, after a few drawings of each? (Lake et al., Science 350, 2015)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from simulator.data import load
from simulator.data.omniglot import DRAWERS, SIDE, SMALL, unpack
from tinyreptile.learner import ONE
from tinyreptile.streams import Stream

from . import Task, TaskError
from .episodic import FixedEpisode, FreshEpisodes

PIXELS = ("binary", "area")

_TURNS = 4
_CHUNK = 1000  # drawings made grey at a time
_UNSEEN = 1  # tells the seeds of unseen devices from those of training devices


def network(ways: int = 5, side: int = SMALL) -> list[list[Any]]:
    """The task's model list for ``ways`` characters on images of ``side`` x ``side``: four convolutions, one dense."""
    convolutions: list[list[Any]] = [["conv2d", channels, 3, 2, 1, "relu"] for channels in (16, 32, 32, 32)]
    return [["input", side, side, 1], *convolutions, ["flatten"], ["dense", ways], ["cross_entropy"]]


class Drawings:
    """A pool of characters, each in ``turns`` quarter turns from upright; every turn is a class of its own.

    ``codes`` uint8 (characters, 20, side, side) are the drawings, ``values`` int16 the input in Q5.10 for each code.
    """

    def __init__(self, codes: npt.NDArray[np.uint8], values: npt.NDArray[np.int16], turns: int) -> None:
        self.inputs = codes.shape[2] * codes.shape[3]
        self.classes = len(codes) * turns
        self._codes = codes
        self._values = values
        self._turns = turns

    def draw(self, random: np.random.Generator, ways: int, count: int) -> npt.NDArray[np.int16]:
        """Drawings by ``count`` different people of each of ``ways`` classes; see `episodic.Pool`."""
        classes = random.choice(self.classes, ways, replace=False)
        drawers = random.permuted(np.tile(np.arange(DRAWERS), (ways, 1)), axis=1)[:, :count]
        images = [
            np.rot90(self._codes[number // self._turns, by], number % self._turns, axes=(1, 2))
            for number, by in zip(classes, drawers, strict=True)
        ]
        rows: npt.NDArray[np.int16] = self._values[np.stack(images)].reshape(ways, count, -1)
        return rows


class Omniglot(Task):
    """A device tells ``ways`` characters apart.

    Training devices draw ``drawings`` drawings each of characters of meta-train (1,200), turned by 0, 90, 180 or 270
    degrees, each turn a class of its own. Unseen devices have characters of meta-test (423), upright: ``shots``
    drawings of each are support, the other ``20 - shots`` are query.

    ``pixels`` says how a drawing becomes ``side`` x ``side`` inputs: "area" takes the share of ink in the pixel's area,
    in steps of 1/255; "binary", 28x28 only, takes the nearest pixel, 1 for ink and 0 for paper. An input is
    (pixel - ``offset``) * ``scale``.

    `model` and `settings` suit the defaults; `network` gives the model for other ways and sides.

    Raises `TaskError` for impossible parameters and `DataError` where the data set is not to be had.
    """

    name = "omniglot"
    model: ClassVar[list[list[Any]]] = network()
    settings: ClassVar[dict[str, dict[str, Any]]] = {
        "learning": {"steps": 50, "beta": 0.02, "alpha": 0.3, "alpha_end": 0.0, "bits": 8},
        "evaluation": {"steps": 50, "shots": 25, "queries": 75},
    }

    def __init__(
        self,
        data: Path | None = None,
        *,
        ways: int = 5,
        shots: int = 5,
        drawings: int = 10,
        pixels: str = "area",
        side: int = SMALL,
        offset: float = 0.0,
        scale: float = 2.0,
    ) -> None:
        super().__init__(data)
        _check(ways, shots, drawings, pixels, side)
        self.ways = ways
        self.shots = shots
        self.drawings = drawings
        known = load("omniglot28", data)
        if pixels == "binary":
            codes, grey = unpack(known["images"], SMALL), np.arange(2.0)
        else:
            codes, grey = area(load("omniglot105", data)["images"], side), np.arange(256.0) / 255
        codes = codes.reshape(-1, DRAWERS, side, side)
        values = np.rint(np.clip((grey - offset) * scale * ONE, -32767, 32767)).astype(np.int16)
        unseen = known["char_split"] == 1
        self.train = Drawings(codes[~unseen], values, _TURNS)
        self.unseen = Drawings(codes[unseen], values, 1)

    def train_stream(self, index: int, seed: int) -> Stream:
        """Device ``index``: new characters for every piece of work."""
        return FreshEpisodes(self.train, self.ways, self.drawings, (seed, index))

    def unseen_stream(self, index: int, seed: int) -> Stream:
        """Held-out device ``index``: characters that no training device has, always the same ones."""
        return FixedEpisode(self.unseen, self.ways, self.shots, DRAWERS - self.shots, (seed, index, _UNSEEN))


def area(packed: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Drawings of 105x105 bits, packed, as ``side`` x ``side`` means of the area, in steps of 1/255."""
    edges = np.arange(side + 1) * SIDE / side
    cells = np.arange(SIDE)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    share = (np.maximum(overlap, 0) * side / SIDE).astype(np.float32)  # (side, 105), of each cell in each mean
    result = np.empty((len(packed), side, side), np.uint8)
    for i in range(0, len(packed), _CHUNK):
        ink = unpack(packed[i : i + _CHUNK], SIDE).astype(np.float32)
        result[i : i + _CHUNK] = np.rint(share @ ink @ share.T * 255)
    return result


def _check(ways: int, shots: int, drawings: int, pixels: str, side: int) -> None:
    if ways < 2 or not 1 <= shots < DRAWERS or not 1 <= drawings <= DRAWERS:
        raise TaskError(
            f"omniglot takes 2 ways or more, 1 to {DRAWERS - 1} shots and 1 to {DRAWERS} drawings, "
            f"not {ways}, {shots} and {drawings}"
        )
    if pixels not in PIXELS:
        raise TaskError(f"omniglot's pixels are one of {', '.join(PIXELS)}, not {pixels!r}")
    if not 1 <= side <= SIDE or (pixels == "binary" and side != SMALL):
        raise TaskError(
            f"omniglot's images are {SMALL}x{SMALL}, or with pixels='area' anything to {SIDE}x{SIDE}, not {side}x{side}"
        )
