"""`loops` with 8-bit weights; written by make_kernels8.py, not to be edited."""

from .portable import const, micropython, ptr8, ptr16, ptr32

# The cells of the plan, see `plan`.
RANDOM = const(0)
SIGN = const(6)
JOB = const(7)
END = const(8)

HEIGHT = const(1)
WIDTH = const(2)
CHANNELS = const(3)
OUT_HEIGHT = const(4)
OUT_WIDTH = const(5)
OUT_CHANNELS = const(6)
KERNEL_HEIGHT = const(7)
KERNEL_WIDTH = const(8)
STRIDE = const(9)
PAD_Y = const(10)
PAD_X = const(11)
WEIGHTS = const(12)
BIASES = const(13)
X = const(14)
Y = const(15)
RELU = const(16)
SHIFT = const(17)
POST = const(18)
BIAS_SHIFT = const(19)
BACK = const(20)
BACK_SHIFT = const(21)
BACK_POST = const(22)
SUM_SHIFT = const(23)
STEP = const(24)
BIAS_STEP = const(25)

LINEAR = const(2)


@micropython.viper
def list_patch(plan: ptr32, position: int, a: ptr16, s: ptr32):
    """List the inputs of one output that are not zero, each with the number of its row of weights, behind the sums.

    The output lies in row ``position`` >> 16, column ``position`` & 0xFFFF.
    """
    at = plan[JOB] & 0xFFFF
    height = plan[at + HEIGHT]
    width = plan[at + WIDTH]
    channels = plan[at + CHANNELS]
    top = (position >> 16) * plan[at + STRIDE] - plan[at + PAD_Y]
    left = (position & 0xFFFF) * plan[at + STRIDE] - plan[at + PAD_X]
    bottom = top + plan[at + KERNEL_HEIGHT]
    right = left + plan[at + KERNEL_WIDTH]
    x = plan[at + X]
    end = plan[at + OUT_CHANNELS]
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
    plan[END] = end


@micropython.viper
def add_rows(plan: ptr32, w: ptr8, s: ptr32):
    """One position's sums: biases, half a unit of what is cut off in the end, and the listed rows times their inputs.

    The list is worked off in pairs, a product of the one and one of the other to each rounding.
    """
    at = plan[JOB] & 0xFFFF
    outputs = plan[at + OUT_CHANNELS]
    weights = plan[at + WEIGHTS]
    biases = plan[at + BIASES]
    bias_shift = plan[at + BIAS_SHIFT]
    shift = plan[at + SHIFT]
    half = (1 << shift) >> 1
    rounding = (1 << plan[at + POST]) >> 1
    sign = plan[SIGN]
    end = plan[END]
    for o in range(outputs):
        s[o] = (((w[biases + o] ^ sign) - sign) << bias_shift >> shift) + rounding
    i = outputs
    while i < end:
        first = weights + (s[i] >> 16) * outputs
        value = ((s[i] & 0xFFFF) ^ 0x8000) - 0x8000
        second = weights + (s[i + 1] >> 16) * outputs
        other = ((s[i + 1] & 0xFFFF) ^ 0x8000) - 0x8000
        for o in range(outputs):
            products = ((w[first + o] ^ sign) - sign) * value + ((w[second + o] ^ sign) - sign) * other
            s[o] = s[o] + ((products + half) >> shift)
        i += 2


@micropython.viper
def put_outputs(plan: ptr32, place: int, a: ptr16, s: ptr32):
    """One position's outputs, to cell ``place`` and those behind it: the sums, saturated, then ReLU if asked."""
    at = plan[JOB] & 0xFFFF
    relu = plan[at + RELU]
    post = plan[at + POST]
    for o in range(plan[at + OUT_CHANNELS]):
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
def dense_backward(plan: ptr32, at: int, w: ptr8, a: ptr16):
    """One SGD update of a dense layer in place; the deltas of its inputs take the inputs' place.

    The outputs' cells hold deltas (Q18). Each weight is loaded once: it adds its part to the delta of its input, then
    takes its update w -= (delta * x + r) >> STEP with r a Weyl sequence, which rounds stochastically. An input that is
    zero moves no weight; where it came out of a ReLU it takes no delta either, so all its weights are passed over.
    """
    outputs = plan[at + OUT_CHANNELS]
    row = plan[at + WEIGHTS]
    x = plan[at + X]
    y = plan[at + Y]
    x_end = x + plan[at + CHANNELS]
    shift = plan[at + BACK_SHIFT]
    half = (1 << shift) >> 1
    post = plan[at + BACK_POST]
    rounding = (1 << post) >> 1
    propagate = plan[at + BACK]
    every = propagate & LINEAR
    step = plan[at + STEP]
    widen = step - 16
    sign = plan[SIGN]
    mask = sign + sign - 1
    limit = sign - 1
    # A fresh start for every layer, so that the sequence's period never locks on to the layer's size.
    r = (plan[RANDOM] * 25173 + 13849) & 0xFFFF
    while x < x_end:
        value = (a[x] ^ 0x8000) - 0x8000
        if (value | every) != 0:
            total = rounding
            for o in range(outputs):
                delta = (a[y + o] ^ 0x8000) - 0x8000
                weight = (w[row + o] ^ sign) - sign
                total += (weight * delta + half) >> shift
                q = (r + (o + 1) * 0x9E37) & 0xFFFF
                weight -= (delta * value + (q << widen)) >> step
                if weight > limit:
                    weight = limit
                if weight < 0 - limit:
                    weight = 0 - limit
                w[row + o] = weight & mask
            if propagate:
                total = total >> post
                if total > 32767:
                    total = 32767
                if total < -32767:
                    total = -32767
                a[x] = total & 0xFFFF
        r = (r + outputs * 0x9E37) & 0xFFFF
        row += outputs
        x += 1
    plan[RANDOM] = r


