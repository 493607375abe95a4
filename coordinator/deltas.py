"""The inverse of a device's quantization, vectorised: packed bytes to floats, bit-equal to `tinyreptile.unpacking`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tinyreptile.delta import DeltaError
from tinyreptile.model import Model
from tinyreptile.sparse_delta import low_bits, sections
from tinyreptile.unpacking import check

from .rules import Weights

UNIT = 4096  # weights are Q3.12: a change of 1 on the device is 2^-12


def unpack(
    model: Model, packed: bytes | bytearray, bits: int, gains: Sequence[int], kept: int | None = None
) -> Weights:
    """The delta as float64 (parameters,), in weights; ``kept``: of a sparse one, how many changes it holds.

    Raises `DeltaError` where sizes, gains or the numbers of the kept cells don't fit the model.
    """
    check(model, len(packed), bits, gains, kept)
    if kept is None:
        q = _numbers(packed, bits, model.parameters)
    else:
        lows, values, _ = sections(model.parameters, bits, kept)
        at = _cells(packed[:lows], packed[lows:values], low_bits(model.parameters, kept), model.parameters, kept)
        q = np.zeros(model.parameters)
        q[at] = _numbers(packed[values:], bits, kept)
    # q 65536 / gain / UNIT in one division: powers of two change no digit of it.
    q /= np.repeat(np.asarray(gains, np.float64) * (UNIT / 65536), _lengths(model))
    return q


def _numbers(packed: bytes | bytearray, bits: int, count: int) -> Weights:
    """``count`` signed numbers of ``bits`` bits."""
    if bits == 16:
        return np.frombuffer(packed, "<i2").astype(np.float64)
    if bits == 8:
        return np.frombuffer(packed, np.int8).astype(np.float64)
    q = np.empty(count)
    pairs = np.frombuffer(packed, np.int8)
    q[0::2] = (pairs << 4) >> 4  # the low half, its sign restored
    q[1::2] = (pairs >> 4)[: count // 2]
    return q


def _cells(
    high: bytes | bytearray, low: bytes | bytearray, low_bits: int, parameters: int, kept: int
) -> npt.NDArray[np.int64]:
    """The numbers of the kept cells, from their Elias-Fano code."""
    ones = np.flatnonzero(np.unpackbits(np.frombuffer(high, np.uint8), bitorder="little"))
    if len(ones) == kept:
        digits = np.unpackbits(np.frombuffer(low, np.uint8), count=kept * low_bits, bitorder="little")
        lows = digits.reshape(kept, low_bits) @ (1 << np.arange(low_bits))
        cells: npt.NDArray[np.int64] = ((ones - np.arange(kept)) << low_bits) | lows
        if cells[-1] < parameters and (np.diff(cells) > 0).all():
            return cells
    raise DeltaError("the numbers of the kept changes are damaged")


def kept_of(model: Model, top: float) -> int | None:
    """How many changes a delta holds that is to have the share ``top`` of them, over 0 to 1; None: all."""
    return None if top == 1 else max(1, round(top * model.parameters))


@lru_cache(maxsize=16)
def _lengths(model: Model) -> npt.NDArray[np.int64]:
    """Parameters of each tensor."""
    return np.diff([offset for _, offset, _ in model.tensors] + [model.parameters])
