"""The versions that devices begin from: each encoded once, whole or as its difference from what a device holds."""

from __future__ import annotations

from binascii import crc32
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinyreptile.messages import PIECE_BYTES
from tinyreptile.model import Model

from .differences import pieces_of
from .initialization import encode, held
from .rules import Weights

REMEMBERED_BYTES = 32 << 20  # of the versions from which differences can be taken
ROOM = 64  # versions that are remembered before any is looked for that nobody needs

Pieces = list[tuple[int, bytes]]  # where it belongs and its bytes, of each message


@dataclass(frozen=True, eq=False)
class Version:
    """One version of the initialization on its way to devices.

    Attributes:
        number: meta-updates before it.
        encoding: "int16" or "int8".
        data: the weights in that encoding.
        crc: CRC-32 of the cells, as a device holds them.
        cells: these cells, 16 or 8 bits each.
        fractions: the fraction bits that go with them; empty for 16 bits, which have the same everywhere.
    """

    number: int
    encoding: str
    data: bytes
    crc: int
    cells: npt.NDArray[np.int16] | npt.NDArray[np.int8]
    fractions: bytes

    @property
    def nbytes(self) -> int:
        """What it takes, in bytes."""
        return len(self.data) + self.cells.nbytes + len(self.fractions)

    def pieces(self) -> Pieces:
        """Return the whole of it."""
        return [(at, self.data[at : at + PIECE_BYTES]) for at in range(0, len(self.data), PIECE_BYTES)]


class Versions:
    """Makes versions of ``model``, and remembers those that devices hold as far as ``REMEMBERED_BYTES`` go.

    ``wanted`` returns the numbers of all versions that a device may hold.
    """

    def __init__(self, model: Model, wanted: Callable[[], set[int]]) -> None:
        self._model = model
        self._wanted = wanted
        self._latest: OrderedDict[int, Version] = OrderedDict()
        self._bytes = 0
        self._room = ROOM

    def of(self, number: int, weights: Weights, encoding: str) -> Version:
        """Version ``number``, whose weights are ``weights``, float64 (parameters,)."""
        known = self._latest.get(number)
        if known is not None and known.encoding == encoding:
            return known
        data = encode(self._model, weights, encoding)
        cells = held(self._model, data, encoding)
        narrow = self._model.weights == "int8"
        header = self._model.header_bytes()
        version = Version(
            number=number,
            encoding=encoding,
            data=data,
            crc=crc32(cells),
            cells=np.frombuffer(cells, np.int8 if narrow else "<i2", offset=header),
            fractions=cells[:header],
        )
        self._forget(number)
        if len(self._latest) >= self._room:
            self._forget_unwanted()
        self._latest[number] = version
        self._bytes += version.nbytes
        while self._bytes > REMEMBERED_BYTES and len(self._latest) > 1:
            self._forget(next(iter(self._latest)))
        return version

    def _forget(self, number: int) -> None:
        if (version := self._latest.pop(number, None)) is not None:
            self._bytes -= version.nbytes

    def _forget_unwanted(self) -> None:
        """Forget what no device holds: versions follow one another without end, devices don't."""
        for number in self._latest.keys() - self._wanted():
            self._forget(number)
        self._room = max(ROOM, 2 * len(self._latest))  # so that one in so many looks, and a version costs little

    def changes(self, version: Version, held: int | None) -> Pieces | None:
        """What makes ``version`` of the version that a device holds; None where the whole is as short, or the only way.

        No piece is needed where it holds ``version`` itself.
        """
        old = self._latest.get(held) if held is not None else None
        if old is version:
            return [(0, b"")]
        if old is None or old.encoding != version.encoding or old.fractions != version.fractions:
            return None
        pieces = pieces_of(self._model, old.cells.astype(np.int32), version.cells.astype(np.int32))
        return pieces if sum(len(data) for _, data in pieces) < len(version.data) else None
