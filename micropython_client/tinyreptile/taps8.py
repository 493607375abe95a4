"""`taps` with 8-bit weights; written by make_kernels8.py, not to be edited."""

from .portable import const, micropython, ptr8, ptr16, ptr32

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
_X = const(14)
_Y = const(15)
_BACK = const(20)
_BACK_SHIFT = const(21)
_BACK_POST = const(22)
_SUM_SHIFT = const(23)
_STEP = const(24)

_LINEAR = const(2)


@micropython.viper
def list_tap(plan: ptr32, tap: int, a: ptr16, s: ptr32):
    """List the channel's inputs that a tap meets and that are not zero, each with its output's position.

    The tap is that of row ``tap`` >> 16, column ``tap`` & 0xFFFF. The list lies behind the gradients of the channel's
    weights, of which those of this tap are set to zero.
    """
    at = plan[_JOB] & 0xFFFF
    ky = tap >> 16
    kx = tap & 0xFFFF
    height = plan[at + _HEIGHT]
    width = plan[at + _WIDTH]
    channels = plan[at + _CHANNELS]
    out_height = plan[at + _OUT_HEIGHT]
    out_width = plan[at + _OUT_WIDTH]
    outputs = plan[at + _OUT_CHANNELS]
    kernel_width = plan[at + _KERNEL_WIDTH]
    stride = plan[at + _STRIDE]
    x = plan[at + _X] + (plan[_JOB] >> 16)
    sums = (ky * kernel_width + kx) * outputs
    for o in range(sums, sums + outputs):
        s[o] = 0
    end = plan[at + _KERNEL_HEIGHT] * kernel_width * outputs
    left = kx - plan[at + _PAD_X]
    oy = 0
    iy = ky - plan[at + _PAD_Y]
    while oy < out_height:
        if iy >= 0 and iy < height:
            position = oy * out_width
            ix = left
            i = x + (iy * width + ix) * channels
            for o in range(out_width):
                if ix >= 0 and ix < width:
                    value = a[i] | 0
                    s[end] = ((position + o) << 16) | value
                    end += (value + 0xFFFF) >> 16
                ix += stride
                i += stride * channels
        iy += stride
        oy += 1
    s[end] = 0  # makes the last pair whole
    plan[_END] = end


@micropython.viper
def add_gradients(plan: ptr32, sums: int, a: ptr16, s: ptr32):
    """Add to a tap's gradients, from ``sums`` on, the listed deltas times their inputs (Q28 >> SUM_SHIFT).

    Two products share a rounding, which is stochastic: of thousands of positions each one's part may be far below a
    unit. A Weyl sequence that is independent of the update's own goes through the pairs.
    """
    at = plan[_JOB] & 0xFFFF
    outputs = plan[at + _OUT_CHANNELS]
    y = plan[at + _Y]
    shift = plan[at + _SUM_SHIFT]
    narrow = 16 - shift
    q = (plan[_RANDOM] + plan[_DITHER] + (sums & 0xFFFF) * (0x9E37 - 0x10000)) & 0xFFFF
    end = plan[_END]
    i = plan[at + _KERNEL_HEIGHT] * plan[at + _KERNEL_WIDTH] * outputs
    while i < end:
        first = y + (s[i] >> 16) * outputs
        value = ((s[i] & 0xFFFF) ^ 0x8000) - 0x8000
        second = y + (s[i + 1] >> 16) * outputs
        other = ((s[i + 1] & 0xFFFF) ^ 0x8000) - 0x8000
        part = q >> narrow
        for o in range(outputs):
            products = ((a[first + o] ^ 0x8000) - 0x8000) * value + ((a[second + o] ^ 0x8000) - 0x8000) * other
            s[sums + o] = s[sums + o] + ((products + part) >> shift)
        q = (q + 0x9E37) & 0xFFFF
        i += 2


@micropython.viper
def list_reach(plan: ptr32, start: int, a: ptr16, s: ptr32) -> int:
    """List the channel's inputs that take a delta, and behind each the taps that meet it, with their positions.

    From row ``start`` >> 16 and column ``start`` & 0xFFFF on, as far as there is room behind the gradients; returns
    where to go on, or 0.
    """
    at = plan[_JOB] & 0xFFFF
    height = plan[at + _HEIGHT]
    width = plan[at + _WIDTH]
    channels = plan[at + _CHANNELS]
    out_height = plan[at + _OUT_HEIGHT]
    out_width = plan[at + _OUT_WIDTH]
    kernel_height = plan[at + _KERNEL_HEIGHT]
    kernel_width = plan[at + _KERNEL_WIDTH]
    stride = plan[at + _STRIDE]
    every = plan[at + _BACK] & _LINEAR
    end = kernel_height * kernel_width * plan[at + _OUT_CHANNELS]
    room = end + out_height * out_width + 1  # enough for one input that all outputs depend on
    iy = start >> 16
    ix = start & 0xFFFF
    position = iy * width + ix
    i = plan[at + _X] + position * channels + (plan[_JOB] >> 16)
    # The first tap that meets this row, that column, and the outputs that they belong to.
    top_ky = plan[at + _PAD_Y] + iy
    top_oy = 0
    while top_ky >= stride:
        top_ky -= stride
        top_oy += 1
    while iy < height:
        left_kx = plan[at + _PAD_X] + ix
        left_ox = 0
        while left_kx >= stride:
            left_kx -= stride
            left_ox += 1
        while ix < width:
            if (a[i] | every) != 0:
                head = end
                end += 1
                ky = top_ky
                oy = top_oy
                while ky < kernel_height and oy >= 0:
                    kx = left_kx
                    ox = left_ox
                    if oy >= out_height:
                        kx = kernel_width
                    while kx < kernel_width and ox >= 0:
                        if ox < out_width:
                            if end < room:
                                s[end] = ((ky * kernel_width + kx) << 16) | (oy * out_width + ox)
                            end += 1
                        kx += stride
                        ox -= 1
                    ky += stride
                    oy -= 1
                if end > room:
                    plan[_END] = head
                    return (iy << 16) | ix
                s[head] = ((end - head - 1) << 16) | position
            position += 1
            i += channels
            left_kx += 1
            if left_kx == stride:
                left_kx = 0
                left_ox += 1
            ix += 1
        ix = 0
        top_ky += 1
        if top_ky == stride:
            top_ky = 0
            top_oy += 1
        iy += 1
    plan[_END] = end
    return 0


