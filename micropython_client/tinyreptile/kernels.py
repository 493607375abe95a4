"""The integer arithmetic of a training step: one source for viper, numba and plain Python.

Number formats, all two's complement:

- weights and biases: 16-bit cells in Q3.12, or 8-bit cells with e fraction bits, e of each tensor's own (4 to 12)
- activations, inputs and regression targets: 16 bits, Q5.10 (10 fraction bits, -32 to 31.999)
- deltas, that is the gradient of the loss by a layer's pre-activation times the learning rate: 16 bits, Q18

Layouts are channels last: an activation is (height, width, channels), a kernel (height, width, inputs, outputs), and a
dense layer is a convolution of a 1 x 1 image. So the innermost loops, over the outputs of one input, run through
consecutive cells.

No accumulator leaves int32. A sum of n products is kept in range by shifting every product right, with rounding, before
it is added; `model` chooses the shifts and proves them.

The loops that take most of a step's time are in `loops`, or in assembly in `thumb`.

Rules of the source, so that every compiler makes the same of it: cells are loaded unsigned, so
``(v ^ 0x8000) - 0x8000`` gives the sign back; 32-bit cells are unsigned on x64 only, so a sum that may be negative is
put together of its halves; ints are 32 bits wide on boards and under numba, 64 on x64; a local keeps one type; no
division; literals below 2^30 (from there on they are objects on boards); what is stored is masked.

A *plan* (array of int32) drives everything: a header, then `FIELDS` cells for each layer. `model.Model` writes it;
the numbers of its cells are those of `plan`.

``kernels8.py`` is this file with 8-bit weights; ``make_kernels8.py`` writes it.
"""

from .portable import THUMB, const, micropython, ptr16, ptr32

if THUMB:
    from .thumb import (
        add_gradients,
        add_rows,
        bias_backward,
        dense_backward,
        list_patch,
        list_reach,
        list_tap,
        put_deltas,
        put_outputs,
        update_channel,
    )
else:
    from .loops import (
        add_gradients,
        add_rows,
        bias_backward,
        dense_backward,
        list_patch,
        list_reach,
        list_tap,
        put_deltas,
        put_outputs,
        update_channel,
    )

# The plan's header.
RANDOM = const(0)  # the 16-bit Weyl sequence that rounds the updates
RATE = const(1)  # mantissa of the learning rate, 2^14 to 2^15 - 1, or 0
RATE_SHIFT = const(2)  # its exponent: delta = (error * mantissa) >> shift
OUTPUT = const(3)  # where the outputs lie among the activations
OUTPUTS = const(4)  # their number
LOSS = const(5)  # SQUARED_ERROR or CROSS_ENTROPY
SIGN = const(6)  # the sign bit of a weight's cell
JOB = const(7)  # what a loop is about: the layer's first cell; above 16 bits the input channel
END = const(8)  # the first cell behind its list
HEADER = const(9)  # cells of the header

# The cells of layer i, from HEADER + FIELDS * i.
KIND = const(0)  # DENSE, CONVOLUTION, DEPTHWISE or AVERAGE
HEIGHT = const(1)  # of the inputs
WIDTH = const(2)
CHANNELS = const(3)
OUT_HEIGHT = const(4)  # of the outputs
OUT_WIDTH = const(5)
OUT_CHANNELS = const(6)
KERNEL_HEIGHT = const(7)
KERNEL_WIDTH = const(8)
STRIDE = const(9)
PAD_Y = const(10)  # rows of zeros above and below the inputs
PAD_X = const(11)  # columns of zeros left and right
WEIGHTS = const(12)  # offset of the weights among the parameters
RECIPROCAL = const(12)  # of an average, which has no weights: 2^(14 + SHIFT) / positions
BIASES = const(13)  # offset of the biases among the parameters
X = const(14)  # offset of the inputs among the activations
Y = const(15)  # offset of the outputs among the activations
RELU = const(16)  # 1: a ReLU follows
SHIFT = const(17)  # right shift of every product of the forward sum
POST = const(18)  # right shift of the forward sum
BIAS_SHIFT = const(19)  # left shift of a bias before SHIFT
BACK = const(20)  # what takes the inputs' deltas: 0 (nothing: they are the sample), BEHIND_RELU or LINEAR
BACK_SHIFT = const(21)  # right shift of every product of the backward sum
BACK_POST = const(22)  # right shift of the backward sum
SUM_SHIFT = const(23)  # right shift of every product of a weight's gradient
STEP = const(24)  # right shift from a gradient (Q28) to the weights' format
BIAS_STEP = const(25)  # right shift from a delta (Q18) to the biases' format
FIELDS = const(26)

