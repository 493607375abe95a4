"""The inverse of a device's quantization, vectorised: packed bytes to floats, bit-equal to `tinyreptile.delta`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
    if bits == 16:
        q = np.frombuffer(packed, "<i2").astype(np.float64)
    elif bits == 8:
        q = np.frombuffer(packed, np.int8).astype(np.float64)
    else:
        pairs = np.frombuffer(packed, np.uint8)
        nibbles = np.stack((pairs & 15, pairs >> 4), axis=1).ravel()[: model.parameters]
        q = ((nibbles ^ 8).astype(np.int8) - 8).astype(np.float64)
    ends = [offset for _, offset, _ in model.tensors[1:]] + [model.parameters]
    lengths = np.diff([0, *ends])
    return q * 65536.0 / np.repeat(np.asarray(gains, np.float64), lengths) / UNIT
