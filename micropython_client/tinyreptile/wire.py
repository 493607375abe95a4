"""The integer arithmetic of a delta on the wire: one source for viper, numba and plain Python.

A cell's change is w - base, brought to 12 fraction bits by a left shift ``up`` (0 for 16-bit weights) and saturated at
+-32767. `kernels` states the rules of the source; ``wire8.py`` is this file with 8-bit weights.
"""

from .portable import const, micropython, ptr8, ptr16, ptr32

# The state of `sparsify`; positions are bits of the packed bytes.
ENTRY = const(0)  # the number of the next entry
TIES = const(1)  # how many more cells that changed by just LEAST are chosen
LEAST = const(2)  # the least change that is chosen
LOW = const(3)  # low bits of a cell's number
BITS = const(4)  # of a change
FIRST = const(5)  # where the window begins
LAST = const(6)  # where the window ends
LOWS = const(7)  # where the low bits begin
VALUES = const(8)  # where the changes begin
ROUNDING = const(9)  # the 16-bit Weyl sequence that rounds
STATE = const(10)  # cells of the state


@micropython.viper
def largest_change(w: ptr16, base: ptr16, start: int, end: int, sign: int, up: int) -> int:
    """The largest absolute change in cells ``start`` to ``end``; ``sign`` is the sign bit of a cell."""
    largest = 0
    i = start
    while i < end:
        change = ((w[i] ^ sign) - sign) - ((base[i] ^ sign) - sign)
        if change < 0:
            change = 0 - change
        if change > largest:
            largest = change
        i += 1
    largest = largest << up
    if largest > 32767:
        largest = 32767
    return largest


@micropython.viper
def count_changes(w: ptr16, base: ptr16, start: int, end: int, sign: int, up: int, least: int) -> int:
    """How many cells from ``start`` to ``end`` have changed by ``least`` or more."""
    count = 0
    i = start
    while i < end:
        change = (((w[i] ^ sign) - sign) - ((base[i] ^ sign) - sign)) << up
        if change < 0:
            change = 0 - change
        if change > 32767:
            change = 32767
        if change >= least:
            count += 1
        i += 1
    return count


@micropython.viper
def quantize(
    w: ptr16,
    base: ptr16,
    start: int,
    end: int,
    sign: int,
    up: int,
    gain: int,
    r: int,
    bits: int,
    out: ptr8,
    first: int,
):
    """Pack cells ``start`` to ``end`` into ``out``, whose first byte holds cell ``first``.

    q = (change * gain + r_i) >> 16, with r_i the Weyl sequence r + 0x9E37 i: the same for cell i however the cells are
    cut into pieces. ``gain`` is at most 65536, and at most 65536 (2^(bits-1) - 1) / largest change.
    16 bits are little-endian; of 4 bits the even cell takes the low half of a byte.
    """
    r = (r + (start & 0xFFFF) * (0x9E37 - 0x10000)) & 0xFFFF
    i = start
    while i < end:
        change = (((w[i] ^ sign) - sign) - ((base[i] ^ sign) - sign)) << up
        if change > 32767:
            change = 32767
        if change < -32767:
            change = -32767
        q = (change * gain + r) >> 16
        r = (r + 0x9E37) & 0xFFFF
        at = i - first
        if bits == 16:
            at = at << 1
            out[at] = q & 0xFF
            out[at + 1] = (q >> 8) & 0xFF
        elif bits == 8:
            out[at] = q & 0xFF
        else:
            if at & 1:
                at = at >> 1
                out[at] = (out[at] | ((q & 15) << 4)) & 0xFF
            else:
                at = at >> 1
                out[at] = q & 15
        i += 1


@micropython.viper
def sparsify(w: ptr16, base: ptr16, start: int, end: int, sign: int, up: int, gain: int, state: ptr32, out: ptr8):
    """Write the chosen ones of cells ``start`` to ``end`` into ``out``, a window of the packed bytes.

    Chosen is who changed by more than `LEAST`, and of those who changed by just as much the first `TIES`. Entry j of
    cell i is bit (i >> `LOW`) + j of the packed bytes, the `LOW` low bits of i, and q as in `quantize`.
    """
    entry = state[ENTRY]
    ties = state[TIES]
    least = state[LEAST]
    low = state[LOW]
    bits = state[BITS]
    first = state[FIRST]
    last = state[LAST]
    r = (state[ROUNDING] + (start & 0xFFFF) * (0x9E37 - 0x10000)) & 0xFFFF
    i = start
    while i < end:
        change = (((w[i] ^ sign) - sign) - ((base[i] ^ sign) - sign)) << up
        if change > 32767:
            change = 32767
        if change < -32767:
            change = -32767
        size = change
        if size < 0:
            size = 0 - size
        if size == least:
            size -= 1
            if ties > 0:
                ties -= 1
                size += 2
        if size > least:
            at = (i >> low) + entry
            if at >= first and at < last:
                at -= first
                out[at >> 3] = out[at >> 3] | (1 << (at & 7))
            at = state[LOWS] + entry * low - first
            value = i
            left = low
            part = 0
            while part < 2:  # the low bits, then the number
                while left > 0:
                    if value & 1 and at >= 0 and at < last - first:
                        out[at >> 3] = out[at >> 3] | (1 << (at & 7))
                    value = value >> 1
                    at += 1
                    left -= 1
                at = state[VALUES] + entry * bits - first
                value = (change * gain + r) >> 16
                left = bits
                part += 1
            entry += 1
        r = (r + 0x9E37) & 0xFFFF
        i += 1
    state[ENTRY] = entry
    state[TIES] = ties


@micropython.viper
def saturate(w: ptr16, count: int, sign: int):
    """Raise by one what is least in the format, and has no negative there, in the first ``count`` cells."""
    i = 0
    while i < count:
        if w[i] == sign:
            w[i] = sign + 1
        i += 1


@micropython.viper
def widen(cells: ptr8, start: int, end: int, first: int, up: int):
    """Bring the 8-bit weights ``start`` to ``end``, which lie from byte ``first`` on, to 16 bits from byte 0 on."""
    i = start
    while i < end:
        value = ((cells[first + i] ^ 0x80) - 0x80) << up
        at = i + i
        cells[at] = value & 0xFF
        cells[at + 1] = (value >> 8) & 0xFF
        i += 1
