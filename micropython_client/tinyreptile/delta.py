"""What a device learned, delta = weights - initialization, quantized for the wire; `unpacking` has the inverse.

Each tensor has its gain g; a cell's change d (int16, Q3.12) becomes q = (d g + r) >> 16, a signed number of 16, 8 or 4
bits, rounded stochastically by the Weyl sequence r; q 65536 / g gives d back, without bias. With 16 bits the gain is
65536 and nothing is lost. The packed cells follow one another across the tensors, in the order of the parameters.
`sparse_delta` packs the largest changes only.
"""

from .learner import wire_for
from .model import FRACTION, WEIGHT_BITS
from .portable import const, view8, view16

_SUMMED = const(16384)  # cells whose changes are summed up at once

BITS = (16, 8, 4)


class DeltaError(ValueError):
    """Packed bytes, gains or bits that are no delta of the model."""


class Delta:
    """The delta of a learner, packed piece by piece into whatever buffer is given; it holds no copy of the weights.

    The same piece packs to the same bytes each time, for as long as the weights stay as they are. ``fractions`` are
    the fraction bits of each tensor's cells; ``r`` starts the sequence that rounds.

    Attributes:
        bits: 16, 8 or 4.
        gains: a list of ints, one a tensor.
        low: a byte for each tensor: how many bits of its numbers stand apart where they travel coded, see `coding`.
        kept: how many of the largest changes are packed; None: all.
        size: bytes of the whole packed delta.
    """

    kept = None

    def __init__(self, model, weights, initialization, fractions, bits, r):
        if bits not in BITS:
            raise DeltaError("a delta has one of %r bits, not %r" % (BITS, bits))
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
        self.low = bytearray(len(model.offsets))
        most = (1 << (bits - 1)) - 1
        for index in range(len(model.offsets)):
            start, end = model.cells(index)
            largest = wire.largest_change(self._w, self._base, start, end, self._sign, self._ups[index])
            self.gains.append(min(65536, (most << 16) // largest) if largest else 65536)
            # About ln 2 times the mean of the zigzag numbers is best, and no number may have more than 15 zeros.
            mean = 0
            for first in range(start, end, _SUMMED):
                mean += wire.sum_changes(self._w, self._base, first, min(end, first + _SUMMED), self._sign)
            mean = (mean << self._ups[index]) * self.gains[index] * 14 // (10 * (end - start)) >> 16
            widest = 2 * (largest if bits == 16 else most)
            low = 0
            while low < bits and (mean >> low or widest >> low > 15):
                low += 1
            self.low[index] = low
        self.size = (model.parameters * bits + 7) // 8

    def pack(self, start, buffer):
        """Fill ``buffer`` (bytearray or memoryview) with the packed bytes from byte ``start`` on; returns their number.

        Raises `DeltaError` where 16-bit cells would be cut in two.
        """
        count = min(len(buffer), self.size - start)
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
                self.quantize(index, begin, end, self.bits, out, first)
        return count

    def quantize(self, index, start, end, bits, out, at):
        """Write the numbers of the cells ``start`` to ``end``, of tensor ``index``, to ``out`` in ``bits`` each.

        ``out``, a `portable.view8`, begins with cell ``at``. 8 bits hold the numbers of 4-bit deltas, too.
        """
        self._wire.quantize(
            self._w,
            self._base,
            start,
            end,
            self._sign,
            self._ups[index],
            self.gains[index],
            self._r,
            bits,
            out,
            at,
        )
