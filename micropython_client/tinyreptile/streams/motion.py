"""An accelerometer: which gesture, which activity? Labels come over MQTT or from buttons."""

import asyncio
import struct

from ..learner import fixed
from ..portable import const
from . import Stream

_ADDRESS = const(0x68)
_POWER = const(0x6B)  # registers of the MPU-6050 and its relatives
_DATA = const(0x3B)
_G = 16384.0  # units of 1 g in the range that the sensor starts with, +-2 g


class MotionStream(Stream):
    """``window`` readings of all three axes, one every ``seconds``, of an MPU-6050 at the pins ``sda`` and ``scl``.

    A sample is the window up to the moment when somebody says what it was: by a message on the device's label topic, or
    with one of the pins ``buttons``, one for each class, that connect to ground. Inputs are in units of 1 g.
    """

    def __init__(self, sda, scl, classes, window=25, seconds=0.04, buttons=()):
        if not 2 <= classes <= 64:
            raise ValueError("there are 2 to 64 classes, not %r" % (classes,))
        if not 1 <= window <= 200:
            raise ValueError("a window has 1 to 200 readings, not %r" % (window,))
        if len(buttons) not in (0, classes):
            raise ValueError("%d classes need %d buttons or none, not %d" % (classes, classes, len(buttons)))
        self.inputs = 3 * window
        self.outputs = classes
        self._seconds = seconds
        self._cells = [0] * self.inputs  # of the newest readings in Q5.10, the oldest first
        self._taken = 0
        self._window = window
        self._label = None
        self._raw = bytearray(6)
        try:
            from machine import I2C, Pin

            self._bus = I2C(0, sda=Pin(sda), scl=Pin(scl), freq=400000)
            self._buttons = [Pin(pin, Pin.IN, Pin.PULL_UP) for pin in buttons]
        except (ImportError, TypeError, ValueError):
            raise ValueError("there is no I2C at pins %r and %r" % (sda, scl))
        try:
            self._bus.writeto_mem(_ADDRESS, _POWER, b"\x00")  # it sleeps after power-up
        except OSError:
            raise ValueError("no accelerometer answers at pins %r and %r" % (sda, scl))

    def label(self, value):
        """What the newest readings were."""
        if 0 <= value < self.outputs:
            self._label = value

    async def sample(self, x, y):
        """Wait for a label; the window before it is the sample."""
        self._label = None
        while self._label is None or self._taken < self._window:
            await asyncio.sleep(self._seconds)
            self._take()
            for index, button in enumerate(self._buttons):
                if not button.value():
                    self._label = index
        self.newest(x)
        y[0] = self._label

    def newest(self, x):
        """The newest window, once there is one."""
        if self._taken < self._window:
            return False
        for i in range(self.inputs):
            x[i] = self._cells[i]
        return True

    def _take(self):
        self._bus.readfrom_mem_into(_ADDRESS, _DATA, self._raw)
        del self._cells[:3]
        for value in struct.unpack(">hhh", self._raw):
            self._cells.append(fixed(value / _G))
        self._taken += 1
