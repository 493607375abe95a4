"""What a device's private updates may cost and have cost: options checked, the ledger read. A board forgets it after.

The ledger is a file that `privacy` writes, before anything of an update leaves the device.
"""

import json
import os

from .model import FRACTION
from .portable import const
from .privacy import MOST_UPDATES, MOST_WIDTH, WIDTH_OF, width

_ENOENT = const(2)
_LENGTH = const(100)  # of the text, at most
_MOST_COST = 1 << 124


def check(clip, noise, updates=0):
    """Raises ValueError for what a `Privacy` can't be made of."""
    for name, value in (("clip", clip), ("noise", noise)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1e-6 <= value <= 1e6:
            raise ValueError("%s is a number from 0.000001 to 1000000, not %r" % (name, value))
    if isinstance(updates, bool) or not isinstance(updates, int) or not 0 <= updates <= MOST_UPDATES:
        raise ValueError("updates is how many may be made, 0 for any number, not %r" % (updates,))
    if int(clip * (1 << FRACTION)) == 0:
        raise ValueError("clip is at least %g, the distance of two weights, not %r" % (1 / (1 << FRACTION), clip))
    if int(clip * (1 << FRACTION)) >= 32767:  # beyond it, changes would be saturated that were not clipped
        raise ValueError("clip is below 8, the largest weight, not %r" % clip)
    if width(clip * noise, FRACTION) > MOST_WIDTH:
        most = (MOST_WIDTH - 1) / WIDTH_OF / (1 << FRACTION)
        raise ValueError("clip times noise is at most %.3f, not %r" % (most, clip * noise))


def cost_of(noise):
    """What an update costs: rho = 2 / ``noise``^2 of zero-concentrated differential privacy, in 2^-40, rounded up.

    Costs are whole numbers, which add up on a board with short floats as anywhere.
    """
    scaled = int(noise * (1 << 44))
    square = scaled * scaled
    return ((2 << 128) + square - 1) // square


def read(path):
    """Return (updates, their cost) of what the file ``path`` has counted, or without one of none.

    Raises ValueError if it can't be read, or is not as `privacy` has written it.
    """
    if not path:
        return 0, 0
    found = _read(path)
    if found is None:
        found = _read(path + ".new")
        # On a board `privacy._write` was interrupted, and may not write where this is all that there is. On a computer
        # it renames at once, and somebody else may be about to.
        if found and not hasattr(os, "getenv"):
            try:
                os.rename(path + ".new", path)
            except OSError as error:
                raise ValueError("%s.new, the count of private updates, can't be renamed: %s" % (path, error))
    return found or (0, 0)  # none was ever made


def _read(path):
    """Return (updates, their cost) of what the file ``path`` has counted, None if it is not there.

    Raises ValueError for every other reason why it can't be read, or if no `_write` has left it so.
    """
    try:
        with open(path) as file:
            text = file.read(_LENGTH + 1)
        if len(text) <= _LENGTH:  # which bounds its nesting, too
            counted = json.loads(text)
            updates, cost = counted["updates"], counted["cost"]
            if type(updates) is int and type(cost) is int:
                if 1 <= updates <= MOST_UPDATES and 1 <= cost <= _MOST_COST:
                    return updates, cost
    except OSError as error:
        if error.errno == _ENOENT:
            return None
        raise ValueError("%s, the count of private updates, can't be read: %s" % (path, error))
    except (ValueError, TypeError, KeyError):
        pass
    raise ValueError("%s does not say how many private updates were made; only its owner can tell" % path)
