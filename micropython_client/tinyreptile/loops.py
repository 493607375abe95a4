"""The loops of dense and convolutional layers that take most of a step's time; what drives them is in `kernels`.

They have at most four arguments, as functions in assembly have: `thumb` has the same ones. What else they need to know
lies in the plan: in `JOB` the layer's first cell and, in the upper half, the input channel that it is about; in `END`
the first cell behind the list that one loop makes and the next one works off.

A list holds a number in the upper and a 16-bit value in the lower half of each cell. Number formats and rules: see
`kernels`. ``loops8.py`` is this file with 8-bit weights; ``make_kernels8.py`` writes it.
"""

from .portable import const, micropython, ptr16, ptr32

# The cells of the plan, see `plan`.
_RANDOM = const(0)
_SIGN = const(6)
_JOB = const(7)
_END = const(8)
_DITHER = const(9)

_HEIGHT = const(1)
_WIDTH = const(2)
_CHANNELS = const(3)
_OUT_HEIGHT = const(4)
_OUT_WIDTH = const(5)
_OUT_CHANNELS = const(6)
_KERNEL_HEIGHT = const(7)
_KERNEL_WIDTH = const(8)
_STRIDE = const(9)
_PAD_Y = const(10)
_PAD_X = const(11)
_WEIGHTS = const(12)
_BIASES = const(13)
_X = const(14)
_Y = const(15)
_RELU = const(16)
_SHIFT = const(17)
_POST = const(18)
_BIAS_SHIFT = const(19)
_BACK = const(20)
_BACK_SHIFT = const(21)
_BACK_POST = const(22)
_STEP = const(24)
_BIAS_STEP = const(25)

_LINEAR = const(2)


@micropython.viper
def list_patch(plan: ptr32, position: int, a: ptr16, s: ptr32):
    """List the inputs of one output that are not zero, each with the number of its row of weights, behind the sums.

    The output lies in row ``position`` >> 16, column ``position`` & 0xFFFF.
    """
    at = plan[_JOB] & 0xFFFF
    height = plan[at + _HEIGHT]
    width = plan[at + _WIDTH]
    channels = plan[at + _CHANNELS]
    top = (position >> 16) * plan[at + _STRIDE] - plan[at + _PAD_Y]
    left = (position & 0xFFFF) * plan[at + _STRIDE] - plan[at + _PAD_X]
    bottom = top + plan[at + _KERNEL_HEIGHT]
    right = left + plan[at + _KERNEL_WIDTH]
    x = plan[at + _X]
    end = plan[at + _OUT_CHANNELS]
    number = 0
    iy = top
    while iy < bottom:
        ix = left
        while ix < right:
            if iy >= 0 and iy < height and ix >= 0 and ix < width:
                i = x + (iy * width + ix) * channels
                for c in range(channels):
                    value = a[i + c] | 0
                    s[end] = ((number + c) << 16) | value
                    end += (value + 0xFFFF) >> 16  # a zero is overwritten by the next
            number += channels
            ix += 1
        iy += 1
    s[end] = 0  # makes the last pair whole
    plan[_END] = end


@micropython.viper
def add_rows(plan: ptr32, w: ptr16, s: ptr32):
    """One position's sums: biases, half a unit of what is cut off in the end, and the listed rows times their inputs.

    The list is worked off in pairs, a product of the one and one of the other to each rounding. What is added before
    the shift is half a unit for the first pair, then runs through all of a unit as a Weyl sequence does: whatever the
    products have in common, their roundings have not.
    """
    at = plan[_JOB] & 0xFFFF
    outputs = plan[at + _OUT_CHANNELS]
    weights = plan[at + _WEIGHTS]
    biases = plan[at + _BIASES]
    bias_shift = plan[at + _BIAS_SHIFT]
    shift = plan[at + _SHIFT]
    narrow = 16 - shift
    rounding = (1 << plan[at + _POST]) >> 1
    sign = plan[_SIGN]
    end = plan[_END]
    for o in range(outputs):
        s[o] = (((w[biases + o] ^ sign) - sign) << bias_shift >> shift) + rounding
    q = 0x8000
    i = outputs
    while i < end:
        first = weights + (s[i] >> 16) * outputs
        value = ((s[i] & 0xFFFF) ^ 0x8000) - 0x8000
        second = weights + (s[i + 1] >> 16) * outputs
        other = ((s[i + 1] & 0xFFFF) ^ 0x8000) - 0x8000
        part = q >> narrow
        for o in range(outputs):
            products = ((w[first + o] ^ sign) - sign) * value + ((w[second + o] ^ sign) - sign) * other
            s[o] = s[o] + ((products + part) >> shift)
        q = (q + 0x9E37) & 0xFFFF
        i += 2


