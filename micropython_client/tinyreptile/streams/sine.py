"""Sine tasks: y = amplitude * sin(x + phase), x in [-5, 5] (Finn et al. 2017, arXiv 1703.03400, section 5.1)."""

import math

from ..learner import fixed
from . import TRAIN, Stream


class SineStream(Stream):
    """One sine, or with ``fresh`` another one for each piece of training; ``seed`` decides which.

    Amplitudes lie in [0.1, 5], phases in [0, pi]; inputs and targets are the floats themselves in Q5.10.
    """

    def __init__(self, seed, fresh=False):
        self._seed = seed
        self._fresh = fresh
        self._state = _scramble(seed)
        self._draw_task()

    def begin(self, part):
        """Training goes on at random; support and query samples are the same each time."""
        if part == TRAIN:
            if self._fresh:
                self._draw_task()
        else:
            self._state = _scramble(self._seed * 2 + len(part))

    async def sample(self, x, y):
        """The next point of the sine."""
        value = self._random() * 10 - 5
        x[0] = fixed(value)
        y[0] = fixed(self.amplitude * math.sin(value + self.phase))

    def _draw_task(self):
        self.amplitude = 0.1 + 4.9 * self._random()
        self.phase = math.pi * self._random()

    def _random(self):
        """The next of a sequence in [0, 1), the same on every platform: xorshift of 32 bits (Marsaglia 2003)."""
        v = self._state
        v ^= v << 13 & 0xFFFFFFFF
        v ^= v >> 17
        v ^= v << 5 & 0xFFFFFFFF
        self._state = v
        return (v >> 8) / 16777216


def _scramble(seed):
    """A non-zero 32-bit state in which neighbouring seeds share nothing (finalizer of MurmurHash3)."""
    v = ((seed & 0xFFFFFFFF) * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFFFFFF
    v = (v ^ v >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    v = (v ^ v >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return (v ^ v >> 16) or 1
