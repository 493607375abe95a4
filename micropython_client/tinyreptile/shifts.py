"""Right shifts that keep every sum of a step in 32 bits, as the plan has them for the kernels."""

from .portable import const

# The cells of the plan, see `plan`.
_HEADER = const(13)
_KIND = const(0)
_HEIGHT = const(1)
_WIDTH = const(2)
_CHANNELS = const(3)
_OUT_HEIGHT = const(4)
_OUT_WIDTH = const(5)
_OUT_CHANNELS = const(6)
_KERNEL_HEIGHT = const(7)
_KERNEL_WIDTH = const(8)
_STRIDE = const(9)
_RECIPROCAL = const(12)
_SHIFT = const(17)
_POST = const(18)
_BIAS_SHIFT = const(19)
_BACK_SHIFT = const(21)
_BACK_POST = const(22)
_SUM_SHIFT = const(23)
_STEP = const(24)
_BIAS_STEP = const(25)
_FIELDS = const(26)
_DEPTHWISE = const(2)
_AVERAGE = const(3)


def sums(cells, at):
    """(products of an output's sum, of an input's delta, of a weight's gradient) of the layer at cell ``at``."""
    taps = cells[at + _KERNEL_HEIGHT] * cells[at + _KERNEL_WIDTH]
    stride = cells[at + _STRIDE]
    reach = -(-cells[at + _KERNEL_HEIGHT] // stride) * -(-cells[at + _KERNEL_WIDTH] // stride)
    positions = cells[at + _OUT_HEIGHT] * cells[at + _OUT_WIDTH]
    if cells[at + _KIND] == _AVERAGE:
        return cells[at + _HEIGHT] * cells[at + _WIDTH], 1, 1
    if cells[at + _KIND] == _DEPTHWISE:
        return taps, reach, positions
    return taps * cells[at + _CHANNELS], reach * cells[at + _OUT_CHANNELS], positions


def fit(cells, fractions, bits):
    """Fit the plan ``cells`` to weights of ``bits`` bits, of which so many ``fractions``, one number a tensor.

    No sum leaves int32. A product of a 16-bit weight (or of two 16-bit numbers) stays below 2^30, for neither a
    weight nor a delta is ever -32768; one of an 8-bit weight stays within 2^22. n of them, each shifted by s, stay
    within 2^31 - 2^(30-s) for the one, within 2^30 for the other; the rounding constants and the bias that join the
    sum are smaller than what that leaves. So does a pair, which is summed before it is shifted.
    """
    tensor = 0
    for at in range(_HEADER, len(cells), _FIELDS):
        products, reach, positions = sums(cells, at)
        if cells[at + _KIND] == _AVERAGE:
            shift = _pre_shift(products, 16)
            cells[at + _SHIFT] = shift
            cells[at + _RECIPROCAL] = ((1 << (15 + shift)) // products + 1) >> 1
        else:
            weight, bias = fractions[tensor : tensor + 2]
            cells[at + _SHIFT] = _pre_shift(products, bits)
            cells[at + _POST] = weight - cells[at + _SHIFT]
            cells[at + _BIAS_SHIFT] = 10 + weight - bias
            cells[at + _BACK_SHIFT] = _pre_shift(reach, bits)
            cells[at + _BACK_POST] = weight - cells[at + _BACK_SHIFT]
            cells[at + _SUM_SHIFT] = _pre_shift(positions, 16)
            cells[at + _STEP] = 28 - weight
            cells[at + _BIAS_STEP] = 18 - bias
            tensor += 2


def _pre_shift(n, bits):
    """Right shift of each of ``n`` products of a ``bits``-bit and a 16-bit number, for their sum to stay in int32."""
    shift = -1 if bits == 16 else -8
    while n:
        shift += 1
        n >>= 1
    return max(0, shift)