DENSE = const(0)
CONVOLUTION = const(1)
DEPTHWISE = const(2)
AVERAGE = const(3)

BEHIND_RELU = const(1)
LINEAR = const(2)

SQUARED_ERROR = const(0)
CROSS_ENTROPY = const(1)


@micropython.viper
def convolution_forward(plan, at: int, w, a, s):
    """Outputs of the dense or convolutional layer whose plan lies at cell ``at``, one position after the other."""
    p = ptr32(plan)
    p[JOB] = at
    place = p[at + Y]
    for row in range(p[at + OUT_HEIGHT]):
        for column in range(p[at + OUT_WIDTH]):
            list_patch(plan, (row << 16) | column, a, s)
            add_rows(plan, w, s)
            put_outputs(plan, place, a, s)
            place += p[at + OUT_CHANNELS]


@micropython.viper
def convolution_backward(plan, at: int, w, u, a, s):
    """One SGD update of a dense or convolutional layer; the deltas of its inputs take the inputs' place.

    The weights ``w`` are read, the updates go to ``u``, which may be the same array. One input channel after the other:
    the gradients of its weights, tap by tap, the deltas of its inputs, then the updates. So nothing has to be kept
    beside one channel's gradients. For a 1 x 1 image the bits are those of `dense_backward`.
    """
    p = ptr32(plan)
    for channel in range(p[at + CHANNELS]):
        p[JOB] = (channel << 16) | at
        sums = 0
        for ky in range(p[at + KERNEL_HEIGHT]):
            for kx in range(p[at + KERNEL_WIDTH]):
                list_tap(plan, (ky << 16) | kx, a, s)
                add_gradients(plan, sums, a, s)
                sums += p[at + OUT_CHANNELS]
        if p[at + BACK]:
            start = int(list_reach(plan, 0, a, s))
            put_deltas(plan, w, a, s)
            while start > 0:
                start = int(list_reach(plan, start, a, s))
                put_deltas(plan, w, a, s)
        update_channel(plan, u, s)