@micropython.viper
def put_outputs(plan: ptr32, place: int, a: ptr16, s: ptr32):
    """One position's outputs, to cell ``place`` and those behind it: the sums, saturated, then ReLU if asked."""
    at = plan[_JOB] & 0xFFFF
    relu = plan[at + _RELU]
    post = plan[at + _POST]
    for o in range(plan[at + _OUT_CHANNELS]):
        total = (((((s[o] >> 16) & 0xFFFF) ^ 0x8000) - 0x8000) << 16) | (s[o] & 0xFFFF)
        total = total >> post
        if total > 32767:
            total = 32767
        if total < -32767:
            total = -32767
        if relu:
            if total < 0:
                total = 0
        a[place + o] = total & 0xFFFF


@micropython.viper
def dense_backward(plan: ptr32, at: int, w: ptr16, a: ptr16):
    """One SGD update of a dense layer in place; the deltas of its inputs take the inputs' place.

    The outputs' cells hold deltas (Q18). Each weight is loaded once: it adds its part to the delta of its input, then
    takes its update w -= (delta * x + r) >> STEP with r a Weyl sequence, which rounds stochastically. An input that is
    zero moves no weight; where it came out of a ReLU it takes no delta either, so all its weights are passed over.

    An input's delta is an exact sum, in two words: what is left of the products above BACK_SHIFT, and what is below.
    It is rounded once, stochastically.
    """
    outputs = plan[at + _OUT_CHANNELS]
    row = plan[at + _WEIGHTS]
    x = plan[at + _X]
    y = plan[at + _Y]
    x_end = x + plan[at + _CHANNELS]
    shift = plan[at + _BACK_SHIFT]
    below = (1 << shift) - 1
    post = plan[at + _BACK_POST]
    narrow = 16 - shift - post
    propagate = plan[at + _BACK]
    every = propagate & _LINEAR
    step = plan[at + _STEP]
    widen = step - 16
    dither = plan[_DITHER]
    fine = dither >> (16 - widen)
    sign = plan[_SIGN]
    mask = sign + sign - 1
    limit = sign - 1
    r = plan[_RANDOM]
    while x < x_end:
        value = (a[x] ^ 0x8000) - 0x8000
        if (value | every) != 0:
            high = 0
            low = ((r + dither) & 0xFFFF) >> narrow
            for o in range(outputs):
                delta = (a[y + o] ^ 0x8000) - 0x8000
                weight = (w[row + o] ^ sign) - sign
                product = weight * delta
                high += product >> shift
                low += product & below
                q = (r + (o + 1) * 0x9E37) & 0xFFFF
                weight -= (delta * value + (q << widen) + fine) >> step
                if weight > limit:
                    weight = limit
                if weight < 0 - limit:
                    weight = 0 - limit
                w[row + o] = weight & mask
            if propagate:
                total = (high + (low >> shift)) >> post
                if total > 32767:
                    total = 32767
                if total < -32767:
                    total = -32767
                a[x] = total & 0xFFFF
        r = (r + outputs * 0x9E37) & 0xFFFF
        row += outputs
        x += 1
    plan[_RANDOM] = r


@micropython.viper
def bias_backward(plan: ptr32, at: int, u: ptr16, a: ptr16):
    """The SGD update of a layer's biases from the deltas in its outputs' cells."""
    outputs = plan[at + _OUT_CHANNELS]
    bias = plan[at + _BIASES]
    y = plan[at + _Y]
    end = y + plan[at + _OUT_HEIGHT] * plan[at + _OUT_WIDTH] * outputs
    step = plan[at + _BIAS_STEP]
    sign = plan[_SIGN]
    mask = sign + sign - 1
    limit = sign - 1
    r = plan[_RANDOM]
    o = 0
    while o < outputs:
        total = 0
        i = y + o
        while i < end:
            total += (a[i] ^ 0x8000) - 0x8000
            i += outputs
        r = (r + 0x9E37) & 0xFFFF
        weight = ((u[bias + o] ^ sign) - sign) - ((total + (r >> (16 - step))) >> step)
        if weight > limit:
            weight = limit
        if weight < 0 - limit:
            weight = 0 - limit
        u[bias + o] = weight & mask
        o += 1
    plan[_RANDOM] = r
