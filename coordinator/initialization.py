"""The initialization as numbers: at random to begin with, and encoded for the wire."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tinyreptile.geometry import tensors
from tinyreptile.model import FRACTION, LEAST_FRACTION, WEIGHT_BITS, Model

from .rules import Weights

UNIT = 4096  # weights are Q3.12: a change of 1 on a device is 2^-12
HEADROOM = 1.125  # by which 8-bit weights may grow while a device learns


def random_weights(model: Model, seed: int) -> Weights:
    """Return a first initialization of ``model``.

    It is uniform in +-1 / sqrt(n) with n the inputs of an output, weights and biases alike. Weights of convolutions are
    larger by sqrt(6) (He et al., arXiv 1502.01852, for a ReLU behind each): with less, a stack of them leaves
    one-sample SGD at rest for thousands of rounds.
    """
    rng = np.random.default_rng(seed)
    weights = np.zeros(model.parameters)
    bound = 1.0
    for name, offset, shape in tensors(model):
        if name.endswith(".weight"):
            bound = 1 / np.sqrt(np.prod(shape[:-1]))
        count = int(np.prod(shape))
        scale = np.sqrt(6) if name.endswith(".weight") and not name.startswith("dense") else 1.0
        weights[offset : offset + count] = rng.uniform(-1, 1, count) * bound * scale
    return weights


def encode(model: Model, weights: Weights, encoding: str = "int16") -> bytes:
    """``weights`` as devices fetch them, rounded to nearest and saturated.

    "int16": little-endian in Q3.12. "int8": one byte for each tensor, its fraction bits, then one byte a parameter.
    """
    if encoding == "int16":
        return _cells(weights * UNIT, 32767).astype("<i2").tobytes()
    largest = np.maximum.reduceat(np.abs(weights), starts(model))
    # Fraction bits that leave the largest of each tensor in 8 bits, with room to grow.
    fractions = np.floor(np.log2(127 / (np.maximum(largest, 1e-9) * HEADROOM)))
    fractions = fractions.clip(LEAST_FRACTION, FRACTION).astype(np.uint8)
    return fractions.tobytes() + _cells(weights * _scale(model, fractions), 127).astype(np.int8).tobytes()


def decode(model: Model, data: bytes, encoding: str = "int16") -> Weights:
    """The inverse of `encode`; raises ValueError where ``data`` has not the size that the model needs."""
    if len(data) != encoded_size(model, encoding):
        raise ValueError(f"{len(data)} bytes are no {encoding} initialization of {model.parameters} parameters")
    if encoding == "int16":
        return np.frombuffer(data, "<i2").astype(np.float64) / UNIT
    tensors = len(model.offsets)
    cells: Weights = np.frombuffer(data, np.int8, offset=tensors).astype(np.float64)
    return cells / _scale(model, np.frombuffer(data[:tensors], np.uint8))


def held(model: Model, data: bytes, encoding: str) -> bytes:
    """An encoded initialization as the devices of ``model`` hold it, whose CRC-32 they know.

    With 16-bit weights little-endian Q3.12 whatever the encoding was; with 8-bit weights as it is encoded.
    """
    if encoding == "int16" or model.weights == "int8":
        return data
    tensors = len(model.offsets)
    ups = (FRACTION - np.frombuffer(data[:tensors], np.uint8)).astype(np.int16)
    cells = np.frombuffer(data, np.int8, offset=tensors).astype("<i2") << ups[tensor_of(model)]
    return cells.astype("<i2").tobytes()


def encoded_size(model: Model, encoding: str) -> int:
    """Bytes of an encoded initialization; raises ValueError for an encoding that is not known here."""
    if encoding not in WEIGHT_BITS:
        raise ValueError(f"an initialization is encoded as {' or '.join(WEIGHT_BITS)}, not as {encoding!r}")
    return int(2 * model.parameters if encoding == "int16" else len(model.offsets) + model.parameters)


def _cells(values: Weights, limit: int) -> Weights:
    return np.clip(np.rint(values), -limit, limit)


def _scale(model: Model, fractions: npt.NDArray[np.uint8]) -> Weights:
    """2^fraction of every parameter's tensor."""
    return np.exp2(fractions.astype(np.float64))[tensor_of(model)]


@lru_cache(maxsize=16)
def starts(model: Model) -> npt.NDArray[np.int64]:
    """First cell of each tensor."""
    return np.asarray(model.offsets)


@lru_cache(maxsize=16)
def tensor_of(model: Model) -> npt.NDArray[np.int64]:
    """The number of each parameter's tensor."""
    lengths = np.diff(np.append(starts(model), model.parameters))
    return np.repeat(np.arange(len(lengths)), lengths)
