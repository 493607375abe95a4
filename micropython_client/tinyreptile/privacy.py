"""What makes a device's updates differentially private: the change is clipped, then noise is added, all in integers.

The Gaussian mechanism with the discrete Gaussian of Canonne, Kamath and Steinke (NeurIPS 2020, arXiv 2004.00010), which
lies on the grid of the weights: nothing is rounded after the noise that was not rounded before it, so there is no leak
through floating point (Mironov, CCS 2012). ``docs/privacy.md`` says what is promised, and to whom.
"""

import json
import os
from array import array

from .model import FRACTION, WEIGHT_BITS
from .portable import RUNNER, const, forget, view8, view16, view32

if RUNNER != "micropython":
    from .cpython_ledger import lock, sync
else:
    lock = None

    def sync(path):
        """Return once what was closed would survive a power cut."""
        if hasattr(os, "sync"):
            os.sync()


MOST_UPDATES = (1 << 31) - 1
MOST_WIDTH = 8192  # of the noise's law, in cells: the sampler's exponents have 31 bits
UNIT = 1 << 40  # of costs on a ledger, see `budget.cost_of`

_EEXIST = const(17)
_COMPUTER = hasattr(os, "getenv")  # where other processes may count on the same ledger
_MOST_RHO = 1e15  # in a message
_PIECE = const(512)  # cells until others get their turn
_RANDOM_BYTES = const(768)  # at once: more than the longest trial takes, see `noise.add_noise`
WIDTH_OF = 1.1775  # k over sigma: sqrt(2 ln 2) and a little more, for a board's floats are short
_LN_2 = 0xB17217F7D1CF79ABC9E3B39803F2F6AF40F343267298B62D  # times 2^192
_X_ROWS = const(12)  # of the table of chances
_EXPONENT_ROWS = const(31)


class BudgetSpent(ValueError):
    """The device has made as many private updates as its owner allows."""


class Privacy:
    """What a device does to its weights before anything of them leaves it.

    Arguments:
        clip: the largest Euclidean norm that a change may have, in units of weights.
        noise: standard deviation of the noise, in units of ``clip``.
        updates: how many updates may ever be made, 0: any number.
        path: the ledger, a file that counts them across restarts; None: they are counted in memory, which is enough
            where nothing leaves the process.
        source: gives as many random bytes as it is asked for; a device has that of its system, a simulation may have
            one that can be repeated.

    Attributes:
        made: updates on the ledger, when it was last looked at.
        kept: (number of a work, its update), for as long as initialization and weights are what it is made of; or None.

    Raises ValueError for values that can't be used, or a damaged file.
    """

    def __init__(self, clip, noise, updates=0, path=None, source=None):
        from .budget import check

        check(clip, noise, updates)
        del check
        self._bound = int(clip * (1 << FRACTION))
        self.clip = clip
        self.noise = noise
        self._updates = updates
        self._path = path
        self.kept = None
        self.made = self._spent = self._cost = 0
        self._alone(self._look)
        self._source = source or os.urandom
        self._chances = bytearray(16 * (_X_ROWS + _EXPONENT_ROWS))
        self._width = 0  # that the chances are for
        self._random = bytearray(_RANDOM_BYTES)
        self._state = array("i", [_RANDOM_BYTES, _RANDOM_BYTES, 0, 0])

    def describe(self, status):
        """Put what it does into the ``status`` of its device."""
        status["clip"] = self.clip
        status["noise"] = self.noise
        self.tell(status)

    def tell(self, message):
        """Put what is on the ledger into ``message``."""
        message["private"] = self.made
        message["rho"] = min(self._spent / UNIT, _MOST_RHO)

    def load(self, weights):
        """Load the arithmetic for "int16" or "int8" ``weights`` before a model fills the memory."""
        noise_for(weights)

    def is_accounted(self, work):
        """Whether the request ``work`` accounts for an update with this noise."""
        return "private" in work and work.get("noise") == self.noise

    def is_ahead(self, work):
        """Whether more updates were made than ``work`` accounts for: it is late, or its coordinator has missed one.

        There is no other before that knows of all, so that it never accounts for less than has left the device.
        """
        return work.get("private", self.made) < self.made

    def keep(self, work, chunks, report):
        """Return the update of ``work`` as it is sent, each time that it is: ``chunks`` and their ``report``."""
        self.tell(report)
        self.kept = work["work"], (chunks, report)
        return self.kept[1]

    def update_of(self, work):
        """Return the update of ``work`` if it is kept, else None; then another takes its place."""
        if self.kept and self.kept[0] != work["work"]:
            self.kept = None
        return self.kept and self.kept[1]

    def end(self):
        """Why no more updates can be made, in a sentence; None if they can."""
        if self.made >= MOST_UPDATES or self._updates and self._spent + self._cost > self._updates * self._cost:
            return "its privacy budget of %d updates is used up" % (self._updates or MOST_UPDATES)
        return None

    async def protect(self, learner, pause):
        """Do w <- phi + clip(w - phi) + noise in place: afterwards the learner's weights may be seen.

        ``pause`` is awaited now and then. One more update is on the ledger before the first change, whatever comes of
        it. Raises `BudgetSpent`, and OSError or ValueError if it can't be counted.
        """
        self._alone(self._count)
        await self._clip(learner, pause)
        await self._add_noise(learner, pause)

    async def _clip(self, learner, pause):
        kernels, view, sign = _format(learner)
        w = view(learner.weights)
        base = view(learner.initialization)
        sums = array("i", [0, 0])
        total = 0  # of squares, in units of 2^-24
        for index, start, end in _pieces(learner.model):
            kernels.add_squares(w, base, start, end, sign, view32(sums))
            total += ((sums[0] << 15) + sums[1]) << 2 * (FRACTION - learner.fractions[index])
            await pause()
        if total > self._bound * self._bound:
            mantissa, shift = ratio(self._bound, total)
            for _, start, end in _pieces(learner.model):
                kernels.shrink(w, base, start, end, sign, mantissa, shift)
                await pause()

    async def _add_noise(self, learner, pause):
        kernels, view, sign = _format(learner)
        w = view(learner.weights)
        chances, random, state = view8(self._chances), view8(self._random), view32(self._state)
        for index, start, end in _pieces(learner.model):
            self._widen(width(self.clip * self.noise, learner.fractions[index]))
            while start < end:
                start = kernels.add_noise(w, start, end, sign, chances, random, state)
                self._refill()
            await pause()

    def _look(self):
        """Take over what is on the ledger; the module that reads it is needed for no longer."""
        from . import budget

        self._cost = budget.cost_of(self.noise)
        made, spent = budget.read(self._path)
        self.made = max(self.made, made)
        self._spent = max(self._spent, spent)
        del budget
        forget("budget")

    def _alone(self, do):
        """Call ``do`` while no other process reads or writes the ledger."""
        held = lock and lock(self._path)
        try:
            do()
        finally:
            if held:
                held.close()

    def _count(self):
        """Write one more update on the ledger."""
        if _COMPUTER:
            self._look()
        if self.end():
            raise BudgetSpent(self.end())
        if self._path:
            _write(self._path, json.dumps({"updates": self.made + 1, "cost": self._spent + self._cost}))
        self.made += 1
        self._spent += self._cost

    def _widen(self, k):
        """Make the noise's law the one of width ``k``."""
        if k != self._width:
            self._width = k
            write_chances(self._chances, k)
            self._state[2] = k
            self._state[3] = (1 << bits(k - 1)) - 1

    def _refill(self):
        """Bring what is left of the random bytes to the front, and new ones behind it."""
        used = self._state[0]
        left = _RANDOM_BYTES - used
        self._random[:left] = self._random[used:]
        self._random[left:] = self._source(used)
        self._state[0] = 0


