"""The inverse of a device's quantization, vectorised: packed bytes to floats, bit-equal to `tinyreptile.unpacking`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tinyreptile.delta import DeltaError
from tinyreptile.messages import DELTA_BYTES
from tinyreptile.model import Model
from tinyreptile.sparse_delta import low_bits, sections
from tinyreptile.unpacking import check

from .initialization import UNIT, tensor_of
from .rules import Weights


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
    q /= (np.asarray(gains, np.float64) * (UNIT / 65536))[tensor_of(model)]
    return q


def most_chunks(model: Model, bits: int) -> int:
    """How many chunks a coded delta can have at most, however it is coded."""
    return 2 + int(model.parameters) * (16 + bits) // (8 * (DELTA_BYTES // 4))


def decode(model: Model, chunks: Sequence[bytes], bits: int) -> bytes:
    """The packed delta of its coded ``chunks``: the inverse of `tinyreptile.coding`, as `tinyreptile.delta` packs it.

    Raises `DeltaError` where they are no chunks of a delta of this model in ``bits``.
    """
    tensors = len(model.offsets)
    low, data = chunks[0][:tensors], chunks[0][tensors:]
    if len(low) < tensors or max(low) > 16:
        raise DeltaError("the codes of the delta are damaged")
    numbers = np.empty(model.parameters, np.int32)
    cell = 0
    for chunk in (data, *chunks[1:]):
        start = 2 + int.from_bytes(chunk[:2], "little")
        ones = np.unpackbits(np.frombuffer(chunk[2:start], np.uint8), bitorder="little").nonzero()[0]
        end = cell + len(ones)
        if end == cell or end > model.parameters:
            raise DeltaError("the numbers of the delta are too many, or none")
        if ones[-1] // 8 != start - 3:
            raise DeltaError("the first part of a chunk has not the size that it says")
        part = numbers[cell:end]
        part[0] = ones[0]
        np.subtract(ones[1:], ones[:-1] + 1, out=part[1:], casting="unsafe")
        _add_low_bits(model, part, cell, low, chunk[start:])
        cell = end
    if cell != model.parameters:
        raise DeltaError(f"{cell} numbers are no delta of {model.parameters}")
    if numbers.max() >> bits:
        raise DeltaError(f"the numbers of the delta have more than {bits} bits")
    return _packed((numbers >> 1) ^ -(numbers & 1), bits)


def _add_low_bits(model: Model, part: npt.NDArray[np.int32], cell: int, low: bytes, data: bytes) -> None:
    """Put the low bits in ``data`` under the numbers in ``part``, which begin with ``cell``; raises `DeltaError`."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    at = 0
    for index, count in enumerate(low):
        start, end = model.cells(index)
        start, end = max(start - cell, 0), min(end - cell, len(part))
        if start < end and count:
            last = at + (end - start) * count
            if last > len(bits):
                break
            digits = np.packbits(bits[at:last].reshape(-1, count), axis=1, bitorder="little")
            part[start:end] <<= count
            part[start:end] |= digits[:, 0]
            if count > 8:
                part[start:end] |= digits[:, 1].astype(np.int32) << 8
            at = last
    else:
        if (at + 7) // 8 == len(data):
            return
    raise DeltaError("the second part of a chunk has not the size that it should")


def _packed(numbers: npt.NDArray[np.int32], bits: int) -> bytes:
    """The inverse of `_numbers`."""
    if bits == 16:
        return numbers.astype("<i2").tobytes()
    if bits == 8:
        return numbers.astype(np.int8).tobytes()
    pairs = np.zeros((len(numbers) + 1) // 2 * 2, np.uint8)
    pairs[: len(numbers)] = numbers & 15
    return (pairs[0::2] | pairs[1::2] << 4).tobytes()


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
        lows = np.zeros(kept, np.int64)
        for bit in range(low_bits):
            lows |= digits[bit::low_bits].astype(np.int64) << bit
        cells: npt.NDArray[np.int64] = ((ones - np.arange(kept)) << low_bits) | lows
        if cells[-1] < parameters and (np.diff(cells) > 0).all():
            return cells
    raise DeltaError("the numbers of the kept changes are damaged")


def kept_of(model: Model, top: float) -> int | None:
    """How many changes a delta holds that is to have the share ``top`` of them, over 0 to 1; None: all."""
    return None if top == 1 else max(1, round(top * model.parameters))
