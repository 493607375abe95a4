"""What a device learned, delta = weights - initialization, quantized for the wire; `unpacking` has the inverse.

Each tensor has its gain g; a cell's change d (int16, Q3.12) becomes q = (d g + r) >> 16, a signed number of 16, 8 or 4
bits, rounded stochastically by the Weyl sequence r; q 65536 / g gives d back, without bias. With 16 bits the gain is
65536 and nothing is lost. The packed cells follow one another across the tensors, in the order of the parameters.

A sparse delta holds the m largest changes only, after their numbers in the Elias-Fano code: with l = floor(log2(n/m))
of n parameters, first a bit map that has bit (i >> l) + j set for the j-th of them, cell i; then the l low bits of
every i; then every q. Each of the three begins with a new byte and fills its bytes from the lowest bit on.
"""

from array import array

from .learner import wire_for
from .model import FRACTION, WEIGHT_BITS
from .portable import view8, view16, view32

BITS = (16, 8, 4)


class DeltaError(ValueError):
    """Packed bytes, gains or bits that are no delta of the model."""


class Delta:
    """The delta of a learner, packed piece by piece into whatever buffer is given; it holds no copy of the weights.

    The same piece packs to the same bytes each time, for as long as the weights stay as they are. ``fractions`` are
    the fraction bits of each tensor's cells; ``r`` starts the sequence that rounds; ``kept`` is how many of the largest
    changes are packed, None for all.

    Attributes:
        bits: 16, 8 or 4.
        gains: a list of ints, one a tensor.
        kept: how many of the largest changes are packed; None: all.
        size: bytes of the whole packed delta.
    """

    def __init__(self, model, weights, initialization, fractions, bits, r, kept=None):
        if bits not in BITS:
            raise DeltaError("a delta has one of %r bits, not %r" % (BITS, bits))
        if kept is not None and not 1 <= kept <= model.parameters:
            raise DeltaError("of %d changes 1 or more are kept, not %r" % (model.parameters, kept))
        view = view8 if model.weights == "int8" else view16
        self._wire = wire = wire_for(model.weights)
        self._sign = 1 << (WEIGHT_BITS[model.weights] - 1)
        self.model = model
        self.bits = bits
        self._w = view(weights)
        self._base = view(initialization)
        self._ups = [FRACTION - fraction for fraction in fractions]
        self._r = r & 0xFFFF
        self.gains = []
        most = (1 << (bits - 1)) - 1
        for index in range(len(model.tensors)):
            start, end = model.cells(index)
            largest = wire.largest_change(self._w, self._base, start, end, self._sign, self._ups[index])
            self.gains.append(min(65536, (most << 16) // largest) if largest else 65536)
        self.kept = kept
        if kept is not None:
            self._choose()
        self.size = packed_size(model.parameters, bits, self.kept)

    def pack(self, start, buffer):
        """Fill ``buffer`` (bytearray or memoryview) with the packed bytes from byte ``start`` on; returns their number.

        Raises `DeltaError` where 16-bit cells would be cut in two.
        """
        count = min(len(buffer), self.size - start)
        if self.kept is not None:
            return self._pack_sparse(start, buffer, count)
        if self.bits == 16 and (start | count) & 1:
            raise DeltaError("a piece of 16-bit cells has an even start and length")
        first = start * 8 // self.bits
        last = min((start + count) * 8 // self.bits, self.model.parameters)
        out = view8(buffer)
        for index in range(len(self.gains)):
            begin, end = self.model.cells(index)
            begin = max(begin, first)
            end = min(end, last)
            if begin < end:
                self._wire.quantize(
                    self._w,
                    self._base,
                    begin,
                    end,
                    self._sign,
                    self._ups[index],
                    self.gains[index],
                    self._r,
                    self.bits,
                    out,
                    first,
                )
        return count

    def _count(self, least):
        """How many cells have changed by ``least`` (Q3.12) or more."""
        total = 0
        for index in range(len(self.model.tensors)):
            start, end = self.model.cells(index)
            total += self._wire.count_changes(self._w, self._base, start, end, self._sign, self._ups[index], least)
        return total

    def _choose(self):
        """Find how large a change must be to be kept, by bisection: no memory but a few counts."""
        wire = self._wire
        parameters = self.model.parameters
        kept = self.kept
        least = 0  # the largest change that at least `kept` cells reach
        beyond = 32768
        while beyond - least > 1:
            middle = (least + beyond) // 2
            if self._count(middle) >= kept:
                least = middle
            else:
                beyond = middle
        state = array("i", [0] * wire.STATE)
        state[wire.LEAST] = least
        state[wire.LOW] = low_bits(parameters, kept)
        state[wire.BITS] = self.bits
        state[wire.ROUNDING] = self._r
        lows, values, _ = sections(parameters, self.bits, kept)
        state[wire.LOWS] = 8 * lows
        state[wire.VALUES] = 8 * values
        self._ties = kept - self._count(least + 1)
        self._state = state

    def _pack_sparse(self, start, buffer, count):
        out = view8(buffer)
        for i in range(count):
            out[i] = 0
        wire = self._wire
        state = self._state
        state[wire.ENTRY] = 0
        state[wire.TIES] = self._ties
        state[wire.FIRST] = 8 * start
        state[wire.LAST] = 8 * (start + count)
        cells = view32(state)
        for index in range(len(self.gains)):
            begin, end = self.model.cells(index)
            self._wire.sparsify(
                self._w, self._base, begin, end, self._sign, self._ups[index], self.gains[index], cells, out
            )
        return count


def packed_size(parameters, bits, kept=None):
    """Bytes of a packed delta, of all ``parameters`` or of the ``kept`` largest."""
    if kept is None:
        return (parameters * bits + 7) // 8
    return sections(parameters, bits, kept)[2]


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
