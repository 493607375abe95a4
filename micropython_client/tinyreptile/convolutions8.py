"""`convolutions` with 8-bit weights; written by make_kernels8.py, not to be edited."""

from .portable import THUMB, const, micropython, ptr8, ptr16, ptr32

if THUMB:
    from .thumb_taps8 import add_gradients, list_reach, list_tap, put_deltas, update_channel
else:
    from .taps8 import add_gradients, list_reach, list_tap, put_deltas, update_channel

# The plan's header.
_RANDOM = const(0)  # the 16-bit Weyl sequence that rounds the updates
_SIGN = const(6)  # the sign bit of a weight's cell
_JOB = const(7)  # what a loop is about: the layer's first cell; above 16 bits the input channel
_DITHER = const(9)  # 16 random bits, independent of RANDOM, that round the sums of a layer

# The cells of layer i, from HEADER + FIELDS * i.
_HEIGHT = const(1)  # of the inputs
_WIDTH = const(2)
_CHANNELS = const(3)
_OUT_HEIGHT = const(4)  # of the outputs
_OUT_WIDTH = const(5)
_OUT_CHANNELS = const(6)
_KERNEL_HEIGHT = const(7)
_KERNEL_WIDTH = const(8)
_STRIDE = const(9)
_PAD_Y = const(10)  # rows of zeros above and below the inputs
_PAD_X = const(11)  # columns of zeros left and right
_WEIGHTS = const(12)  # offset of the weights among the parameters
_RECIPROCAL = const(12)  # of an average, which has no weights: 2^(14 + SHIFT) / positions
_BIASES = const(13)  # offset of the biases among the parameters
_X = const(14)  # offset of the inputs among the activations
_Y = const(15)  # offset of the outputs among the activations
_RELU = const(16)  # 1: a ReLU follows
_SHIFT = const(17)  # right shift of every product of the forward sum
_POST = const(18)  # right shift of the forward sum
_BIAS_SHIFT = const(19)  # left shift of a bias before SHIFT
_BACK = const(20)  # what takes the inputs' deltas: 0 (nothing: they are the sample), BEHIND_RELU or LINEAR
_BACK_SHIFT = const(21)  # right shift of every product of the backward sum
_BACK_POST = const(22)  # right shift of the backward sum
_SUM_SHIFT = const(23)  # right shift of every product of a weight's gradient
_STEP = const(24)  # right shift from a gradient (Q28) to the weights' format

_LINEAR = const(2)


@micropython.viper
def convolution_backward(plan, at: int, w, u, a, s):
    """One SGD update of a dense or convolutional layer; the deltas of its inputs take the inputs' place.

    The weights ``w`` are read, the updates go to ``u``, which may be the same array. One input channel after the other:
    the gradients of its weights, tap by tap, the deltas of its inputs, then the updates. So nothing has to be kept
    beside one channel's gradients. For a 1 x 1 image the bits are those of `dense_backward`.
    """
    p = ptr32(plan)
    for channel in range(p[at + _CHANNELS]):
        p[_JOB] = (channel << 16) | at
        sums = 0
        for ky in range(p[at + _KERNEL_HEIGHT]):
            for kx in range(p[at + _KERNEL_WIDTH]):
                list_tap(plan, (ky << 16) | kx, a, s)
                add_gradients(plan, sums, a, s)
                sums += p[at + _OUT_CHANNELS]
        if p[at + _BACK]:
            start = int(list_reach(plan, 0, a, s))
            put_deltas(plan, w, a, s)
            while start > 0:
                start = int(list_reach(plan, start, a, s))
                put_deltas(plan, w, a, s)
        update_channel(plan, u, s)


