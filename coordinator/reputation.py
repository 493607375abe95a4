"""A standing for each device, by what it sends on average: who pulls elsewhere than the others counts less, or nothing.

One delta says little, for it is mostly its own task's. The average of a device's deltas says much, once they are
whitened: honest devices' averages lie about a centre, and whoever pulls elsewhere steadily, alone or with others,
stands out along the direction in which averages differ most. That is the spectral filter of Diakonikolas et al. (arXiv
1703.00893), on averages as in Karimireddy et al. (arXiv 2012.10333).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .rules import Weights
from .turns import Shares
from .window import Window

CELLS = 64  # of a delta's sketch
WINDOW = 256  # deltas after which what they say of the directions in which deltas vary has faded to a third
EVERY = 50  # deltas after which standings are found again, or as many as there are devices
FEWEST = 100  # deltas until they are found first
FEWEST_OF_DEVICE = 2.0  # of a device's deltas, the older ones counted less, until it has a standing of its own
FEWEST_DEVICES = 8  # that have some, until one can stand out
PART = 1 / 4  # of what is known of directions that one device has at most, however much it sends
FADE = 0.9  # of what a device sent before, with each delta
RIDGE = 0.003  # variance, of a delta of norm 1, that any direction is taken to have
PASSES = 8  # directions that are looked along, one after the other
STEPS = 30  # of the power iteration that finds one
# Share of devices that are taken to be honest, however different their tasks are, and how many deviations from the
# middle that share of a normal distribution is: without trusted devices, and with them.
HONEST = (0.75, 1.15)
HONEST_BY_TRUSTED = (0.6, 0.84)
USUAL = 2.0  # deviations from the middle that a device may be at; at twice as many it counts nothing
STRANGE = 2.0  # times the usual whitened norm beyond which a delta is scaled down
NORMS = 200  # latest whitened norms that the usual one is the median of
FEWEST_NORMS = 50  # of them until it says anything

_Matrix = npt.NDArray[np.float64]


@dataclass
class _Sum:
    """A device's deltas, the latest counted whole and each before it `FADE` times as much."""

    total: Weights = field(default_factory=lambda: np.zeros(CELLS))
    count: float = 0.0
    squares: float = 0.0  # of what each counts: the variance of the total, in units of a delta's

    def add(self, sketch: Weights) -> None:
        """One more."""
        self.total = FADE * self.total + sketch
        self.count = FADE * self.count + 1
        self.squares = FADE**2 * self.squares + 1