@micropython.viper
def put_deltas(plan: ptr32, w: ptr8, a: ptr16, s: ptr32):
    """The deltas of the listed inputs, in their place: the taps' weights times deltas; see `loops.dense_backward`."""
    at = plan[_JOB] & 0xFFFF
    channel = plan[_JOB] >> 16
    channels = plan[at + _CHANNELS]
    outputs = plan[at + _OUT_CHANNELS]
    rows = channels * outputs
    weights = plan[at + _WEIGHTS] + channel * outputs
    x = plan[at + _X] + channel
    y = plan[at + _Y]
    shift = plan[at + _BACK_SHIFT]
    below = (1 << shift) - 1
    post = plan[at + _BACK_POST]
    narrow = 16 - shift - post
    r = plan[_RANDOM] + plan[_DITHER]
    sign = plan[_SIGN]
    end = plan[_END]
    i = plan[at + _KERNEL_HEIGHT] * plan[at + _KERNEL_WIDTH] * outputs
    while i < end:
        place = x + (s[i] & 0xFFFF) * channels
        behind = i + 1 + (s[i] >> 16)
        low = ((r + (s[i] & 0xFFFF) * (0x9E37 - 0x10000)) & 0xFFFF) >> narrow
        high = 0
        i += 1
        while i + 1 < behind:
            c = weights + (s[i] >> 16) * rows
            d = y + (s[i] & 0xFFFF) * outputs
            k = weights + (s[i + 1] >> 16) * rows
            e = y + (s[i + 1] & 0xFFFF) * outputs
            for o in range(outputs):
                products = ((w[c + o] ^ sign) - sign) * ((a[d + o] ^ 0x8000) - 0x8000)
                products += ((w[k + o] ^ sign) - sign) * ((a[e + o] ^ 0x8000) - 0x8000)
                high += products >> shift
                low += products & below
            i += 2
        if i < behind:
            c = weights + (s[i] >> 16) * rows
            d = y + (s[i] & 0xFFFF) * outputs
            for o in range(outputs):
                products = ((w[c + o] ^ sign) - sign) * ((a[d + o] ^ 0x8000) - 0x8000)
                high += products >> shift
                low += products & below
            i += 1
        total = (high + (low >> shift)) >> post
        if total > 32767:
            total = 32767
        if total < -32767:
            total = -32767
        a[place] = total & 0xFFFF


@micropython.viper
def update_channel(plan: ptr32, u: ptr8, s: ptr32):
    """The SGD update of the weights of an input channel from the gradients in ``s``; see `dense_backward`."""
    at = plan[_JOB] & 0xFFFF
    channel = plan[_JOB] >> 16
    channels = plan[at + _CHANNELS]
    outputs = plan[at + _OUT_CHANNELS]
    sum_shift = plan[at + _SUM_SHIFT]
    step = plan[at + _STEP] - sum_shift
    widen = plan[at + _STEP] - 16
    fine = plan[_DITHER] >> (16 - widen)
    sign = plan[_SIGN]
    mask = sign + sign - 1
    limit = sign - 1
    sums = plan[at + _KERNEL_HEIGHT] * plan[at + _KERNEL_WIDTH] * outputs
    c = plan[at + _WEIGHTS] + channel * outputs
    r = plan[_RANDOM]
    g = 0
    while g < sums:
        for o in range(outputs):
            total = (((((s[g + o] >> 16) & 0xFFFF) ^ 0x8000) - 0x8000) << 16) | (s[g + o] & 0xFFFF)
            q = (r + (o + 1) * 0x9E37) & 0xFFFF
            weight = ((u[c + o] ^ sign) - sign) - ((total + ((q << widen) + fine >> sum_shift)) >> step)
            if weight > limit:
                weight = limit
            if weight < 0 - limit:
                weight = 0 - limit
            u[c + o] = weight & mask
        r = (r + outputs * 0x9E37) & 0xFFFF
        g += outputs
        c += channels * outputs
    plan[_RANDOM] = r