@micropython.viper
def depthwise_forward(plan: ptr32, at: int, w: ptr16, a: ptr16, s: ptr32):
    """Outputs of the depthwise layer whose plan lies at cell ``at``: every channel with a kernel of its own."""
    height = plan[at + HEIGHT]
    width = plan[at + WIDTH]
    channels = plan[at + CHANNELS]
    kernel_height = plan[at + KERNEL_HEIGHT]
    kernel_width = plan[at + KERNEL_WIDTH]
    stride = plan[at + STRIDE]
    biases = plan[at + BIASES]
    x = plan[at + X]
    y = plan[at + Y]
    relu = plan[at + RELU]
    shift = plan[at + SHIFT]
    half = (1 << shift) >> 1
    post = plan[at + POST]
    rounding = (1 << post) >> 1
    bias_shift = plan[at + BIAS_SHIFT]
    sign = plan[SIGN]
    rows = plan[at + OUT_HEIGHT]
    top = 0 - plan[at + PAD_Y]
    while rows > 0:
        columns = plan[at + OUT_WIDTH]
        left = 0 - plan[at + PAD_X]
        while columns > 0:
            for o in range(channels):
                s[o] = (((w[biases + o] ^ sign) - sign) << bias_shift >> shift) + rounding
            k = plan[at + WEIGHTS]
            iy = top
            while iy < top + kernel_height:
                ix = left
                while ix < left + kernel_width:
                    if iy >= 0 and iy < height and ix >= 0 and ix < width:
                        i = x + (iy * width + ix) * channels
                        for o in range(channels):
                            value = (a[i + o] ^ 0x8000) - 0x8000
                            s[o] = s[o] + ((((w[k + o] ^ sign) - sign) * value + half) >> shift)
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
def depthwise_backward(plan: ptr32, at: int, w: ptr16, u: ptr16, a: ptr16, s: ptr32):
    """One SGD update of a depthwise layer, from ``w`` into ``u``; the deltas of its inputs take the inputs' place.

    ``s`` holds the sums of one position's deltas, then those of all gradients.
    """
    height = plan[at + HEIGHT]
    width = plan[at + WIDTH]
    channels = plan[at + CHANNELS]
    out_height = plan[at + OUT_HEIGHT]
    out_width = plan[at + OUT_WIDTH]
    kernel_height = plan[at + KERNEL_HEIGHT]
    kernel_width = plan[at + KERNEL_WIDTH]
    stride = plan[at + STRIDE]
    weights = plan[at + WEIGHTS]
    y = plan[at + Y]
    shift = plan[at + BACK_SHIFT]
    half = (1 << shift) >> 1
    post = plan[at + BACK_POST]
    rounding = (1 << post) >> 1
    propagate = plan[at + BACK]
    every = propagate & LINEAR
    sum_shift = plan[at + SUM_SHIFT]
    sum_half = (1 << sum_shift) >> 1
    step = plan[at + STEP] - sum_shift
    widen = plan[at + STEP] - 16
    sign = plan[SIGN]
    mask = sign + sign - 1
    limit = sign - 1
    sums = kernel_height * kernel_width * channels
    top_ky = plan[at + PAD_Y]
    top_oy = 0
    while top_ky >= stride:
        top_ky -= stride
        top_oy += 1
    first_kx = plan[at + PAD_X]
    first_ox = 0
    while first_kx >= stride:
        first_kx -= stride
        first_ox += 1
    for o in range(channels, channels + sums):
        s[o] = 0
    i = plan[at + X]
    iy = 0
    while iy < height:
        left_kx = first_kx
        left_ox = first_ox
        ix = 0
        while ix < width:
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
                        for o in range(channels):
                            value = (a[i + o] ^ 0x8000) - 0x8000
                            delta = (a[d + o] ^ 0x8000) - 0x8000
                            s[o] = s[o] + ((((w[c + o] ^ sign) - sign) * delta + half) >> shift)
                            s[g + o] = s[g + o] + ((delta * value + sum_half) >> sum_shift)
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
    r = (plan[RANDOM] * 25173 + 13849) & 0xFFFF
    g = 0
    while g < sums:
        c = weights + g
        g += channels
        for o in range(channels):
            total = s[g + o]
            total = (((((total >> 16) & 0xFFFF) ^ 0x8000) - 0x8000) << 16) | (total & 0xFFFF)
            q = (r + (o + 1) * 0x9E37) & 0xFFFF
            weight = ((u[c + o] ^ sign) - sign) - ((total + (q << widen >> sum_shift)) >> step)
            if weight > limit:
                weight = limit
            if weight < 0 - limit:
                weight = 0 - limit
            u[c + o] = weight & mask
        r = (r + channels * 0x9E37) & 0xFFFF
    plan[RANDOM] = r


@micropython.viper
def average_forward(plan: ptr32, at: int, a: ptr16):
    """Global average pooling: the mean of each channel over all positions."""
    channels = plan[at + CHANNELS]
    x = plan[at + X]
    y = plan[at + Y]
    shift = plan[at + SHIFT]
    half = (1 << shift) >> 1
    reciprocal = plan[at + RECIPROCAL]
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
    channels = plan[at + CHANNELS]
    i = plan[at + X]
    y = plan[at + Y]
    shift = plan[at + SHIFT]
    reciprocal = plan[at + RECIPROCAL]
    post = 14 + shift
    every = plan[at + BACK] & LINEAR
    q = (plan[RANDOM] * 25173 + 13849) & 0xFFFF
    while i < y:
        o = 0
        while o < channels:
            q += 0x9E37
            if (a[i + o] | every) != 0:
                delta = (a[y + o] ^ 0x8000) - 0x8000
                a[i + o] = ((delta * reciprocal + ((q & 0xFFFF) << shift >> 2)) >> post) & 0xFFFF
            o += 1
        q = q & 0xFFFF
        i += channels
    plan[RANDOM] = q


@micropython.viper
def squared_error(plan: ptr32, a: ptr16, target: ptr16) -> int:
    """Sum of squared errors (Q16, saturated below 2^30) of the outputs; their deltas take the outputs' place."""
    y = plan[OUTPUT]
    end = y + plan[OUTPUTS]
    rate = plan[RATE]
    shift = plan[RATE_SHIFT]
    half = (1 << shift) >> 1
    loss = 0
    t = 0
    while y < end:
        error = ((a[y] ^ 0x8000) - 0x8000) - ((target[t] ^ 0x8000) - 0x8000)
        if error > 32767:
            error = 32767
        if error < -32767:
            error = -32767
        loss += error * error >> 4
        if loss > 0x3FFFFFFF:
            loss = 0x3FFFFFFF
        delta = (error * rate + half) >> shift
        if delta > 32767:
            delta = 32767
        if delta < -32767:
            delta = -32767
        a[y] = delta & 0xFFFF
        y += 1
        t += 1
    return loss