class Reputation:
    """What is known of the devices of one run by their deltas.

    The sketch that deltas are kept as is a secret of this process: who knew it could hide a delta from it.

    Attributes:
        trusted: devices that always count; then the others are judged more strictly.
    """

    def __init__(self, random: np.random.Generator | None = None) -> None:
        self.trusted: frozenset[str] = frozenset()
        self._random = random or np.random.default_rng()
        self._cells: npt.NDArray[np.intp] | None = None  # of the sketch, for each parameter
        self._signs: Weights | None = None
        self._squares: _Matrix = np.zeros((CELLS, CELLS))  # sum over deltas of their sketches' products, which fades
        self._weight = 0.0  # of the deltas in it
        self._whitening: _Matrix = np.zeros((0, CELLS))  # makes deltas vary by 1 in every direction
        self._due = FEWEST  # deltas until standings are found again
        self._sums: dict[str, _Sum] = {}
        self._standings: dict[str, float] = {}
        self._whitened = Window(NORMS, FEWEST_NORMS // FEWEST_DEVICES + 1)
        self._shares = Shares()

    def standing(self, device: str) -> float:
        """What deltas of ``device`` count, from 0 to 1."""
        return 1.0 if device in self.trusted else self._standings.get(device, 1.0)

    def weight(self, device: str, delta: Weights, norm: float) -> float:
        """What ``delta``, (parameters,), of that ``norm`` counts: its device's standing, less if it is strange."""
        standing = self.standing(device)
        if norm == 0.0 or len(self._whitened) < FEWEST_NORMS:
            return standing
        whitened = self._whitened_norm(self._sketch(delta, norm))
        return standing * min(1.0, STRANGE * self._whitened.median() / whitened)

    def accepted(self, device: str, delta: Weights, norm: float) -> list[str]:
        """Remember a delta that was taken; returns who has lost more than half of its standing by it, if anybody."""
        if norm == 0.0:
            return []
        sketch = self._sketch(delta, norm)
        if len(self._whitening):
            self._whitened.add(device, self._whitened_norm(sketch))
        self._shares.add(device)
        counts = self.standing(device) * min(1.0, PART / self._shares.part(device))
        self._squares *= 1 - 1 / WINDOW
        self._squares += counts * sketch * sketch[:, None]
        self._weight = (1 - 1 / WINDOW) * self._weight + counts
        self._sums.setdefault(device, _Sum()).add(sketch)
        self._due -= 1
        if self._due > 0:
            return []
        self._due = max(EVERY, len(self._sums))
        self._whitening = whitening(self._squares / max(self._weight, 1.0) + RIDGE * np.eye(CELLS))
        return self._judge()

    def forget(self, device: str) -> None:
        """``device`` is gone."""
        self._sums.pop(device, None)
        self._standings.pop(device, None)
        self._whitened.forget(device)

    def _sketch(self, delta: Weights, norm: float) -> Weights:
        """The direction of ``delta`` in `CELLS` numbers: sums with random signs (Charikar et al., count sketch)."""
        if self._cells is None or self._signs is None:
            self._cells = self._random.integers(0, CELLS, len(delta))
            self._signs = self._random.choice(np.array([-1.0, 1.0]), len(delta))
        return np.bincount(self._cells, delta * self._signs, CELLS) / norm

    def _whitened_norm(self, sketch: Weights) -> float:
        """The norm of a ``sketch`` in units of what deltas vary by in each direction."""
        return float(np.sqrt(np.square((self._whitening * sketch).sum(axis=1)).sum()))

    def _judge(self) -> list[str]:
        """Find standings again; returns who has lost more than half of it."""
        known = {device: sums for device, sums in self._sums.items() if sums.squares > FEWEST_OF_DEVICE}
        if len(known) < FEWEST_DEVICES:
            return []
        standings = np.array([self.standing(device) for device in known])
        counts = np.array([sums.count for sums in known.values()])
        totals = np.stack([(self._whitening * sums.total).sum(axis=1) for sums in known.values()])
        middle = (standings[:, None] * totals).sum(axis=0) / max((standings * counts).sum(), 1e-9)
        # What is left is noise of the same size for all honest devices, however many deltas they have sent.
        noise = np.sqrt([sums.squares for sums in known.values()])
        averages = (totals - counts[:, None] * middle) / noise[:, None]
        found = usual(averages, np.array([device in self.trusted for device in known]))
        fallen = []
        for device, new in zip(known, found, strict=True):
            before = self.standing(device)
            self._standings[device] = (before + float(new)) / 2
            if before >= 0.5 > self.standing(device):
                fallen.append(device)
        return fallen


# Not by numpy's own linear algebra: that wakes all of BLAS's threads, which then spin for longer than the sums take.


def whitening(covariance: _Matrix) -> _Matrix:
    """The inverse of the Cholesky factor of ``covariance``: what it multiplies varies by 1 in every direction."""
    rest, inverse = covariance.copy(), np.eye(len(covariance))
    for i in range(len(covariance)):
        scale = np.sqrt(rest[i, i])
        factor = rest[i + 1 :, i] / scale
        inverse[i] /= scale
        inverse[i + 1 :] -= factor[:, None] * inverse[i]
        rest[i + 1 :, i + 1 :] -= factor[:, None] * factor
    return inverse


def direction_of(rows: _Matrix) -> Weights:
    """The direction along which the ``rows``, (devices, directions), are longest together, by power iteration."""
    direction: Weights = rows[np.argmax(np.square(rows).sum(axis=1))]
    for _ in range(STEPS):
        direction = (rows * (rows * direction).sum(axis=1)[:, None]).sum(axis=0)
        direction /= np.sqrt(np.square(direction).sum()) or 1.0
    return direction


def usual(averages: _Matrix, trusted: npt.NDArray[np.bool_]) -> Weights:
    """How usual each of ``averages``, (devices, directions), is among them, from 0 to 1; those ``trusted`` are.

    One that is far from the middle, along the direction in which averages differ most, is unusual; then it has no say
    in which direction is the next.
    """
    weights = np.ones(len(averages))
    share, deviations = HONEST_BY_TRUSTED if trusted.any() else HONEST
    for _ in range(PASSES):
        centred = averages - (weights[:, None] * averages).sum(axis=0) / weights.sum()
        along = (averages * direction_of(centred * np.sqrt(weights)[:, None])).sum(axis=1)
        distances = np.abs(along - np.median(along))
        deviation = np.quantile(distances, share) / deviations
        if deviation > 0:
            weights = np.minimum(weights, np.clip(2 - distances / (USUAL * deviation), 0, 1))
        weights[trusted] = 1.0
    return weights
