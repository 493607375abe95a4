"""What a device has to say: printed, and the newest lines kept for who asks over MQTT."""

import sys

from .portable import const, ticks_diff, ticks_ms

_LINE = const(200)  # characters that are kept of one
_SHOWN = const(600)  # and printed


def show(text):
    """Print the line ``text``, with question marks for control characters, which a terminal obeys, and what it lacks.

    It is cut where it is long. That nothing takes it is no reason to stop.
    """
    try:
        data = bytearray(text[:_SHOWN].encode("utf-8", "replace"))
        # Characters are not looked at one by one: MicroPython would keep each for ever, as a name.
        for i in range(len(data)):
            if data[i] < 32 or data[i] == 127:
                data[i] = 63
            elif data[i] < 160 and data[i - 1] == 194:  # the controls of Latin-1
                data[i - 1] = data[i] = 63
        text = bytes(data).decode()
        try:
            print(text)
        except UnicodeError:  # on CPython alone
            encoding = getattr(sys.stdout, "encoding", "ascii")
            print(text.encode(encoding, "replace").decode(encoding))
    except (OSError, ValueError):
        pass  # a disk that is full, a terminal that is gone


class Log:
    """The newest lines, of at most ``size`` characters in all; a call adds one, with the seconds since the start."""

    def __init__(self, name, size=2048):
        self._name = name
        self._size = size
        self._lines = []
        self._used = 0
        self._at = ticks_ms()

    def __call__(self, text):
        """Add the line ``text``."""
        try:
            text.encode()
        except ValueError:  # CPython has texts that UTF-8 has not
            text = repr(text)
        show("%s: %s" % (self._name, text))
        line = "%d %s" % (ticks_diff(ticks_ms(), self._at) // 1000, text[:_LINE])
        self._lines.append(line)
        self._used += len(line)
        while self._used > self._size:
            self._used -= len(self._lines.pop(0))

    def lines(self):
        """The lines that are kept, oldest first."""
        return list(self._lines)
