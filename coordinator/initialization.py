"""The initialization on the wire: encoded, cut into chunks, in two alternating slots.

A slot is rewritten only when no device can still be reading it: work pins the slot it points to until the device says
that it has the version, sends its result, goes offline, or its time is up. That is `fetch_seconds`, or less for a
device that has shown to be quick, so that a quick one that dies does not hold up the others. New work always points to
the newest slot, so the older one runs empty within that time and the next version can always follow: both readers and
versions advance.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tinyreptile import messages
from tinyreptile.model import FRACTION, LEAST_FRACTION, WEIGHT_BITS, Model

from .deltas import UNIT
from .rules import Weights

HEADROOM = 1.125  # by which 8-bit weights may grow while a device learns
PIN_ROUND_TRIPS = 4  # times a device's last round trip are enough to fetch
PIN_SECONDS = 0.25  # and this is the least


def random_weights(tensors: Sequence[tuple[str, int, tuple[int, ...]]], parameters: int, seed: int) -> Weights:
    """A first initialization: uniform in +-1 / sqrt(n) with n the inputs of an output, weights and biases alike.

    Weights of convolutions are larger by sqrt(6) (He et al., arXiv 1502.01852, for a ReLU behind each): with less, a
    stack of them leaves one-sample SGD at rest for thousands of rounds.
    """
    rng = np.random.default_rng(seed)
    weights = np.zeros(parameters)
    bound = 1.0
    for name, offset, shape in tensors:
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
    fractions = [_fraction(weights[slice(*model.cells(index))]) for index in range(len(model.tensors))]
    return bytes(fractions) + _cells(weights * _scale(model, fractions), 127).astype(np.int8).tobytes()


def decode(model: Model, data: bytes, encoding: str = "int16") -> Weights:
    """The inverse of `encode`; raises ValueError where ``data`` has not the size that the model needs."""
    if len(data) != encoded_size(model, encoding):
        raise ValueError(f"{len(data)} bytes are no {encoding} initialization of {model.parameters} parameters")
    if encoding == "int16":
        return np.frombuffer(data, "<i2").astype(np.float64) / UNIT
    tensors = len(model.tensors)
    cells: Weights = np.frombuffer(data, np.int8, offset=tensors).astype(np.float64)
    return cells / _scale(model, data[:tensors])


def encoded_size(model: Model, encoding: str) -> int:
    """Bytes of an encoded initialization; raises ValueError for an encoding that is not known here."""
    if encoding not in WEIGHT_BITS:
        raise ValueError(f"an initialization is encoded as {' or '.join(WEIGHT_BITS)}, not as {encoding!r}")
    return int(2 * model.parameters if encoding == "int16" else len(model.tensors) + model.parameters)


def _cells(values: Weights, limit: int) -> Weights:
    return np.clip(np.rint(values), -limit, limit)


def _fraction(tensor: Weights) -> int:
    """Fraction bits that leave the largest of ``tensor`` in 8 bits, with room to grow."""
    largest = max(float(np.abs(tensor).max()), 1e-9) * HEADROOM
    return int(np.clip(np.floor(np.log2(127 / largest)), LEAST_FRACTION, FRACTION))


def _scale(model: Model, fractions: Sequence[int]) -> Weights:
    """2^fraction of every parameter's tensor."""
    ends = [model.cells(index) for index in range(len(model.tensors))]
    return np.repeat(2.0 ** np.asarray(list(fractions), np.float64), [end - start for start, end in ends])


@dataclass
class Slot:
    """One published version, and the work that may still be reading it: work id to the time its pin ends."""

    version: int = -1
    crc: int = 0
    pins: dict[int, float] = field(default_factory=dict)


class Publication:
    """Which version lies in which slot. Times are seconds of one monotonic clock."""

    def __init__(self, fetch_seconds: float) -> None:
        self.fetch_seconds = fetch_seconds
        self._slots = [Slot(), Slot()]
        self._newest = 1

    @property
    def version(self) -> int:
        """The newest published version, -1 before the first."""
        return self._slots[self._newest].version

    @property
    def crc(self) -> int:
        """CRC-32 of the newest published version."""
        return self._slots[self._newest].crc

    @property
    def slot(self) -> int:
        """The slot of the newest published version."""
        return self._newest

    def free_at(self, now: float) -> float:
        """When the next version may be written: ``now`` if its slot has no reader, else when the last pin ends."""
        slot = self._slots[1 - self._newest]
        slot.pins = {work: end for work, end in slot.pins.items() if end > now}
        return max(slot.pins.values(), default=now)

    def pin(self, work: int, now: float, round_trip: float | None = None) -> None:
        """``work`` has been pointed to the newest version; its device's last ``round_trip`` bounds what it needs."""
        seconds = self.fetch_seconds
        if round_trip is not None:
            seconds = min(seconds, max(PIN_SECONDS, PIN_ROUND_TRIPS * round_trip))
        self._slots[self._newest].pins[work] = now + seconds

    def unpin(self, work: int) -> None:
        """``work`` no longer reads."""
        for slot in self._slots:
            slot.pins.pop(work, None)

    def begin(self, version: int, data: bytes) -> tuple[int, list[dict[str, object]]]:
        """(slot, chunk messages) for ``data`` as ``version``; write them all, then call `finish`."""
        crc = crc32(data)
        size = messages.CHUNK_BYTES
        chunks: list[dict[str, object]] = [
            {"version": version, "crc": crc, "data": data[at : at + size]} for at in range(0, len(data), size)
        ]
        return 1 - self._newest, chunks

    def finish(self, version: int, data: bytes, model: Model, encoding: str) -> dict[str, object]:
        """The manifest message for what `begin` gave out; from now on it is the newest version."""
        self._newest = 1 - self._newest
        self._slots[self._newest] = slot = Slot(version, crc32(data))
        return {
            "protocol": messages.PROTOCOL,
            "version": version,
            "model": model.spec,
            "weights": model.weights,
            "encoding": encoding,
            "bytes": len(data),
            "crc": slot.crc,
            "chunks": messages.chunk_count(len(data)),
            "slot": self._newest,
        }
