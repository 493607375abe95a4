"""The meta-update: how what devices learned moves the initialization.

phi <- phi + alpha * s(tau) * delta, one update at a time (TinyReptile, arXiv 2304.05201; s from FedAsync, arXiv
1903.03934, section 5.2), or the mean of a batch of deltas (Reptile, arXiv 1803.02999, algorithm 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


TRIMMED = 0.2  # share that a trimmed mean leaves out at each end, at least one where there are three
COMBINATIONS = ("mean", "median", "trimmed")


def combined(deltas: Sequence[Weights], kind: str) -> Weights:
    """One delta of many, (parameters,): each parameter's ``median``, or its mean without the extremes (``trimmed``).

    Coordinate-wise as in Yin et al. (arXiv 1803.01498): a minority of hostile devices can't move them far.
    """
    stacked = np.stack(deltas)
    if kind == "median":
        middle: Weights = np.median(stacked, axis=0)
        return middle
    cut = max(1, round(TRIMMED * len(deltas))) if len(deltas) > 2 else 0
    inner: Weights = np.sort(stacked, axis=0)[cut : len(deltas) - cut].mean(axis=0)
    return inner


@dataclass(frozen=True)
class Decision:
    """What becomes of one delta.

    Attributes:
        weight: of its batch in the initialization, if it completes one.
        moves: whether it completes its batch.
        scale: the delta is multiplied by it first.
        combine: how its batch is made one: one of `COMBINATIONS`.
    """

    weight: float
    moves: bool
    scale: float = 1.0
    combine: str = "mean"


class MetaUpdate:
    """phi <- phi + alpha * s(tau) * delta, one update at a time, or alpha times a combination of ``size`` deltas.

    In a batch every delta has its own discount s(tau), and the combination the alpha of the last. What is decided
    (`weigh`) is apart from what is done (`fold`), so that a journal of decisions replays to the same bits whatever the
    settings have become since.
    """

    def __init__(self, alpha: Schedule, staleness: Discount, size: int = 1, combine: str = "mean") -> None:
        self._alpha = alpha
        self._staleness = staleness
        self._size = size
        self._combine = combine
        self._begun = combine
        self._sum: Weights | None = None  # of a mean, which needs no more
        self._deltas: list[Weights] = []  # of the others
        self.pending = 0  # updates that have been taken and have not yet moved the initialization

    def take_over(self, earlier: MetaUpdate) -> None:
        """Go on with the batch that ``earlier`` has begun."""
        self._begun, self._sum = earlier._begun, earlier._sum
        self._deltas, self.pending = earlier._deltas, earlier.pending

    def weigh(self, progress: float, tau: int) -> Decision:
        """What the settings say of an update learned from the version ``tau`` versions ago."""
        alpha, discounted = self._alpha(progress), self._staleness(tau)
        combine = self._begun if self.pending else self._combine  # a batch ends as it has begun
        moves = self.pending + 1 >= self._size
        if self._size == 1 and not self.pending:
            return Decision(alpha * discounted, moves, 1.0, combine)
        return Decision(alpha, moves, discounted, combine)

    def fold(self, weights: Weights, delta: Weights, decision: Decision) -> None:
        """Take ``delta``; if it moves, add what its batch comes to, times the weight, to ``weights``."""
        if decision.scale != 1.0:
            delta = delta * decision.scale
        if not self.pending:
            self._begun = decision.combine
        self.pending += 1
        if self._begun == "mean":
            self._sum = delta if self._sum is None else self._sum + delta
        else:
            self._deltas.append(delta)
        if decision.moves:
            together = combined(self._deltas, self._begun) if self._sum is None else self._sum / self.pending
            weights += decision.weight * together
            self.drop()

    def drop(self) -> None:
        """Forget the batch that was begun."""
        self._sum, self._deltas, self.pending = None, [], 0

    def apply(self, weights: Weights, delta: Weights, *, progress: float, tau: int = 0) -> bool:
        """`weigh` and `fold` in one; whether a new version came of it."""
        decision = self.weigh(progress, tau)
        self.fold(weights, delta, decision)
        return decision.moves
