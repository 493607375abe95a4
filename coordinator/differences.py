"""The lossless difference of two initializations, for a device that holds the one and is to begin from the other.

Each tensor's differences are divided by the power of two that all of them have, and coded as zigzag numbers in the way
of Golomb and Rice: what lies above the k lowest bits as so many zeros and a one, and these bits. The two parts lie
apart, so that both ends work through them with few operations; `tinyreptile.wire.change` is the other end.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tinyreptile.messages import PIECE_BYTES
from tinyreptile.model import Model

from .initialization import starts, tensor_of

Cells = npt.NDArray[np.int32]

LONGEST = 8  # bits of the longest run of zeros: so any number fits a piece
MOST_SHIFT = 8  # of cells that were widened from 8 bits


def pieces_of(model: Model, old: Cells, new: Cells, most: int = PIECE_BYTES) -> list[tuple[int, bytes]]:
    """(first cell, bytes) of each piece, of at most ``most`` bytes, that makes the cells ``new`` of ``old``.

    Both are (parameters,) as a device holds them. The first piece begins with the tensors' codes.
    """
    first_cells, tensors = starts(model), tensor_of(model)
    change = new - old
    common = np.bitwise_or.reduceat(change, first_cells).tolist()
    ups = [min((bits & -bits).bit_length() - 1, MOST_SHIFT) if bits else 0 for bits in common]
    if any(ups):
        change >>= np.asarray(ups, np.int32)[tensors]
    numbers = (change << 1) ^ (change >> 31)  # zigzag: 0, -1, 1, -2, ...
    low = _low_bits(numbers, first_cells)
    codes = bytes(bits | up << 4 for bits, up in zip(low, ups, strict=True))
    lows = np.asarray(low, np.int32)[tensors]
    high = np.cumsum((numbers >> lows) + 1)  # where each number's first part ends, in bits
    both = high + np.cumsum(lows)
    digits = _digits(numbers)
    pieces: list[tuple[int, bytes]] = []
    first, done, high_done = 0, 0, 0
    while first < model.parameters:
        prefix = codes if not first else b""
        room = 8 * (most - len(prefix) - 2) - 14  # each part begins with a new byte
        last = int(np.searchsorted(both, done + room, side="right"))
        ones = np.zeros(int(high[last - 1]) - high_done, np.uint8)
        ones[high[first:last] - (high_done + 1)] = 1
        part = np.packbits(ones, bitorder="little").tobytes()
        rest = _rest(model, digits, low, first, last)
        pieces.append((first, prefix + len(part).to_bytes(2, "little") + part + rest))
        first, done, high_done = last, int(both[last - 1]), int(high[last - 1])
    return pieces


def _low_bits(numbers: Cells, first_cells: npt.NDArray[np.int64]) -> list[int]:
    """How many low bits to keep apart in each tensor, so that little is spent on the rest."""
    sums = np.add.reduceat(numbers, first_cells, dtype=np.int64).tolist()
    largest = np.maximum.reduceat(numbers, first_cells).tolist()
    lengths = np.diff(np.append(first_cells, len(numbers))).tolist()
    # Of a geometric distribution with the mean m, the bits of the integer m ln 2 are best.
    return [
        min(15, max(int(0.693 * total / length).bit_length(), most.bit_length() - LONGEST, 0))
        for total, most, length in zip(sums, largest, lengths, strict=True)
    ]


def _digits(numbers: Cells) -> npt.NDArray[np.uint8]:
    """The 16 lowest bits of each of ``numbers``, the lowest first."""
    two_bytes = numbers.astype("<u2").view(np.uint8).reshape(-1, 2)
    return np.unpackbits(two_bytes, axis=1, bitorder="little")


def _rest(model: Model, digits: npt.NDArray[np.uint8], low: list[int], first: int, last: int) -> bytes:
    """The low bits of the cells from ``first`` to ``last``, tensor after tensor."""
    parts = []
    for index, bits in enumerate(low):
        start, end = model.cells(index)
        start, end = max(start, first), min(end, last)
        if start < end and bits:
            parts.append(digits[start:end, :bits].ravel())
    return np.packbits(np.concatenate(parts), bitorder="little").tobytes() if parts else b""
