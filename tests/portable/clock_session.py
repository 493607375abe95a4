"""A device's clock on a MicroPython whose own is played: prints what has passed by it, after each of 40 days.

micropython clock_session.py BEGIN: what the played clock reads at first, in ms; it goes round after 2^30 of them.
"""

import sys

DAY = 24 * 3600 * 1000


class Time:
    """The module `time` of a board of 32 bits, with a clock that the session sets."""

    now = int(sys.argv[1])

    @staticmethod
    def ticks_ms():
        return Time.now & ((1 << 30) - 1)

    @staticmethod
    def ticks_diff(end, start):
        return ((end - start + (1 << 29)) & ((1 << 30) - 1)) - (1 << 29)


sys.modules["time"] = Time

from tinyreptile.portable import ticks_diff, ticks_ms  # noqa: E402 - the played clock comes first

begin = ticks_ms()
joined_at = ticks_ms()
print([ticks_diff(ticks_ms(), joined_at)])
passed = []
for _ in range(40):
    Time.now += DAY
    passed.append(ticks_diff(ticks_ms(), begin) / DAY)
print(passed)