@micropython.viper
def softmax(plan: ptr32, a: ptr16):
    """Turn the outputs' logits (Q5.10) into probabilities (15 fraction bits, at most 32767), in place.

    exp(-u) = 2^-k * 2^-f, with a cubic for 2^-f on [0, 1) whose error is below 1e-4.
    """
    start = plan[OUTPUT]
    end = start + plan[OUTPUTS]
    top = -32768
    y = start
    while y < end:
        value = (a[y] ^ 0x8000) - 0x8000
        if value > top:
            top = value
        y += 1
    total = 0
    y = start
    while y < end:
        u = ((top - ((a[y] ^ 0x8000) - 0x8000)) * 23637) >> 14  # 23637 / 2^14 = 1 / ln 2
        f = u & 1023
        u = u >> 10
        power = 0
        if u < 16:
            power = -1312
            power = (power * f >> 10) + 7595
            power = (power * f >> 10) - 22668
            power = (power * f >> 10) + 32767
            power = power >> u
        a[y] = power & 0xFFFF
        total += power
        y += 1
    y = start
    while y < end:  # each share by restoring division
        rest = a[y] | 0
        share = 0
        bit = 0
        while bit < 15:
            rest = rest << 1
            share = share << 1
            if rest >= total:
                rest -= total
                share += 1
            bit += 1
        a[y] = share & 0xFFFF
        y += 1


@micropython.viper
def cross_entropy(plan: ptr32, a: ptr16, target: ptr16) -> int:
    """-ln(probability of the label ``target[0]``), Q16, at most 10.4; the logits' deltas take the outputs' place."""
    start = plan[OUTPUT]
    end = start + plan[OUTPUTS]
    rate = plan[RATE]
    shift = plan[RATE_SHIFT]
    half = (1 << shift) >> 1
    label = start + target[0]
    m = a[label] | 0
    if m == 0:
        m = 1
    # The binary logarithm, 12 fraction bits: first its whole part, then one bit a squaring.
    log2 = 4096
    while m < 16384:
        m = m << 1
        log2 += 4096
    bit = 2048
    while bit > 0:
        m = m * m >> 14
        if m >= 32768:
            m = m >> 1
            log2 -= bit
        bit = bit >> 1
    y = start
    while y < end:
        error = a[y] | 0
        if y == label:
            error -= 32767
        delta = (error * rate + half) >> shift
        if delta > 32767:
            delta = 32767
        if delta < -32767:
            delta = -32767
        a[y] = delta & 0xFFFF
        y += 1
    return log2 * 11357 >> 10  # 11357 / 2^14 = ln 2


@micropython.viper
def forward(plan, w, a, s):
    """The outputs of the whole network, from the inputs in the first cells of ``a``: linear values or probabilities."""
    p = ptr32(plan)
    at = HEADER
    end = int(len(plan))
    while at < end:
        kind = p[at + KIND]
        if kind == DEPTHWISE:
            depthwise_forward(plan, at, w, a, s)
        elif kind == AVERAGE:
            average_forward(plan, at, a)
        else:
            convolution_forward(plan, at, w, a, s)
        at += FIELDS
    if p[LOSS] == CROSS_ENTROPY:
        softmax(plan, a)


@micropython.viper
def loss(plan, a, target) -> int:
    """Loss of the outputs (Q16; squared errors are summed, not averaged); their deltas take the outputs' place."""
    p = ptr32(plan)
    if p[LOSS] == CROSS_ENTROPY:
        return int(cross_entropy(plan, a, target))
    return int(squared_error(plan, a, target))


@micropython.viper
def step(plan, w, u, a, s, target) -> int:
    """One step of stochastic gradient descent on the sample in ``a`` and ``target``; returns the loss before it.

    ``u`` takes the update: ``w`` itself, or, where no layer's kind is `DENSE`, another array of the same size.
    """
    forward(plan, w, a, s)
    value = int(loss(plan, a, target))
    p = ptr32(plan)
    at = int(len(plan)) - FIELDS
    while at > 0:
        kind = p[at + KIND]
        if kind == AVERAGE:
            if p[at + BACK]:  # else its inputs are the sample
                average_backward(plan, at, a)
        else:
            if kind == DEPTHWISE:
                depthwise_backward(plan, at, w, u, a, s)
            elif kind == CONVOLUTION:
                convolution_backward(plan, at, w, u, a, s)
            else:
                dense_backward(plan, at, w, a)
            bias_backward(plan, at, u, a)
        at -= FIELDS
    return value
