"""Wi-Fi, and the time of day that certificates need."""

import asyncio
import time

from .portable import const, ticks_diff, ticks_ms

_JOIN_SECONDS = const(20)  # for an access point to let the board in
_FIRST_YEAR = const(2024)  # a clock that says less was never set


class Wifi:
    """The access point of the configuration: ``ssid``, ``password``; with ``power_saving`` the radio naps."""

    def __init__(self, ssid, password="", power_saving=True, clock=False):
        import network

        self._network = network
        self._ssid = ssid
        self._password = password
        self._power_saving = power_saving
        self._clock = clock
        self._slept = False
        self._station = network.WLAN(network.STA_IF)

    async def up(self):
        """Return once there is a connection; OSError says why there is none."""
        if not self._station.isconnected():
            await self._join()
        if self._clock:
            unset = time.gmtime()[0] < _FIRST_YEAR
            if unset or self._slept:
                try:
                    set_clock()
                    self._slept = False
                except OSError:
                    if unset:
                        raise

    def down(self):
        """Turn the radio off, for a sleep in which the time of day may stand still."""
        self._slept = True
        self._station.active(False)

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
