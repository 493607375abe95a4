"""A histogram: how many values lay up to each of some bounds; cheap enough for every update."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from math import inf


class Histogram:
    """Counts of values by ``bounds``, in ascending order; each bound is the highest value that it counts.

    Attributes:
        sum: of all values.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)  # the last: beyond all bounds
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count ``value``."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[float, int]]:
        """(bound, how many values up to it), the last bound being infinity."""
        return list(zip([*self._bounds, inf], accumulate(self._counts), strict=True))
