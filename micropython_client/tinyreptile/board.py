"""What a board has beside sockets: Wi-Fi, the time of day, a watchdog, a light, and nobody to start it anew."""

import asyncio
import sys
import time

from .portable import ticks_diff, ticks_ms

_JOIN_SECONDS = 20  # for an access point to let the board in
_WATCHDOG_MS = 8000  # an RP2040 counts no further than 8.3 s
_PATIENCE_SECONDS = 900  # without a broker: then a restart is worth a try
_FIRST_YEAR = 2024  # a clock that says less was never set

_dog = None  # the watchdog; once started it can't be stopped


class Wifi:
    """The access point of the configuration: ``ssid``, ``password``; with ``power_saving`` the radio naps."""

    def __init__(self, ssid, password="", power_saving=True, clock=False):
        import network

        self._network = network
        self._ssid = ssid
        self._password = password
        self._power_saving = power_saving
        self._clock = clock
        self._station = network.WLAN(network.STA_IF)

    async def up(self):
        """Return once there is a connection; OSError says why there is none."""
        if not self._station.isconnected():
            await self._join()
        if self._clock and time.gmtime()[0] < _FIRST_YEAR:
            set_clock()

    async def _join(self):
        # From the beginning each time: after a lost connection drivers may stay in a state of their own.
        station = self._station
        station.active(False)
        station.active(True)
        try:
            mode = station.PM_POWERSAVE if self._power_saving else station.PM_PERFORMANCE
            station.config(pm=mode)
        except (AttributeError, OSError, ValueError):
            pass  # a port that has no choice
        station.connect(self._ssid, self._password)
        start = ticks_ms()
        while not station.isconnected():
            reason = self._refusal(station.status())
            if reason or ticks_diff(ticks_ms(), start) > 1000 * _JOIN_SECONDS:
                station.active(False)
                raise OSError("no Wi-Fi: %s" % (reason or "%s does not answer" % self._ssid))
            await asyncio.sleep(0.2)

    def _refusal(self, status):
        """Why the access point won't have the board, as the driver has it in ``status``; or None."""
        for name, reason in (
            ("STAT_WRONG_PASSWORD", "wrong password for %s"),
            ("STAT_NO_AP_FOUND", "there is no %s here"),
            ("STAT_CONNECT_FAIL", "%s refuses the board"),
        ):
            if status == getattr(self._network, name, None):
                return reason % self._ssid
        return None


def set_clock():
    """Ask a time server for the time of day, which a certificate's dates are held against; OSError without."""
    import ntptime

    try:
        ntptime.settime()
    except (OSError, OverflowError) as error:
        raise OSError("no time of day from %s: %s" % (ntptime.host, error))


class Watch:
    """Restarts a board whose event loop stands still, or that has had no session for a quarter of an hour.

    It feeds the watchdog, and shows on the pin ``led`` how things are: on while ``mqtt`` has a session, else blinking.
    """

    def __init__(self, mqtt, led=None, watchdog=True):
        self._mqtt = mqtt
        self._led = led
        if watchdog:
            _start_watchdog()

    async def run(self):
        """Until cancelled."""
        alive = ticks_ms()
        lit = False
        while True:
            now = ticks_ms()
            if self._mqtt.connected:
                alive = now
            if ticks_diff(now, alive) < 1000 * _PATIENCE_SECONDS:
                feed()
            lit = self._mqtt.connected or not lit
            if self._led:
                self._led.value(lit)
            await asyncio.sleep(0.5)


def led_pin(name):
    """The output pin ``name``, a number or the board's own name for it; raises ValueError if there is none."""
    from machine import Pin

    try:
        return Pin(name, Pin.OUT, value=0)
    except (TypeError, ValueError, KeyError):
        raise ValueError("the board has no pin %r" % (name,))


def restart():
    """Start the board anew; returns where there is none, and somebody else has to start this process again."""
    try:
        from machine import reset
    except ImportError:
        return
    reset()


def is_board():
    """Whether this runs on a board by itself."""
    try:
        from machine import reset  # noqa: F401
    except ImportError:
        return False
    return True


def cause():
    """Why the board has started, if that was its watchdog; or None."""
    try:
        import machine

        if machine.reset_cause() == machine.WDT_RESET:
            return "its watchdog"
    except (ImportError, AttributeError):
        pass
    return None


def print_exception(error):
    """Print ``error`` with its traceback."""
    if hasattr(sys, "print_exception"):
        sys.print_exception(error)
    else:
        import traceback

        traceback.print_exception(error)


def feed():
    """Keep the watchdog, if one was started, from restarting the board for the next eight seconds."""
    if _dog:
        _dog.feed()


def _start_watchdog():
    global _dog
    try:
        from machine import WDT
    except ImportError:
        return
    _dog = WDT(timeout=_WATCHDOG_MS)
