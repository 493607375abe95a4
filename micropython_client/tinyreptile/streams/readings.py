"""Streams of a sensor that is read at regular times: forecast, or watched for what is unusual. Nobody has to label."""

import asyncio

from ..learner import fixed
from . import Stream


class Readings(Stream):
    """The last ``window`` readings of a sensor, one taken every ``seconds``.

    A class of yours gives `read`. Readings become (value - ``middle``) / ``span``: choose them so that the usual ones
    lie between -1 and 1.
    """

    def __init__(self, window, seconds, middle, span):
        if not 1 <= window <= 64:
            raise ValueError("a window has 1 to 64 readings, not %r" % (window,))
        if not seconds > 0:
            raise ValueError("seconds between two readings are more than 0, not %r" % (seconds,))
        if not span > 0:
            raise ValueError("span is more than 0, not %r" % (span,))
        self._seconds = seconds
        self._middle = middle
        self._span = span
        self._last = []  # in Q5.10, the oldest first
        self._window = window

    def read(self):
        """The sensor's value now, a number; OSError if it does not answer."""
        raise NotImplementedError

    async def _take(self):
        """Wait, then take one reading more and let go of the oldest."""
        if self._last:
            await asyncio.sleep(self._seconds)
        self._last.append(fixed((self.read() - self._middle) / self._span))
        if len(self._last) > self._window:
            self._last.pop(0)

    def _write(self, cells):
        for i in range(self._window):
            cells[i] = self._last[i]


class Forecast(Readings):
    """What will the next reading be? The inputs are those before it; it comes by itself and is the target."""

    outputs = 1

    def __init__(self, window, seconds, middle, span):
        super().__init__(window, seconds, middle, span)
        self.inputs = window

    async def sample(self, x, y):
        """The readings before the next one, and that one."""
        while len(self._last) < self._window:
            await self._take()
        self._write(x)
        await self._take()
        y[0] = self._last[-1]

    def newest(self, x):
        """The readings so far, if there are enough of them: the next one is what is predicted."""
        if len(self._last) < self._window:
            return False
        self._write(x)
        return True


class Anomaly(Readings):
    """The last readings, and how usual they are.

    A network with few units in its middle gives its inputs back. What it has never seen it gives back badly, and the
    ``error`` of the device's predictions tells.
    """

    def __init__(self, window, seconds, middle, span):
        super().__init__(window, seconds, middle, span)
        self.inputs = self.outputs = window

    async def sample(self, x, y):
        """The last readings, as inputs and as targets."""
        await self._take()
        while len(self._last) < self._window:
            await self._take()
        self._write(x)
        self._write(y)