@micropython.viper
def depthwise_forward(plan: ptr32, at: int, w: ptr8, a: ptr16, s: ptr32):
    """Outputs of the depthwise layer whose plan lies at cell ``at``: every channel with a kernel of its own."""
    height = plan[at + _HEIGHT]
    width = plan[at + _WIDTH]
    channels = plan[at + _CHANNELS]
    kernel_height = plan[at + _KERNEL_HEIGHT]
    kernel_width = plan[at + _KERNEL_WIDTH]
    stride = plan[at + _STRIDE]
    biases = plan[at + _BIASES]
    x = plan[at + _X]
    y = plan[at + _Y]
    relu = plan[at + _RELU]
    shift = plan[at + _SHIFT]
    narrow = 16 - shift
    post = plan[at + _POST]
    rounding = (1 << post) >> 1
    bias_shift = plan[at + _BIAS_SHIFT]
    sign = plan[_SIGN]
    rows = plan[at + _OUT_HEIGHT]
    top = 0 - plan[at + _PAD_Y]
    while rows > 0:
        columns = plan[at + _OUT_WIDTH]
        left = 0 - plan[at + _PAD_X]
        while columns > 0:
            for o in range(channels):
                s[o] = (((w[biases + o] ^ sign) - sign) << bias_shift >> shift) + rounding
            k = plan[at + _WEIGHTS]
            q = 0x8000  # as in `loops.add_rows`
            iy = top
            while iy < top + kernel_height:
                ix = left
                while ix < left + kernel_width:
                    if iy >= 0 and iy < height and ix >= 0 and ix < width:
                        i = x + (iy * width + ix) * channels
                        part = q >> narrow
                        for o in range(channels):
                            value = (a[i + o] ^ 0x8000) - 0x8000
                            s[o] = s[o] + ((((w[k + o] ^ sign) - sign) * value + part) >> shift)
                        q = (q + 0x9E37) & 0xFFFF
                    k += channels
                    ix += 1
                iy += 1
            for o in range(channels):
                total = (((((s[o] >> 16) & 0xFFFF) ^ 0x8000) - 0x8000) << 16) | (s[o] & 0xFFFF)
                total = total >> post
                if total > 32767:
                    total = 32767
                if total < -32767:
                    total = -32767
                if relu:
                    if total < 0:
                        total = 0
                a[y + o] = total & 0xFFFF
            y += channels
            left += stride
            columns -= 1
        top += stride
        rows -= 1


