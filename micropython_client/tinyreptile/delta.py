"""What a device learned, delta = weights - initialization, quantized for the wire, and the inverse.

Each tensor has its gain g; a cell's change d (int16, Q3.12) becomes q = (d g + r) >> 16, a signed number of 16, 8 or 4
bits, rounded stochastically by the Weyl sequence r; q 65536 / g gives d back, without bias. With 16 bits the gain is
65536 and nothing is lost. The packed cells follow one another across the tensors, in the order of the parameters.
"""

from .kernels import largest_change, quantize
from .portable import view8, view16

BITS = (16, 8, 4)


class DeltaError(ValueError):
    """Packed bytes, gains or bits that are no delta of the model."""


class Delta:
    """The delta of a learner, packed piece by piece into whatever buffer is given; it holds no copy of the weights.

    The same piece packs to the same bytes each time, for as long as the weights stay as they are. ``r`` starts the
    sequence that rounds.

    Attributes:
        bits: 16, 8 or 4.
        gains: a list of ints, one a tensor.
        size: bytes of the whole packed delta.
    """

    def __init__(self, model, weights, initialization, bits, r):
        if bits not in BITS:
            raise DeltaError("a delta has one of %r bits, not %r" % (BITS, bits))
        self.model = model
        self.bits = bits
        self.size = packed_size(model.parameters, bits)
        self._w = view16(weights)
        self._base = view16(initialization)
        self._r = r & 0xFFFF
        self.gains = []
        top = (1 << (bits - 1)) - 1
        for index in range(len(model.tensors)):
            start, end = _range(model, index)
            largest = largest_change(self._w, self._base, start, end)
            self.gains.append(min(65536, (top << 16) // largest) if largest else 65536)

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
            begin, end = _range(self.model, index)
            begin = max(begin, first)
            end = min(end, last)
            if begin < end:
                quantize(self._w, self._base, begin, end, self.gains[index], self._r, self.bits, out, first)
        return count


def packed_size(parameters, bits):
    """Bytes of a packed delta."""
    return (parameters * bits + 7) // 8


def unpack(model, packed, bits, gains):
    """The changes as a list of floats in units of 2^-12, one a parameter: the inverse of `Delta.pack`.

    A plain reference that runs anywhere; a coordinator has its vectorised equal in `coordinator.deltas`. Raises
    `DeltaError` where sizes or gains don't fit the model.
    """
    if bits not in BITS or len(gains) != len(model.tensors) or len(packed) != packed_size(model.parameters, bits):
        raise DeltaError(
            "%d bytes at %r bits and %d gains are no delta of this model" % (len(packed), bits, len(gains))
        )
    for gain in gains:
        if not 1 <= gain <= 65536:
            raise DeltaError("a gain lies between 1 and 65536, not %r" % gain)
    changes = []
    for index, gain in enumerate(gains):
        start, end = _range(model, index)
        for i in range(start, end):
            if bits == 16:
                q = packed[2 * i] | packed[2 * i + 1] << 8
            elif bits == 8:
                q = packed[i]
            else:
                q = packed[i >> 1] >> (4 * (i & 1)) & 15
            if q >> (bits - 1):
                q -= 1 << bits
            changes.append(q * 65536 / gain)
    return changes


def _range(model, index):
    """First cell of tensor ``index`` and the first after it."""
    start = model.tensors[index][1]
    if index + 1 < len(model.tensors):
        return start, model.tensors[index + 1][1]
    return start, model.parameters