@micropython.viper
def list_tap(plan: ptr32, tap: int, a: ptr16, s: ptr32):
    """List the channel's inputs that a tap meets and that are not zero, each with its output's position.

    The tap is that of row ``tap`` >> 16, column ``tap`` & 0xFFFF. The list lies behind the gradients of the channel's
    weights, of which those of this tap are set to zero.
    """
    at = plan[JOB] & 0xFFFF
    ky = tap >> 16
    kx = tap & 0xFFFF
    height = plan[at + HEIGHT]
    width = plan[at + WIDTH]
    channels = plan[at + CHANNELS]
    out_height = plan[at + OUT_HEIGHT]
    out_width = plan[at + OUT_WIDTH]
    outputs = plan[at + OUT_CHANNELS]
    kernel_width = plan[at + KERNEL_WIDTH]
    stride = plan[at + STRIDE]
    x = plan[at + X] + (plan[JOB] >> 16)
    sums = (ky * kernel_width + kx) * outputs
    for o in range(sums, sums + outputs):
        s[o] = 0
    end = plan[at + KERNEL_HEIGHT] * kernel_width * outputs
    left = kx - plan[at + PAD_X]
    oy = 0
    iy = ky - plan[at + PAD_Y]
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
    plan[END] = end


@micropython.viper
def add_gradients(plan: ptr32, sums: int, a: ptr16, s: ptr32):
    """Add to a tap's gradients, from ``sums`` on, the listed deltas times their inputs (Q28 >> SUM_SHIFT)."""
    at = plan[JOB] & 0xFFFF
    outputs = plan[at + OUT_CHANNELS]
    y = plan[at + Y]
    shift = plan[at + SUM_SHIFT]
    half = (1 << shift) >> 1
    end = plan[END]
    i = plan[at + KERNEL_HEIGHT] * plan[at + KERNEL_WIDTH] * outputs
    while i < end:
        first = y + (s[i] >> 16) * outputs
        value = ((s[i] & 0xFFFF) ^ 0x8000) - 0x8000
        second = y + (s[i + 1] >> 16) * outputs
        other = ((s[i + 1] & 0xFFFF) ^ 0x8000) - 0x8000
        for o in range(outputs):
            products = ((a[first + o] ^ 0x8000) - 0x8000) * value + ((a[second + o] ^ 0x8000) - 0x8000) * other
            s[sums + o] = s[sums + o] + ((products + half) >> shift)
        i += 2


@micropython.viper
def list_reach(plan: ptr32, start: int, a: ptr16, s: ptr32) -> int:
    """List the channel's inputs that take a delta, and behind each the taps that meet it, with their positions.

    From row ``start`` >> 16 and column ``start`` & 0xFFFF on, as far as there is room behind the gradients; returns
    where to go on, or 0.
    """
    at = plan[JOB] & 0xFFFF
    height = plan[at + HEIGHT]
    width = plan[at + WIDTH]
    channels = plan[at + CHANNELS]
    out_height = plan[at + OUT_HEIGHT]
    out_width = plan[at + OUT_WIDTH]
    kernel_height = plan[at + KERNEL_HEIGHT]
    kernel_width = plan[at + KERNEL_WIDTH]
    stride = plan[at + STRIDE]
    every = plan[at + BACK] & LINEAR
    end = kernel_height * kernel_width * plan[at + OUT_CHANNELS]
    room = end + out_height * out_width + 1  # enough for one input that all outputs depend on
    iy = start >> 16
    ix = start & 0xFFFF
    position = iy * width + ix
    i = plan[at + X] + position * channels + (plan[JOB] >> 16)
    # The first tap that meets this row, that column, and the outputs that they belong to.
    top_ky = plan[at + PAD_Y] + iy
    top_oy = 0
    while top_ky >= stride:
        top_ky -= stride
        top_oy += 1
    while iy < height:
        left_kx = plan[at + PAD_X] + ix
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
                    plan[END] = head
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
    plan[END] = end
    return 0