@micropython.viper
def depthwise_backward(plan: ptr32, at: int, w: ptr8, u: ptr8, a: ptr16, s: ptr32):
    """One SGD update of a depthwise layer, from ``w`` into ``u``; the deltas of its inputs take the inputs' place.

    ``s`` holds the sums of one position's deltas, then those of all gradients. Each product of either is rounded
    stochastically, by a Weyl sequence that goes through positions and taps.
    """
    height = plan[at + _HEIGHT]
    width = plan[at + _WIDTH]
    channels = plan[at + _CHANNELS]
    out_height = plan[at + _OUT_HEIGHT]
    out_width = plan[at + _OUT_WIDTH]
    kernel_height = plan[at + _KERNEL_HEIGHT]
    kernel_width = plan[at + _KERNEL_WIDTH]
    stride = plan[at + _STRIDE]
    weights = plan[at + _WEIGHTS]
    y = plan[at + _Y]
    shift = plan[at + _BACK_SHIFT]
    narrow = 16 - shift
    post = plan[at + _BACK_POST]
    propagate = plan[at + _BACK]
    every = propagate & _LINEAR
    sum_shift = plan[at + _SUM_SHIFT]
    sum_narrow = 16 - sum_shift
    step = plan[at + _STEP] - sum_shift
    widen = plan[at + _STEP] - 16
    dither = plan[_DITHER]
    fine = dither >> (16 - widen)
    q = (plan[_RANDOM] + dither) & 0xFFFF
    sign = plan[_SIGN]
    mask = sign + sign - 1
    limit = sign - 1
    sums = kernel_height * kernel_width * channels
    top_ky = plan[at + _PAD_Y]
    top_oy = 0
    while top_ky >= stride:
        top_ky -= stride
        top_oy += 1
    first_kx = plan[at + _PAD_X]
    first_ox = 0
    while first_kx >= stride:
        first_kx -= stride
        first_ox += 1
    for o in range(channels, channels + sums):
        s[o] = 0
    i = plan[at + _X]
    iy = 0
    while iy < height:
        left_kx = first_kx
        left_ox = first_ox
        ix = 0
        while ix < width:
            dither = (dither + 0x9E37) & 0xFFFF
            rounding = dither >> (16 - post)
            for o in range(channels):
                s[o] = rounding
            ky = top_ky
            oy = top_oy
            while ky < kernel_height and oy >= 0:
                kx = left_kx
                ox = left_ox
                if oy >= out_height:
                    kx = kernel_width
                while kx < kernel_width and ox >= 0:
                    if ox < out_width:
                        d = y + (oy * out_width + ox) * channels
                        g = (ky * kernel_width + kx) * channels
                        c = weights + g
                        g += channels
                        q = (q + 0x9E37) & 0xFFFF
                        part = q >> narrow
                        sum_part = q >> sum_narrow
                        for o in range(channels):
                            value = (a[i + o] ^ 0x8000) - 0x8000
                            delta = (a[d + o] ^ 0x8000) - 0x8000
                            s[o] = s[o] + ((((w[c + o] ^ sign) - sign) * delta + part) >> shift)
                            s[g + o] = s[g + o] + ((delta * value + sum_part) >> sum_shift)
                    kx += stride
                    ox -= 1
                ky += stride
                oy -= 1
            if propagate:
                for o in range(channels):
                    if (a[i + o] | every) != 0:
                        total = (((((s[o] >> 16) & 0xFFFF) ^ 0x8000) - 0x8000) << 16) | (s[o] & 0xFFFF)
                        total = total >> post
                        if total > 32767:
                            total = 32767
                        if total < -32767:
                            total = -32767
                        a[i + o] = total & 0xFFFF
            i += channels
            left_kx += 1
            if left_kx == stride:
                left_kx = 0
                left_ox += 1
            ix += 1
        top_ky += 1
        if top_ky == stride:
            top_ky = 0
            top_oy += 1
        iy += 1
    r = plan[_RANDOM]
    g = 0
    while g < sums:
        c = weights + g
        g += channels
        for o in range(channels):
            total = s[g + o]
            total = (((((total >> 16) & 0xFFFF) ^ 0x8000) - 0x8000) << 16) | (total & 0xFFFF)
            q = (r + (o + 1) * 0x9E37) & 0xFFFF
            weight = ((u[c + o] ^ sign) - sign) - ((total + ((q << widen) + fine >> sum_shift)) >> step)
            if weight > limit:
                weight = limit
            if weight < 0 - limit:
                weight = 0 - limit
            u[c + o] = weight & mask
        r = (r + channels * 0x9E37) & 0xFFFF
    plan[_RANDOM] = r


@micropython.viper
def average_forward(plan: ptr32, at: int, a: ptr16):
    """Global average pooling: the mean of each channel over all positions."""
    channels = plan[at + _CHANNELS]
    x = plan[at + _X]
    y = plan[at + _Y]
    shift = plan[at + _SHIFT]
    half = (1 << shift) >> 1
    reciprocal = plan[at + _RECIPROCAL]
    o = 0
    while o < channels:
        total = half
        i = x + o
        while i < y:
            total += (a[i] ^ 0x8000) - 0x8000
            i += channels
        total = ((total >> shift) * reciprocal + 8192) >> 14
        if total > 32767:
            total = 32767
        if total < -32767:
            total = -32767
        a[y + o] = total & 0xFFFF
        o += 1


@micropython.viper
def average_backward(plan: ptr32, at: int, a: ptr16):
    """Every position takes its share of its channel's delta, rounded stochastically."""
    channels = plan[at + _CHANNELS]
    i = plan[at + _X]
    y = plan[at + _Y]
    shift = plan[at + _SHIFT]
    reciprocal = plan[at + _RECIPROCAL]
    post = 14 + shift
    every = plan[at + _BACK] & _LINEAR
    fine = plan[_DITHER] >> (16 - shift)
    q = plan[_RANDOM]
    while i < y:
        o = 0
        while o < channels:
            q += 0x9E37
            if (a[i + o] | every) != 0:
                delta = (a[y + o] ^ 0x8000) - 0x8000
                a[i + o] = ((delta * reciprocal + (((q & 0xFFFF) << shift) + fine >> 2)) >> post) & 0xFFFF
            o += 1
        q = q & 0xFFFF
        i += channels
    plan[_RANDOM] = q
