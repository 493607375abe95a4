"""Few-shot classification: a device tells N classes of a pool apart, from a few samples of each.

Training devices draw new classes for every piece of work, as Reptile draws its tasks (arXiv 1803.02999, section 2); an
unseen device keeps the classes and samples that it has. Which label a class has is decided by the draw, so that no
label means anything beyond it.
"""

from __future__ import annotations

from array import array
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tinyreptile.streams import QUERY, SUPPORT, Stream


class Pool(Protocol):
    """Classes to draw from.

    Attributes:
        inputs: cells of a sample.
    """

    inputs: int

    def draw(self, random: np.random.Generator, ways: int, count: int) -> npt.NDArray[np.int16]:
        """``count`` different samples of each of ``ways`` classes in random order: (ways, count, inputs), Q5.10."""


class _Episode(Stream):
    """Hands out samples of one draw from ``pool``, ``count`` of each of ``ways`` classes; a label is a row of it."""

    def __init__(self, pool: Pool, ways: int, count: int) -> None:
        self.inputs = pool.inputs
        self.outputs = ways
        self._pool = pool
        self._count = count
        self._rows = memoryview(b"")
        self._order: npt.NDArray[np.intp] = np.empty(0, np.intp)
        self._next = 0

    def _draw(self, random: np.random.Generator) -> None:
        self._rows = self._pool.draw(random, self.outputs, self._count).reshape(-1).data

    def _again(self) -> None:
        """All of the order has been handed out, and more is asked for."""
        self._next = 0

    async def sample(self, x: memoryview, y: array[int]) -> None:
        """Write the next sample into ``x``, Q5.10, and its label into ``y``."""
        if self._next == len(self._order):
            self._again()
        at = int(self._order[self._next])
        self._next += 1
        x[:] = self._rows[at * self.inputs : (at + 1) * self.inputs]
        y[0] = at // self._count


class FreshEpisodes(_Episode):
    """A training device: for every piece of work new classes, ``count`` samples of each, in random order, once each.

    When more are asked for, it draws anew. It has no support and query samples; such a device is never evaluated.
    ``seed`` decides the draws.
    """

    def __init__(self, pool: Pool, ways: int, count: int, seed: int | tuple[int, ...]) -> None:
        super().__init__(pool, ways, count)
        self._random = np.random.default_rng(seed)

    def begin(self, part: str) -> None:
        """New classes."""
        self._again()

    def _again(self) -> None:
        self._draw(self._random)
        self._order = self._random.permutation(self.outputs * self._count)
        self._next = 0


class FixedEpisode(_Episode):
    """An unseen device: always the same classes, ``shots`` samples of each as support and ``queries`` others as query.

    Either part comes in an order of its own, always the same, in which every class has had its turn before one comes
    again: so any number of samples is balanced, and the first ``ways * k`` of the support are k shots. ``seed`` decides
    the draw and the orders.
    """

    def __init__(self, pool: Pool, ways: int, shots: int, queries: int, seed: int | tuple[int, ...]) -> None:
        super().__init__(pool, ways, shots + queries)
        random = np.random.default_rng(seed)
        self._draw(random)
        rounds = random.permuted(np.tile(np.arange(ways), (self._count, 1)), axis=1)  # (count, ways), classes
        order = rounds * self._count + np.arange(self._count)[:, None]
        self._orders = {SUPPORT: order[:shots].reshape(-1), QUERY: order[shots:].reshape(-1)}
        self._order = self._orders[SUPPORT]

    def begin(self, part: str) -> None:
        """The part's samples from the first; whatever is no query is learned from support."""
        self._order = self._orders[QUERY if part == QUERY else SUPPORT]
        self._next = 0
