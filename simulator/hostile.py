"""Devices that mean harm: what they send in the place of what they learned, in messages that are well formed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyreptile.coding import Coded
from tinyreptile.model import Model

Sent = tuple[bytes, list[int]]  # a packed delta of 8 bits and its gains


class Forged:
    """Any numbers as if they were a `tinyreptile.delta.Delta` of ``model``: ``packed`` in 16 or 8 bits."""

    kept = None

    def __init__(self, model: Model, packed: bytes, gains: Sequence[int], bits: int = 8) -> None:
        self.model, self.gains, self.bits = model, list(gains), bits
        self._numbers = np.frombuffer(packed, np.int8 if bits == 8 else "<i2")
        self.low = bytearray(max(4 if bits == 8 else 12, self._low(index)) for index in range(len(self.gains)))

    def _low(self, index: int) -> int:
        return int(1.4 * np.abs(self._numbers[slice(*self.model.cells(index))].astype(np.int64)).mean()).bit_length()

    def quantize(self, index: int, start: int, end: int, bits: int, out: Any, at: int) -> None:
        """Write the numbers of the cells ``start`` to ``end``."""
        for i, byte in enumerate(self._numbers[start:end].tobytes()):
            out[i] = byte

    def chunks(self) -> list[bytes]:
        """As they travel."""
        chunked = Coded(self)
        chunks = [bytearray(size) for size in chunked.sizes]
        for index, chunk in enumerate(chunks):
            chunked.pack(index, memoryview(chunk))
        return [bytes(chunk) for chunk in chunks]


LARGER = 256  # times as large as what was learned


class Attacker:
    """One hostile device. ``attack`` is one of `ATTACKS`; ``seed`` makes what is random.

    Nothing but the delta is forged: work, version and sizes are as they should be, so that only a look at the numbers
    can tell.
    """

    def __init__(self, attack: str, seed: int) -> None:
        self._change: Callable[[Attacker, bytes, list[int]], Sent] = ATTACKS[attack]
        self._random = np.random.default_rng(seed)
        self._first: Sent | None = None

    def forge(self, packed: bytes, gains: Sequence[int]) -> Sent:
        """What is sent for the honest delta ``packed``, of 8 bits, with its ``gains``."""
        return self._change(self, packed, list(gains))

    def _noise(self, packed: bytes, gains: list[int]) -> Sent:
        """As large as a delta can be, in a random direction."""
        return self._random.integers(-127, 128, len(packed), np.int8).tobytes(), gains

    def _scaled(self, packed: bytes, gains: list[int]) -> Sent:
        """What was learned, many times as large."""
        return packed, [max(1, gain // LARGER) for gain in gains]

    def _flipped(self, packed: bytes, gains: list[int]) -> Sent:
        """The opposite of what was learned."""
        return (-np.frombuffer(packed, np.int8).astype(np.int16)).clip(-127, 127).astype(np.int8).tobytes(), gains

    def _constant(self, packed: bytes, gains: list[int]) -> Sent:
        """The same everywhere and always."""
        return bytes([127]) * len(packed), gains

    def _replayed(self, packed: bytes, gains: list[int]) -> Sent:
        """The first delta, for ever."""
        self._first = self._first or (packed, gains)
        return self._first

    def _nothing(self, packed: bytes, gains: list[int]) -> Sent:
        """That nothing was learned."""
        return bytes(len(packed)), gains


ATTACKS: dict[str, Callable[[Attacker, bytes, list[int]], Sent]] = {
    "random": Attacker._noise,
    "scaled": Attacker._scaled,
    "flipped": Attacker._flipped,
    "constant": Attacker._constant,
    "replayed": Attacker._replayed,
    "zero": Attacker._nothing,
}


def attackers(devices: int, share: float, seed: int, attacks: Sequence[str] = tuple(ATTACKS)) -> dict[int, Attacker]:
    """Which of ``devices`` are hostile, a ``share`` of them; the ``attacks`` go round."""
    chosen = random.Random(seed).sample(range(devices), round(share * devices))
    return {index: Attacker(attacks[i % len(attacks)], index) for i, index in enumerate(chosen)}
