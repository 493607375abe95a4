"""What keeps a run from devices that send nonsense, by mistake or on purpose.

Each decides from the update and from the latest before it, as the journal has them: a coordinator that starts anew
decides as the one before it would have.
"""

from __future__ import annotations

from binascii import crc32
from collections import deque
from collections.abc import Callable
from statistics import median

import numpy as np

from .config import GuardsConfig
from .rules import Weights
from .work import Refusal

WINDOW = 200  # latest updates whose norms the median is taken of
FEWEST = 20  # of them until it says anything; before, this share of the initialization's norm stands for it
SHARE = 1 / 16
REMEMBERED = 8  # deltas of each device that are not taken again

# Refusals that an honest device does not earn; the others are bad luck: lateness, a restart.
STRIKES = frozenset({"malformed", "wrong size", "wrong version", "not its work", "too large", "repeated delta"})


class Guards:
    """Bounds for the deltas of one run."""

    def __init__(self, config: GuardsConfig) -> None:
        self.config = config
        self._norms: deque[float] = deque(maxlen=WINDOW)
        self._deltas: dict[str, deque[tuple[int, int]]] = {}  # of each device: (checksum, version learned from)

    def scale(
        self, device: str, packed: bytes, version: int, norm: float, weights: Weights, noise: float = 0.0
    ) -> float:
        """What the delta of ``norm`` is to be multiplied with, at most 1; raises `Refusal` if it is not to be taken.

        ``packed`` is the delta as it came from ``device``, learned from ``version``; ``weights`` is the present
        initialization, (parameters,). A norm of ``noise`` is nothing that the device could help: it is not refused
        for it, though it is scaled down.
        """
        same = crc32(packed)
        if self.config.repeats and any(packed):
            for earlier, learned_from in self._deltas.get(device, ()):
                if earlier == same and learned_from != version:
                    raise Refusal("repeated delta", "the very delta that it sent before")
        if norm == 0.0:
            return 1.0
        usual = median(self._norms) if len(self._norms) >= FEWEST else SHARE * norm_of(weights)
        if self.config.refuse and norm > self.config.refuse * max(usual, noise):
            raise Refusal("too large", f"a delta of norm {norm:.3g} where {usual:.3g} is usual")
        return min(1.0, self.config.clip * usual / norm) if self.config.clip else 1.0

    def accepted(self, device: str, packed: bytes | None, version: int, norm: float) -> None:
        """An update has been taken; ``packed`` is None if its delta is not known any more."""
        self._norms.append(norm)
        if packed is not None:
            self._deltas.setdefault(device, deque(maxlen=REMEMBERED)).append((crc32(packed), version))

    def forget(self, device: str) -> None:
        """``device`` is gone."""
        self._deltas.pop(device, None)


def norm_of(delta: Weights) -> float:
    """Euclidean norm of ``delta``, (parameters,)."""
    return float(np.sqrt(delta @ delta))


class RateLimit:
    """A token bucket for each sender: ``rate`` messages a second, ``burst`` at once; with rate 0 all may pass.

    Senders beyond ``devices`` share one bucket, so that made-up names take no memory. ``config`` says what these three
    are at the moment.
    """

    def __init__(self, config: Callable[[], GuardsConfig], clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens left, and when that was so

    def admits(self, sender: str) -> bool:
        """Whether a message of ``sender`` may pass now."""
        config = self._config()
        if not config.rate:
            return True
        if sender not in self._buckets and len(self._buckets) >= config.devices:
            sender = ""
        now = self._clock()
        tokens, then = self._buckets.get(sender, (float(config.burst), now))
        tokens = min(float(config.burst), tokens + (now - then) * config.rate)
        admitted = tokens >= 1.0
        self._buckets[sender] = (tokens - admitted, now)
        return admitted


def drifted(summaries: list[float], factor: float, window: int) -> bool:
    """Whether the last of the losses ``summaries`` is ``factor`` times worse than the best of ``window`` before it."""
    earlier = summaries[-1 - window : -1]
    return bool(factor and earlier and summaries[-1] > factor * min(earlier))
