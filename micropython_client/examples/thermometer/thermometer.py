"""A stream of your own: what will the thermometer show next? For any computer that has its temperature in a file."""

import asyncio

from tinyreptile.learner import fixed
from tinyreptile.streams import Stream


class Thermometer(Stream):
    """Read ``file``, thousandths of a degree Celsius as Linux writes them, every so many ``seconds``."""

    inputs = 2  # the last two readings
    outputs = 1  # the next one

    def __init__(self, file, seconds):
        self._file = file
        self._seconds = seconds
        self._last = self._before = self._read()

    def _read(self):
        with open(self._file) as file:
            celsius = int(file.read()) / 1000
        return fixed((celsius - 40) / 10)  # a network likes numbers around 0

    async def sample(self, x, y):
        x[0], x[1] = self._last, self._before
        await asyncio.sleep(self._seconds)
        self._before, self._last = self._last, self._read()
        y[0] = self._last
