"""Means over seeds, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` seeds.

    Attributes:
        mean: of the values.
        half: half the width of its 95 % confidence interval, Student's t; NaN for a single value.
    """

    mean: float
    half: float
    n: int

    def text(self, digits: int) -> str:
        """As tables show it: 0.129 ± 0.004."""
        if not math.isfinite(self.half):
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} ± {self.half:.{digits}f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of ``values``, at least one, and t(0.975, n - 1) s / sqrt(n)."""
    # Imported here: it takes a second, and only a report needs it.
    from scipy import stats

    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, math.nan, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Estimate(mean, float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n), n)
