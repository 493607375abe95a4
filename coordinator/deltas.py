"""The inverse of a device's quantization, vectorised: packed bytes to floats, bit-equal to `tinyreptile.delta`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tinyreptile.delta import BITS, DeltaError, packed_size
from tinyreptile.model import Model

from .rules import Weights

UNIT = 4096  # weights are Q3.12: a change of 1 on the device is 2^-12


def unpack(model: Model, packed: bytes | bytearray, bits: int, gains: Sequence[int]) -> Weights:
    """The delta as float64 (parameters,), in weights; raises `DeltaError` where sizes or gains don't fit the model."""
    if bits not in BITS or len(packed) != packed_size(model.parameters, bits):
        raise DeltaError(f"{len(packed)} bytes are no delta of {model.parameters} numbers at {bits} bits")
    if len(gains) != len(model.tensors) or not all(1 <= gain <= 65536 for gain in gains):
        raise DeltaError(f"a delta of this model has {len(model.tensors)} gains, each from 1 to 65536")
    q = np.empty(model.parameters)
    if bits == 16:
        q[:] = np.frombuffer(packed, "<i2")
    elif bits == 8:
        q[:] = np.frombuffer(packed, np.int8)
    else:
        pairs = np.frombuffer(packed, np.int8)
        q[0::2] = (pairs << 4) >> 4  # the low half, its sign restored
        q[1::2] = (pairs >> 4)[: model.parameters // 2]
    # q 65536 / gain / UNIT in one division: powers of two change no digit of it.
    q /= np.repeat(np.asarray(gains, np.float64) * (UNIT / 65536), _lengths(model))
    return q


@lru_cache(maxsize=16)
def _lengths(model: Model) -> npt.NDArray[np.int64]:
    """Parameters of each tensor."""
    return np.diff([offset for _, offset, _ in model.tensors] + [model.parameters])
