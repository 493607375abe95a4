"""What keeps a run from devices that send nonsense, by mistake or on purpose.

Each decides from the update and from the latest before it, as the journal has them: a coordinator that starts anew
decides as the one before it would have.
"""

from __future__ import annotations

from binascii import crc32
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from itertools import islice
from statistics import median_low

import numpy as np

from .config import GuardsConfig
from .reputation import Reputation
from .rules import Weights
from .window import Window
from .work import Refusal

RESTORED = 1000  # latest updates that a coordinator that starts anew looks at
WINDOW = 1000  # latest norms that are kept, those of zero not counted, of one device a quarter of them or `FEWEST`
OF_EACH = 5  # latest norms of a device that its own median is taken of
FEWEST = 20  # norms until the median over devices says anything; before, `SHARE` stands for it
FEWEST_DEVICES = 3  # of which one is a minority; the norm that fewer have is usual only above `SHARE`
# Of the initialization's norm. Medians of the built-in tasks are a 11th to a 97th of it, also once they are learned,
# and the largest norms a 7th.
SHARE = 1 / 16
LEAST = 1 / 256  # that is usual, however small most norms are: who has learned something anew is not refused for it
REMEMBERED = 8  # deltas of each device that are not taken again
TELLING_BYTES = 16  # of a delta and its gains; honest devices come to the same in fewer by chance

# Refusals that an honest device does not earn; the others are bad luck: lateness, a restart.
STRIKES = frozenset({"malformed", "wrong size", "wrong version", "not its work", "too large", "repeated delta"})


class NormGuard:
    """What the norms of the latest deltas say of the next one.

    A device has one voice, the median of its latest norms, and what is usual is the median of these: who answers most
    does not rule it, nor does any minority. Deltas that were refused for their norm have a part in it, so that it
    follows when those of most devices grow for good. A delta of zero says nothing.

    Attributes:
        clip, refuse: times the usual norm that a delta is scaled down to, and beyond which it is refused; 0: never.
        norms: of the latest deltas.
    """

    def __init__(self, clip: float, refuse: float) -> None:
        self.clip = clip
        self.refuse = refuse
        self.norms = Window(WINDOW, FEWEST)
        self._medians: dict[str, float] = {}  # of the latest of each
        self._ordered: list[float] = []  # these, the smallest first

    def scale(self, device: str, norm: float, weights: Weights, noise: float = 0.0) -> float:
        """Return what a delta of ``norm`` from ``device`` is multiplied by, at most 1; raise `Refusal` if refused.

        ``weights`` is the present initialization, (parameters,). A norm of ``noise`` is nothing that the device could
        help: it is not refused for it, though it is scaled down.
        """
        if norm == 0.0:
            return 1.0
        usual = self.usual(weights)
        if self.refuse and norm > self.refuse * max(usual, noise):
            self.add(device, norm)
            raise Refusal("too large", f"a delta of norm {norm:.3g} where {usual:.3g} is usual")
        return min(1.0, self.clip * usual / norm) if self.clip else 1.0

    def usual(self, weights: Weights) -> float:
        """Return the norm that is usual for a delta, where the present initialization is ``weights``."""
        if len(self.norms) < FEWEST:
            return SHARE * norm_of(weights)
        least = SHARE if len(self._ordered) < FEWEST_DEVICES else LEAST
        return max(self._ordered[(len(self._ordered) - 1) // 2], least * norm_of(weights))

    def add(self, device: str, norm: float) -> None:
        """Take note of a delta of ``norm`` that has come from ``device``."""
        if norm == 0.0:
            return
        loser = self.norms.add(device, norm)
        if loser is not None:
            self._place(loser)
        self._place(device)

    def forget(self, device: str) -> None:
        """``device`` is gone."""
        self.norms.forget(device)
        self._place(device)

    def _place(self, device: str) -> None:
        """Put the median of ``device`` where it belongs among those of all."""
        if device in self._medians:
            del self._ordered[bisect_left(self._ordered, self._medians.pop(device))]
        if norms := self.norms.of(device):
            self._medians[device] = median_low(islice(reversed(norms), OF_EACH))
            insort(self._ordered, self._medians[device])


def fingerprint(packed: bytes, gains: Sequence[int]) -> int | None:
    """Return a number that tells a packed delta from others; None where equal ones may well be chance.

    ``gains`` belong to it: with few bits and few cells all that was learned may be in them.
    """
    if not any(packed) or len(packed) + 2 * len(gains) < TELLING_BYTES:
        return None
    return crc32(packed, crc32(np.asarray(gains, "<u4").tobytes()))


class Guards:
    """Bounds for the deltas of one run."""

    def __init__(self, config: GuardsConfig) -> None:
        self.config = config
        self._norms = NormGuard(config.clip, config.refuse)
        self._reputation = Reputation()
        self._deltas: dict[str, deque[tuple[int, int]]] = {}  # of each device: (fingerprint, version learned from)

    def scale(
        self, device: str, same: int | None, version: int, norm: float, weights: Weights, noise: float = 0.0
    ) -> float:
        """What the delta of ``norm`` is to be multiplied with, at most 1; raises `Refusal` if it is not to be taken.

        ``same`` is the `fingerprint` of what came from ``device``, learned from ``version``; ``weights`` is the present
        initialization, (parameters,). A norm of ``noise`` is nothing that the device could help: it is not refused
        for it, though it is scaled down.
        """
        if self.config.repeats and same is not None:
            for earlier, learned_from in self._deltas.get(device, ()):
                if earlier == same and learned_from != version:
                    raise Refusal("repeated delta", "the very delta that it sent before")
        self._norms.clip, self._norms.refuse = self.config.clip, self.config.refuse
        return self._norms.scale(device, norm, weights, noise)

    def accepted(self, device: str, same: int | None, version: int, norm: float) -> None:
        """Remember an update that has been taken; ``same`` is the `fingerprint` of its delta, if there is one."""
        self._norms.add(device, norm)
        if same is not None:
            self._deltas.setdefault(device, deque(maxlen=REMEMBERED)).append((same, version))

    def weight(self, device: str, delta: Weights, norm: float) -> float:
        """What ``delta`` of that ``norm`` counts, from 0 to 1, by the reputation of its ``device``."""
        if not self.config.reputation:
            return 1.0
        return self._trusting().weight(device, delta, norm)

    def compare(self, device: str, delta: Weights, norm: float) -> list[str]:
        """Hold a ``delta`` that has been taken against others; returns the devices that count less than half now."""
        if not self.config.reputation:
            return []
        return self._trusting().accepted(device, delta, norm)

    def standing(self, device: str) -> float:
        """What deltas of ``device`` count, from 0 to 1."""
        return self._trusting().standing(device) if self.config.reputation else 1.0

    def _trusting(self) -> Reputation:
        """Reputations by the settings as they are now."""
        self._reputation.trusted = frozenset(self.config.trusted)
        return self._reputation

    def forget(self, device: str) -> None:
        """``device`` is gone."""
        self._norms.forget(device)
        self._deltas.pop(device, None)
        self._reputation.forget(device)


def norm_of(delta: Weights) -> float:
    """Return the Euclidean norm of ``delta``, (parameters,)."""
    # Not by a product of vectors: that wakes all of BLAS's threads, which then spin for longer than the sum takes.
    return float(np.sqrt(np.square(delta).sum()))