def width(sigma, fraction):
    """Number k of the law P(z) ~ 2^-(z/k)^2 of integers z, the discrete Gaussian of the deviation k / sqrt(2 ln 2).

    In units of 2^-``fraction`` that deviation is at least ``sigma``.
    """
    return int(sigma * (1 << fraction) * WIDTH_OF) + 1


def write_chances(chances, k):
    """Write the table that `noise.add_noise` decides by for the width ``k``: 43 rows of 16 bytes, in 2^-128, cut off.

    A row is off by less than 2^-127, and x never passes 11: so a cell's noise has a law that differs from the one named
    by less than 2^-120 in total variation.
    """
    tails = [sum([1 << (256 - j * j) for j in range(i, 17)]) for i in range(_X_ROWS)]
    for i in range(_X_ROWS):  # of x > i, if it is at least i
        _put(chances, i, (tails[i + 1] << 128) // tails[i] if i < _X_ROWS - 1 else 0)
    exponent = _LN_2 // (k * k)
    term = chance = 1 << 192  # of 2^-(1/k^2) = exp(-ln 2 / k^2)
    n = 0
    while term:
        n += 1
        term = term * exponent // n >> 192
        chance += term if n % 2 == 0 else -term
    for i in range(_X_ROWS, _X_ROWS + _EXPONENT_ROWS):
        _put(chances, i, min(chance >> 64, (1 << 128) - 1))
        chance = chance * chance >> 192


def _put(chances, row, value):
    for i in range(16 * row + 15, 16 * row - 1, -1):
        chances[i] = value & 0xFF
        value >>= 8


def ratio(bound, total):
    """(mantissa, shift), as `noise.shrink` has them, of at most ``bound`` / sqrt(``total``), a number below 1."""
    root = 1 << ((bits(total) + 1) // 2)
    while True:  # Newton's method comes down to the root, cut off
        less = (root + total // root) >> 1
        if less >= root:
            break
        root = less
    if root * root < total:
        root += 1
    shift = 30
    while (bound << shift) // root >= 1 << 15:
        shift -= 1
    return (bound << shift) // root, shift


def bits(number):
    """How many bits the non-negative ``number`` has."""
    count = 0
    while number:
        number >>= 1
        count += 1
    return count


def noise_for(weights):
    """The module of the arithmetic for "int16" or "int8" ``weights``."""
    if weights == "int8":
        from . import noise8 as noise
    else:
        from . import noise
    return noise


def _format(learner):
    """(arithmetic, view of the cells, their sign bit) of the learner's weights."""
    weights = learner.model.weights
    return noise_for(weights), view8 if weights == "int8" else view16, 1 << (WEIGHT_BITS[weights] - 1)


def _pieces(model):
    """(tensor, first cell, end) of pieces that make up the parameters, each within a tensor."""
    for index in range(len(model.offsets)):
        start, end = model.cells(index)
        while start < end:
            yield index, start, min(end, start + _PIECE)
            start += _PIECE


def _write(path, text):
    """Replace the file ``path`` by renaming, so that whenever the power fails there is a whole one."""
    new = path + ".new"
    with open(new, "w") as file:
        file.write(text)
    sync(new)
    try:
        os.rename(new, path)
    except OSError as error:
        if error.errno != _EEXIST:
            raise
        os.remove(path)  # a file system that does not rename on to a file
        os.rename(new, path)
    sync(path)
