"""The integer arithmetic of a sparse delta; `wire` says what a change is, `sparse_delta` what is written.

``sparse8.py`` is this file with 8-bit weights; ``make_kernels8.py`` writes it.
"""

from .portable import const, micropython, ptr8, ptr16, ptr32

# The cells of the state of `sparsify`, see `sparse_delta`.
_ENTRY = const(0)
_TIES = const(1)
_LEAST = const(2)
_LOW = const(3)
_BITS = const(4)
_FIRST = const(5)
_LAST = const(6)
_LOWS = const(7)
_VALUES = const(8)
_ROUNDING = const(9)


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
def sparsify(w: ptr16, base: ptr16, start: int, end: int, sign: int, up: int, gain: int, state: ptr32, out: ptr8):
    """Write the chosen ones of cells ``start`` to ``end`` into ``out``, a window of the packed bytes.

    Chosen is who changed by more than `LEAST`, and of those who changed by just as much the first `TIES`. Entry j of
    cell i is bit (i >> `LOW`) + j of the packed bytes, the `LOW` low bits of i, and q as in `quantize`.
    """
    entry = state[_ENTRY]
    ties = state[_TIES]
    least = state[_LEAST]
    low = state[_LOW]
    bits = state[_BITS]
    first = state[_FIRST]
    last = state[_LAST]
    r = (state[_ROUNDING] + (start & 0xFFFF) * (0x9E37 - 0x10000)) & 0xFFFF
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
            at = state[_LOWS] + entry * low - first
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
                at = state[_VALUES] + entry * bits - first
                value = (change * gain + r) >> 16
                left = bits
                part += 1
            entry += 1
        r = (r + 0x9E37) & 0xFFFF
        i += 1
    state[_ENTRY] = entry
    state[_TIES] = ties
