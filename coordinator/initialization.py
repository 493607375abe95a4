"""The initialization on the wire: int16 chunks in two alternating slots, each kept whole for as long as it is read.

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
from typing import Any

import numpy as np

from tinyreptile import messages

from .deltas import UNIT
from .rules import Weights

PIN_ROUND_TRIPS = 4  # times a device's last round trip are enough to fetch
PIN_SECONDS = 0.25  # and this is the least


def random_weights(tensors: Sequence[tuple[str, int, tuple[int, ...]]], parameters: int, seed: int) -> Weights:
    """A first initialization: uniform in +-1 / sqrt(inputs of the layer), weights and biases alike."""
    rng = np.random.default_rng(seed)
    weights = np.zeros(parameters)
    fan_in = 1
    for _, offset, shape in tensors:
        if len(shape) > 1:
            fan_in = shape[1]
        count = int(np.prod(shape))
        weights[offset : offset + count] = rng.uniform(-1, 1, count) / np.sqrt(fan_in)
    return weights


def encode(weights: Weights) -> bytes:
    """``weights`` as little-endian int16 in Q3.12, rounded to nearest and saturated."""
    return np.clip(np.rint(weights * UNIT), -32767, 32767).astype("<i2").tobytes()


def decode(data: bytes) -> Weights:
    """The inverse of `encode`."""
    return np.frombuffer(data, "<i2").astype(np.float64) / UNIT


@dataclass
class Slot:
    """One published version, and the work that may still be reading it: work id to the time its pin ends."""

    version: int = -1
    crc: int = 0
    pins: dict[int, float] = field(default_factory=dict)


class Publication:
    """Which version lies in which slot. Times are seconds of one monotonic clock."""

    def __init__(self, fetch_seconds: float) -> None:
        self._fetch_seconds = fetch_seconds
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
        seconds = self._fetch_seconds
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

    def finish(self, version: int, data: bytes, model: list[list[Any]]) -> dict[str, object]:
        """The manifest message for what `begin` gave out; from now on it is the newest version."""
        self._newest = 1 - self._newest
        self._slots[self._newest] = slot = Slot(version, crc32(data))
        return {
            "protocol": messages.PROTOCOL,
            "version": version,
            "model": model,
            "encoding": messages.INITIALIZATION_ENCODING,
            "bytes": len(data),
            "crc": slot.crc,
            "chunks": messages.chunk_count(len(data)),
            "slot": self._newest,
        }