@micropython.viper
def put_deltas(plan: ptr32, w: ptr8, a: ptr16, s: ptr32):
    """The deltas of the listed inputs, in their place: the taps' weights times deltas, two to each rounding."""
    at = plan[JOB] & 0xFFFF
    channel = plan[JOB] >> 16
    channels = plan[at + CHANNELS]
    outputs = plan[at + OUT_CHANNELS]
    rows = channels * outputs
    weights = plan[at + WEIGHTS] + channel * outputs
    x = plan[at + X] + channel
    y = plan[at + Y]
    shift = plan[at + BACK_SHIFT]
    half = (1 << shift) >> 1
    post = plan[at + BACK_POST]
    rounding = (1 << post) >> 1
    sign = plan[SIGN]
    middle = outputs >> 1
    end = plan[END]
    i = plan[at + KERNEL_HEIGHT] * plan[at + KERNEL_WIDTH] * outputs
    while i < end:
        place = x + (s[i] & 0xFFFF) * channels
        behind = i + 1 + (s[i] >> 16)
        i += 1
        total = rounding
        while i + 1 < behind:
            c = weights + (s[i] >> 16) * rows
            d = y + (s[i] & 0xFFFF) * outputs
            k = weights + (s[i + 1] >> 16) * rows
            e = y + (s[i + 1] & 0xFFFF) * outputs
            # By halves, and the one between: a loop that is short enough to be one vector.
            for o in range(middle):
                products = ((w[c + o] ^ sign) - sign) * ((a[d + o] ^ 0x8000) - 0x8000)
                products += ((w[k + o] ^ sign) - sign) * ((a[e + o] ^ 0x8000) - 0x8000)
                total += (products + half) >> shift
                q = o + outputs - middle
                products = ((w[c + q] ^ sign) - sign) * ((a[d + q] ^ 0x8000) - 0x8000)
                products += ((w[k + q] ^ sign) - sign) * ((a[e + q] ^ 0x8000) - 0x8000)
                total += (products + half) >> shift
            for o in range(middle, outputs - middle):
                products = ((w[c + o] ^ sign) - sign) * ((a[d + o] ^ 0x8000) - 0x8000)
                products += ((w[k + o] ^ sign) - sign) * ((a[e + o] ^ 0x8000) - 0x8000)
                total += (products + half) >> shift
            i += 2
        if i < behind:
            c = weights + (s[i] >> 16) * rows
            d = y + (s[i] & 0xFFFF) * outputs
            for o in range(outputs):
                total += (((w[c + o] ^ sign) - sign) * ((a[d + o] ^ 0x8000) - 0x8000) + half) >> shift
            i += 1
        total = total >> post
        if total > 32767:
            total = 32767
        if total < -32767:
            total = -32767
        a[place] = total & 0xFFFF


@micropython.viper
def update_channel(plan: ptr32, u: ptr8, s: ptr32):
    """The SGD update of the weights of an input channel from the gradients in ``s``; see `dense_backward`."""
    at = plan[JOB] & 0xFFFF
    channel = plan[JOB] >> 16
    channels = plan[at + CHANNELS]
    outputs = plan[at + OUT_CHANNELS]
    sum_shift = plan[at + SUM_SHIFT]
    step = plan[at + STEP] - sum_shift
    widen = plan[at + STEP] - 16
    sign = plan[SIGN]
    mask = sign + sign - 1
    limit = sign - 1
    sums = plan[at + KERNEL_HEIGHT] * plan[at + KERNEL_WIDTH] * outputs
    c = plan[at + WEIGHTS] + channel * outputs
    r = plan[RANDOM]
    if channel == 0:
        r = (r * 25173 + 13849) & 0xFFFF
    g = 0
    while g < sums:
        for o in range(outputs):
            total = (((((s[g + o] >> 16) & 0xFFFF) ^ 0x8000) - 0x8000) << 16) | (s[g + o] & 0xFFFF)
            q = (r + (o + 1) * 0x9E37) & 0xFFFF
            weight = ((u[c + o] ^ sign) - sign) - ((total + (q << widen >> sum_shift)) >> step)
            if weight > limit:
                weight = limit
            if weight < 0 - limit:
                weight = 0 - limit
            u[c + o] = weight & mask
        r = (r + outputs * 0x9E37) & 0xFFFF
        g += outputs
        c += channels * outputs
    plan[RANDOM] = r


@micropython.viper
def bias_backward(plan: ptr32, at: int, u: ptr8, a: ptr16):
    """The SGD update of a layer's biases from the deltas in its outputs' cells."""
    outputs = plan[at + OUT_CHANNELS]
    bias = plan[at + BIASES]
    y = plan[at + Y]
    end = y + plan[at + OUT_HEIGHT] * plan[at + OUT_WIDTH] * outputs
    step = plan[at + BIAS_STEP]
    sign = plan[SIGN]
    mask = sign + sign - 1
    limit = sign - 1
    r = plan[RANDOM]
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
    plan[RANDOM] = r
