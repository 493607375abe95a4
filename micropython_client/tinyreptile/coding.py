"""A delta as it travels: its numbers Rice-coded, in chunks that each can be written by itself, again and again.

Numbers are zigzag (0, -1, 1, -2, ...) and in two parts: what lies above the k lowest bits as so many zeros and a one,
and these bits; k is of each tensor's own. A chunk is the number of bytes of its first part (2 bytes, little-endian) and
the two parts of its cells, each beginning with a new byte; the first chunk begins with a byte for each tensor, its k.
A delta of the largest changes alone travels as it is packed, in pieces.

Names are few here and short: a board's memory holds each of them, and beyond some number 4 KB for more at once.
"""

from array import array

from .messages import DELTA_BYTES
from .portable import const, micropython, ptr8, ptr32, view8, view32

_BATCH = const(128)  # cells that are quantized at once; chunks are made of whole batches


@micropython.viper
def high_bits(numbers: ptr8, count: int, wide: int, low: int) -> int:
    """Bits of the first part of so many ``numbers``, of 16 bits if ``wide``, else of 8, with ``low`` low bits apart."""
    total = 0
    i = 0
    while i < count:
        if wide:
            value = ((numbers[i + i] | (numbers[i + i + 1] << 8)) ^ 0x8000) - 0x8000
        else:
            value = (numbers[i] ^ 0x80) - 0x80
        value = value + value
        if value < 0:
            value = 0 - value - 1
        total += (value >> low) + 1
        i += 1
    return total


@micropython.viper
def put_codes(numbers: ptr8, count: int, wide: int, low: int, out: ptr8, at: ptr32):
    """Write so many ``numbers`` into ``out``, which holds zeros; ``at`` has the next bit of either part."""
    high = at[0]
    lows = at[1]
    i = 0
    while i < count:
        if wide:
            value = ((numbers[i + i] | (numbers[i + i + 1] << 8)) ^ 0x8000) - 0x8000
        else:
            value = (numbers[i] ^ 0x80) - 0x80
        value = value + value
        if value < 0:
            value = 0 - value - 1
        high += value >> low
        out[high >> 3] = out[high >> 3] | (1 << (high & 7))
        high += 1
        j = 0
        while j < low:
            if (value >> j) & 1:
                out[lows >> 3] = out[lows >> 3] | (1 << (lows & 7))
            lows += 1
            j += 1
        i += 1
    at[0] = high
    at[1] = lows


class Coded:
    """The chunks of ``delta``, for as long as its weights stay as they are.

    Attributes:
        sizes: bytes of each chunk.
    """

    def __init__(self, delta):
        self.delta = delta
        self.sizes = sizes = []
        self._parts = parts = []  # of each chunk: first cell, first of the next, bytes of the first part
        if delta.kept is not None:
            sizes += [min(DELTA_BYTES, delta.size - start) for start in range(0, delta.size, DELTA_BYTES)]
            return
        wide = delta.bits >> 4
        self.cells = cells = view8(bytearray(_BATCH << wide))
        begin = high = lows = 0
        head = len(delta.low) + 2
        last = delta.model.parameters
        for index, start, count in self._batches(0, last):
            low = delta.low[index]
            bits = high_bits(cells, count, wide, low)
            if (high + bits + 7) // 8 + (lows + count * low + 7) // 8 + head > DELTA_BYTES:
                parts.append((begin, start, (high + 7) // 8))
                sizes.append(head + (high + 7) // 8 + (lows + 7) // 8)
                head = 2
                begin = start
                high = lows = 0
            high += bits
            lows += count * low
        parts.append((begin, last, (high + 7) // 8))
        sizes.append(head + (high + 7) // 8 + (lows + 7) // 8)

    def _batches(self, start, end):
        """(tensor, first cell, how many) of each batch of the cells ``start`` to ``end``, whose numbers are there."""
        delta = self.delta
        for index in range(len(delta.low)):
            first, last = delta.model.cells(index)
            first = max(first, start)
            last = min(last, end)
            while first < last:
                count = min(_BATCH, last - first)
                delta.quantize(index, first, first + count, 16 if delta.bits == 16 else 8, self.cells, first)
                yield index, first, count
                first += count

    def pack(self, index, buffer):
        """Write chunk ``index`` into ``buffer``, a memoryview of its size."""
        delta = self.delta
        if delta.kept is not None:
            delta.pack(index * DELTA_BYTES, buffer)
            return
        begin, end, part = self._parts[index]
        for i in range(len(buffer)):
            buffer[i] = 0
        start = 0
        if begin == 0:
            start = len(delta.low)
            buffer[:start] = delta.low
        buffer[start] = part & 0xFF
        buffer[start + 1] = part >> 8
        out = view8(buffer)
        at = array("i", (8 * (start + 2), 8 * (start + 2 + part)))
        for tensor, _, count in self._batches(begin, end):
            put_codes(self.cells, count, delta.bits >> 4, delta.low[tensor], out, view32(at))
