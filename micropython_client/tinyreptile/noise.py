"""The integer arithmetic that makes an update private: one source for viper, numba and plain Python.

A cell's change is w - base, saturated at +-32767. `kernels` states the rules of the source; ``noise8.py`` is this file
with 8-bit weights. `privacy` drives it.
"""

from .portable import const, micropython, ptr8, ptr16, ptr32

# Cells of the state of `add_noise`.
_AT = const(0)  # the first byte that no cell's noise is made of yet
_END = const(1)  # bytes that there are
_WIDTH = const(2)  # k of the noise's law
_MASK = const(3)  # of the bits that a number below k has


@micropython.viper
def add_squares(w: ptr16, base: ptr16, start: int, end: int, sign: int, sums: ptr32):
    """The squares of at most 2^15 changes, summed: their lowest 15 bits into ``sums[1]``, the rest into ``sums[0]``."""
    high = 0
    low = 0
    i = start
    while i < end:
        change = ((w[i] ^ sign) - sign) - ((base[i] ^ sign) - sign)
        if change > 32767:
            change = 32767
        if change < -32767:
            change = -32767
        square = change * change
        high += square >> 15
        low += square & 0x7FFF
        i += 1
    sums[0] = high
    sums[1] = low


@micropython.viper
def shrink(w: ptr16, base: ptr16, start: int, end: int, sign: int, mantissa: int, shift: int):
    """Multiply changes with ``mantissa`` / 2^``shift``, at most 1, and round them towards zero.

    ``mantissa`` is below 2^15, ``shift`` at most 30.
    """
    mask = sign + sign - 1
    i = start
    while i < end:
        value = (base[i] ^ sign) - sign
        change = ((w[i] ^ sign) - sign) - value
        if change < 0:
            if change < -32767:
                change = -32767
            value -= (0 - change) * mantissa >> shift
        else:
            if change > 32767:
                change = 32767
            value += change * mantissa >> shift
        w[i] = value & mask
        i += 1


@micropython.viper
def add_noise(w: ptr16, start: int, end: int, sign: int, chances: ptr8, random: ptr8, state: ptr32) -> int:
    """Add z to each cell, an integer that comes with a chance in proportion to 2^-(z/k)^2; saturate at +-(sign - 1).

    Returns the first cell that has none yet: ``end``, or the one for which there are too few bytes in ``random``. What
    is left of these from ``state[_AT]`` on has to come first when it goes on, for it may have decided something.

    A trial of the sampler: x comes with a chance in proportion to 2^-x^2, y is uniform below k, and k x + y is taken
    with the chance 2^-(y (y + 2 k x) / k^2), a product over the bits of the exponent; with a sign, but zero with one
    sign only. ``chances`` has a row of 16 bytes, big-endian, for each decision: rows up to 11 for one more of x, from
    12 on for the bits of the exponent, the lowest first. A random number is held against the row, byte by byte for as
    long as they are equal. A trial takes at most 690 bytes.
    """
    mask = sign + sign - 1
    most = sign - 1
    k = state[_WIDTH]
    ones = state[_MASK]
    bytes_end = state[_END] - 18  # a decision takes 16 bytes at most, y and its sign two
    at = state[_AT]
    done = at
    row = 0
    x = 0
    z = 0
    exponent = 0
    minus = 0
    i = start
    while i < end and at <= bytes_end:
        cell = row << 4
        last = cell + 15
        r = random[at] | 0
        at += 1
        while r == chances[cell] and cell < last:
            cell += 1
            r = random[at] | 0
            at += 1
        if row < 12:
            if r < chances[cell]:
                x += 1
                row = x
            else:
                z = random[at] | (random[at + 1] << 8)
                at += 2
                minus = z >> 15
                z = z & ones
                exponent = 0
                row = 43
                if z < k:
                    exponent = z * (z + 2 * k * x)
                    z += k * x
                    if z == 0 and minus == 1:
                        row = 0
                else:
                    row = 0
        else:
            if r >= chances[cell]:
                row = 0
        if row >= 12:
            # The next bit of the exponent, the highest first, for that is the one that most often decides.
            row -= 1
            while row >= 12 and (exponent >> (row - 12)) & 1 == 0:
                row -= 1
            if row < 12:
                value = (w[i] ^ sign) - sign
                if minus == 1:
                    value -= z
                else:
                    value += z
                if value > most:
                    value = most
                if value < 0 - most:
                    value = 0 - most
                w[i] = value & mask
                i += 1
                row = 0
        if row == 0:
            x = 0
            done = at
    state[_AT] = done
    return i
