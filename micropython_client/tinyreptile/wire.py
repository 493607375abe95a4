"""The integer arithmetic of deltas and initializations on the wire: one source for viper, numba and plain Python.

A cell's change is w - base, brought to 12 fraction bits by a left shift ``up`` (0 for 16-bit weights) and saturated at
+-32767. `kernels` states the rules of the source; ``wire8.py`` is this file with 8-bit weights.
"""

from .portable import micropython, ptr8, ptr16, ptr32


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
def sum_changes(w: ptr16, base: ptr16, start: int, end: int, sign: int) -> int:
    """The sum of the absolute changes in cells ``start`` to ``end``, which are 16,384 at most."""
    total = 0
    i = start
    while i < end:
        change = ((w[i] ^ sign) - sign) - ((base[i] ^ sign) - sign)
        if change < 0:
            change = 0 - change
        total += change
        i += 1
    return total


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


@micropython.viper
def change(base: ptr16, start: int, end: int, sign: int, up: int, low: int, data: ptr8, at: ptr32) -> int:
    """Add coded differences, shifted left by ``up``, to the cells from ``start`` on; returns the first without one.

    ``data`` has a zigzag number for each: first of all of them what lies above their ``low`` lowest bits, as so many
    zeros and a one; then the lowest bits. ``at`` holds the bit to read next of either part, and where each ends.
    """
    high = at[0]
    lows = at[1]
    i = start
    while i < end:
        value = 0
        while high < at[2] and not (data[high >> 3] >> (high & 7)) & 1:
            value += 1
            high += 1
        if high >= at[2] or lows + low > at[3]:
            end = i  # no whole number is left
        else:
            high += 1
            value = value << low
            j = 0
            while j < low:
                value = value | (((data[lows >> 3] >> (lows & 7)) & 1) << j)
                lows += 1
                j += 1
            if value & 1:
                value = 0 - ((value + 1) >> 1)
            else:
                value = value >> 1
            base[i] = (base[i] + (value << up)) & (sign + sign - 1)
            i += 1
    at[0] = high
    at[1] = lows
    return i
