"""Runs the client's end of a TLS handshake on the board that runs this, in steps that are timed.

The host is the other end: it hands over what the broker sent and takes what the client answers.
"""

import io

from machine import RTC
from measure import Clock

from tinyreptile.tls import tls_context


class Wire(io.IOBase):
    """A stream in memory, without a limit, that never waits."""

    def __init__(self):
        self.received = b""
        self.sent = b""

    def readinto(self, buffer):
        count = min(len(buffer), len(self.received))
        if not count:
            return None  # nothing yet
        buffer[:count] = self.received[:count]
        self.received = self.received[count:]
        return count

    def write(self, data):
        self.sent += data
        return len(data)

    def ioctl(self, request, argument):
        return 0


class Client:
    """A TLS client of ``host``, with the library's own context; ``files`` are its arguments."""

    def __init__(self, megahertz, now, host, files):
        RTC().datetime(now)  # certificates have dates
        self._clock = Clock(megahertz)
        self._wire = Wire()
        self._made = []
        self.context_ticks = self._clock.time(lambda: self._made.append(tls_context(*files)))
        self._made.append(self._made[0].wrap_socket(self._wire, server_hostname=host, do_handshake_on_connect=False))

    def step(self, received):
        """Return (ticks, bytes to send): as much of the handshake as the ``received`` bytes allow."""
        self._wire.received += received
        ticks = self._clock.time(lambda: self._made[1].read(1))
        return ticks, self._take()

    def write(self, data):
        """Return the record that ``data`` is sent in, once the handshake is over."""
        self._made[1].write(data)
        return self._take()

    def _take(self):
        sent, self._wire.sent = self._wire.sent, b""
        return sent
