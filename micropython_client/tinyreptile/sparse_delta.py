"""A delta of its largest changes only; quantized as in `delta`.

It holds the numbers of the m cells that changed most in the Elias-Fano code: with l = floor(log2(n/m)) of n parameters,
first a bit map that has bit (i >> l) + j set for the j-th of them, cell i; then the l low bits of every i; then every
q. Each of the three begins with a new byte and fills its bytes from the lowest bit on.
"""

from array import array

from .delta import Delta, DeltaError
from .portable import view8, view32

# The cells of the state of `sparse.sparsify`; positions are bits of the packed bytes.
ENTRY = 0  # the number of the next entry
TIES = 1  # how many more cells that changed by just LEAST are chosen
LEAST = 2  # the least change that is chosen
LOW = 3  # low bits of a cell's number
BITS = 4  # of a change
FIRST = 5  # where the window begins
LAST = 6  # where the window ends
LOWS = 7  # where the low bits begin
VALUES = 8  # where the changes begin
ROUNDING = 9  # the 16-bit Weyl sequence that rounds
STATE = 10  # cells of the state


class SparseDelta(Delta):
    """As `delta.Delta`, of the ``kept`` largest changes."""

    def __init__(self, model, weights, initialization, fractions, bits, r, kept):
        if not 1 <= kept <= model.parameters:
            raise DeltaError("of %d changes 1 or more are kept, not %r" % (model.parameters, kept))
        Delta.__init__(self, model, weights, initialization, fractions, bits, r)
        self.kept = kept
        self._sparse = sparse_for(model.weights)
        least = 0  # the largest change that at least `kept` cells reach: by bisection, which takes no memory
        beyond = 32768
        while beyond - least > 1:
            middle = (least + beyond) // 2
            if self._count(middle) >= kept:
                least = middle
            else:
                beyond = middle
        lows, values, self.size = sections(model.parameters, bits, kept)
        self._ties = kept - self._count(least + 1)
        self._state = state = array("i", [0] * STATE)
        state[LEAST] = least
        state[LOW] = low_bits(model.parameters, kept)
        state[BITS] = bits
        state[ROUNDING] = self._r
        state[LOWS] = 8 * lows
        state[VALUES] = 8 * values

    def pack(self, start, buffer):
        """As `delta.Delta.pack`; a piece may begin and end with any byte."""
        count = min(len(buffer), self.size - start)
        out = view8(buffer)
        for i in range(count):
            out[i] = 0
        state = self._state
        state[ENTRY] = 0
        state[TIES] = self._ties
        state[FIRST] = 8 * start
        state[LAST] = 8 * (start + count)
        cells = view32(state)
        for index in range(len(self.gains)):
            begin, end = self.model.cells(index)
            self._sparse.sparsify(
                self._w, self._base, begin, end, self._sign, self._ups[index], self.gains[index], cells, out
            )
        return count

    def _count(self, least):
        """How many cells have changed by ``least`` (Q3.12) or more."""
        total = 0
        for index in range(len(self.gains)):
            start, end = self.model.cells(index)
            total += self._sparse.count_changes(self._w, self._base, start, end, self._sign, self._ups[index], least)
        return total


def sections(parameters, bits, kept):
    """Where, in bytes, the low bits and the numbers of a sparse delta begin, and where it ends."""
    low = low_bits(parameters, kept)
    lows = (((parameters - 1) >> low) + 1 + kept + 7) // 8
    values = lows + (kept * low + 7) // 8
    return lows, values, values + (kept * bits + 7) // 8


def low_bits(parameters, kept):
    """How many low bits of each cell's number a sparse delta holds apart."""
    low = 0
    while kept << (low + 1) <= parameters:
        low += 1
    return low


def sparse_for(weights):
    """The module of a sparse delta's arithmetic for "int16" or "int8" ``weights``."""
    if weights == "int8":
        from . import sparse8 as sparse
    else:
        from . import sparse
    return sparse
