"""The meta-update: how what devices learned moves the initialization.

phi <- phi + alpha * s(tau) * delta, one update at a time (TinyReptile, arXiv 2304.05201; s from FedAsync, arXiv
1903.03934, section 5.2), or the mean of a batch of deltas (Reptile, arXiv 1803.02999, algorithm 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

COOLDOWN = 0.75  # of the run, when a cooldown begins

Weights = npt.NDArray[np.float64]
Schedule = Callable[[float], float]
Discount = Callable[[int], float]


def schedule(kind: str, alpha: float, alpha_end: float) -> Schedule:
    """Alpha by the run's progress, 0 to 1, from alpha to alpha_end: ``constant``, ``linear``, ``cosine``, ``cooldown``.

    A cooldown keeps alpha for three quarters of the run and is linear in the last: for asynchronous runs, whose
    staleness bounds alpha, so that it has to be at work for longer.
    """
    if kind == "constant":
        return lambda progress: alpha
    if kind == "linear":
        return lambda progress: alpha + (alpha_end - alpha) * progress
    if kind == "cosine":
        return lambda progress: alpha_end + (alpha - alpha_end) * (1 + math.cos(math.pi * progress)) / 2
    if kind == "cooldown":
        return lambda progress: alpha + (alpha_end - alpha) * max(0.0, progress - COOLDOWN) / (1 - COOLDOWN)
    raise ValueError(f"a schedule is constant, linear, cosine or cooldown, not {kind!r}")


def discount(kind: str, *, exponent: float = 0.5, free: int = 10, slope: float = 0.25) -> Discount:
    """The weight s of an update by its staleness tau: ``constant``, ``hinge`` or ``polynomial``.

    s = 1; or 1 up to tau = free, then 1 / (1 + slope (tau - free)); or (1 + tau)^-exponent.
    """
    if kind == "constant":
        return lambda tau: 1.0
    if kind == "hinge":
        return lambda tau: 1.0 if tau <= free else 1.0 / (1.0 + slope * (tau - free))
    if kind == "polynomial":
        return lambda tau: float((1 + tau) ** -exponent)
    raise ValueError(f"a discount is constant, hinge or polynomial, not {kind!r}")


class MetaUpdate:
    """phi <- phi + alpha * s(tau) * mean of ``size`` deltas; with size 1 every update moves the initialization at once.

    What is decided (`weigh`) is apart from what is done (`fold`), so that a journal of decisions replays to the same
    bits whatever the settings have become since.
    """

    def __init__(self, alpha: Schedule, staleness: Discount, size: int = 1) -> None:
        self._alpha = alpha
        self._staleness = staleness
        self._size = size
        self._sum: Weights | None = None
        self.pending = 0  # updates that have been taken and have not yet moved the initialization

    def weigh(self, progress: float, tau: int) -> tuple[float, bool]:
        """(alpha * s(tau), whether the next update completes its batch)."""
        return self._alpha(progress) * self._staleness(tau), self.pending + 1 >= self._size

    def fold(self, weights: Weights, delta: Weights, weight: float, moves: bool) -> None:
        """Take ``delta``; if it ``moves``, add ``weight`` times the mean since the last move to ``weights``."""
        self._sum = delta if self._sum is None else self._sum + delta
        self.pending += 1
        if moves:
            weights += weight * (self._sum / self.pending)
            self._sum, self.pending = None, 0

    def apply(self, weights: Weights, delta: Weights, *, progress: float, tau: int = 0) -> bool:
        """`weigh` and `fold` in one; whether a new version came of it."""
        weight, moves = self.weigh(progress, tau)
        self.fold(weights, delta, weight, moves)
        return moves
