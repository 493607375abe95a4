"""A device on a board: nobody else would start it again, so it restarts the board, whatever goes wrong.

But not at once, so that there is time to see what it was and to stop it. Why it did is kept in the file `ENDED` and
said when it is up again.
"""

import asyncio
import os
import sys
import time

from .device import ConfigError, DeviceError
from .log import show
from .portable import const, ticks_diff, ticks_ms
from .streams import words

LAST = "config.last"  # the configuration that the device joined with last
ENDED = "ended"  # why the last start came to its end
_PAUSE = const(30)  # seconds before the board restarts
_WATCHDOG_MS = const(8000)  # an RP2040 counts no further than 8.3 s
_NAP_MS = const(5000)
_DOZE_MS = const(20)  # a light sleep that ends sooner is none
_PATIENCE_SECONDS = const(900)  # without a broker: then a restart is worth a try

_dog = None  # the watchdog; once started it can't be stopped


def main(path, run):
    """Do ``run(path, this module, notice)`` of `device`, and restart whatever comes of it.

    ``notice`` is what the device's status is to say. Returns if nothing but a hand helps, and after Ctrl-C.
    """
    from machine import reset

    notice = None
    for at in (path, LAST):
        try:
            if not run(at, sys.modules[__name__], notice):
                return
            break
        except ConfigError as error:
            if notice is None:
                notice = str(error)
                show("error: %s; the last good configuration is taken, if there is one" % notice)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever it is: it must not be the board's end
            if isinstance(error, DeviceError):
                show("error: %s" % error)
            else:
                _print_exception(error)
            _pause(words(error))
            break
    else:
        show("error: %s" % notice)
        if not _is_trial():
            return  # a restart would end here again, and the prompt is what a better configuration comes through
        _pause(notice)
    reset()


class Watch:
    """Restarts a board whose event loop stands still, or that has had no session for a quarter of an hour.

    It feeds the watchdog, and shows on the pin ``led`` how things are: on while ``mqtt`` has a session, else blinking.
    """

    def __init__(self, mqtt, led=None, watchdog=True):
        self._mqtt = mqtt
        self._led = led
        self._alive = ticks_ms()
        if watchdog:
            _start_watchdog()

    async def run(self):
        """Until cancelled."""
        lit = False
        while True:
            now = ticks_ms()
            if self._mqtt.connected:
                self._alive = now
            if ticks_diff(now, self._alive) < 1000 * _PATIENCE_SECONDS:
                _feed()
            lit = self._mqtt.connected or not lit
            if self._led:
                self._led.value(lit)
            await asyncio.sleep(0.5)

    async def sleep(self, seconds):
        """Let ``seconds`` go by in light sleep, in pieces that the watchdog stands; awake where the board has none.

        The time of a light sleep is a maximum: whatever wakes the chip ends it, such as a timer of the network, every
        64 ms. So the clock says when all is over. One that ends at once is no rest: that piece is waited for awake.
        """
        import machine

        if self._led:
            self._led.value(0)
        start = now = ticks_ms()
        while True:
            self._alive = now
            _feed()
            piece = min(int(1000 * seconds) - ticks_diff(now, start), _NAP_MS)
            if piece <= 0:
                return
            if hasattr(machine, "lightsleep"):
                machine.lightsleep(piece)
            slept = ticks_diff(ticks_ms(), now)
            if slept < min(piece, _DOZE_MS):
                await asyncio.sleep((piece - slept) / 1000)
            now = ticks_ms()


def watch(config, client):
    """What looks after a board."""
    try:
        led = None if config["led"] == "" else _led_pin(config["led"])
    except ValueError as error:
        raise ConfigError("led: %s" % error)
    watch = Watch(client.mqtt, led, config["watchdog"])
    if client.rest:
        client.rest.pause = watch.sleep
    return watch


def keep(path):
    """The configuration ``path`` was good enough to join with: it is what the board falls back on."""
    try:
        with open(path) as file:
            text = file.read()
        try:
            with open(LAST) as file:
                if file.read() == text:
                    return
        except OSError:
            pass
        with open(LAST, "w") as file:
            file.write(text)
    except OSError:
        pass  # a full flash, say: the board can do without


def recall(log):
    """Say why the last start came to its end, if that was no good one."""
    text = _cause()
    try:
        with open(ENDED) as file:
            text = file.read(200)
        os.remove(ENDED)
    except (OSError, UnicodeError):
        pass
    if text:
        log("the last start was ended by %s" % text)


def _pause(reason):
    """Before a restart for ``reason``, which is kept to be told after it."""
    print("the board restarts in %d s" % _PAUSE)
    try:
        with open(ENDED, "w") as file:
            file.write(reason[:200])
    except OSError:
        pass
    for _ in range(_PAUSE):
        _feed()
        time.sleep(1)


def _is_trial():
    """Whether the library that runs is a new version that has not come up yet, so that another start may help."""
    try:
        import slots
    except ImportError:
        return False
    return slots.is_trial()


def _led_pin(name):
    """The output pin ``name``, a number or the board's own name for it; raises ValueError if there is none."""
    from machine import Pin

    try:
        return Pin(name, Pin.OUT, value=0)
    except (TypeError, ValueError, KeyError):
        raise ValueError("the board has no pin %r" % (name,))


def _cause():
    """Why the board has started, if that was its watchdog; or None."""
    try:
        import machine

        if machine.reset_cause() == machine.WDT_RESET:
            return "its watchdog"
    except (ImportError, AttributeError):
        pass
    return None


def _print_exception(error):
    """Print ``error`` with its traceback."""
    if hasattr(sys, "print_exception"):
        sys.print_exception(error)
    else:
        import traceback

        traceback.print_exception(error)


def _feed():
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
