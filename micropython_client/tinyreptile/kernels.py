"""The integer arithmetic of a training step: one source for viper, numba and plain Python.

Number formats, all two's complement in 16-bit cells:

- weights and biases: Q3.12 (12 fraction bits, -8 to 7.9998)
- activations, inputs and regression targets: Q5.10 (10 fraction bits, -32 to 31.999)
- deltas, that is the gradient of the loss by a layer's pre-activation times the learning rate: Q18

No accumulator leaves int32. A sum of n products of two int16 values is kept in range by shifting every product right,
with rounding, by s = bit_length(n) - 1 before it is added: for 2^s <= n < 2^(s+1) the sum stays within
2^31 - 2^(30-s), and the rounding constant and the bias that join it are smaller than that gap (`model.MAX_WIDTH`
bounds n).

Rules of the source, so that every compiler makes the same of it: cells are loaded unsigned, so
``(v ^ 0x8000) - 0x8000`` gives the sign back; ints are 32 bits wide on boards and 64 on x64; a local keeps one type;
no division; literals below 2^30 (from there on they are objects on boards); what is stored is masked to 16 bits.

A *plan* (array of int32) drives everything: a header, then `FIELDS` cells for each layer. `model.Model` writes it.
"""

from .portable import const, micropython, ptr8, ptr16, ptr32

# The plan's header.
RANDOM = const(0)  # the 16-bit Weyl sequence that rounds the updates
RATE = const(1)  # mantissa of the learning rate, 2^14 to 2^15 - 1, or 0
RATE_SHIFT = const(2)  # its exponent: delta = (error * mantissa) >> shift
OUTPUT = const(3)  # where the outputs lie among the activations
OUTPUTS = const(4)  # their number
LOSS = const(5)  # SQUARED_ERROR or CROSS_ENTROPY
LAYERS = const(6)  # the number of layers
HEADER = const(8)  # cells of the header

# The cells of layer i, from HEADER + FIELDS * i.
N_IN = const(0)
N_OUT = const(1)
WEIGHTS = const(2)  # offset of the weights, row by row, among the parameters
BIASES = const(3)  # offset of the biases among the parameters
X = const(4)  # offset of the inputs among the activations
Y = const(5)  # offset of the outputs among the activations
RELU = const(6)  # 1: a ReLU follows
SHIFT = const(7)  # right shift of every product of the forward sum
ROUND = const(8)  # rounding constant of the forward sum
BACK = const(9)  # what takes the inputs' deltas: 0 (nothing: they are the sample), BEHIND_RELU or LINEAR
BACK_SHIFT = const(10)  # right shift of every product of the backward sum
BACK_ROUND = const(11)  # rounding constant of the backward sum
FIELDS = const(12)

BEHIND_RELU = const(1)
LINEAR = const(2)

SQUARED_ERROR = const(0)
CROSS_ENTROPY = const(1)


@micropython.viper
def dense_forward(plan: ptr32, at: int, w: ptr16, a: ptr16):
    """Outputs of the dense layer whose plan lies at cell ``at``: y = W x + b, saturated, then ReLU if asked."""
    inputs = plan[at + N_IN]
    row = plan[at + WEIGHTS]
    bias = plan[at + BIASES]
    x = plan[at + X]
    y = plan[at + Y]
    x_end = x + inputs
    y_end = y + plan[at + N_OUT]
    shift = plan[at + SHIFT]
    half = (1 << shift) >> 1
    rounding = plan[at + ROUND]
    relu = plan[at + RELU]
    while y < y_end:
        total = (((w[bias] ^ 0x8000) - 0x8000) << 10 >> shift) + rounding
        i = x
        while i < x_end:
            total += (((w[row] ^ 0x8000) - 0x8000) * ((a[i] ^ 0x8000) - 0x8000) + half) >> shift
            row += 1
            i += 1
        total = total >> (12 - shift)
        if total > 32767:
            total = 32767
        if total < -32767:
            total = -32767
        if relu:
            if total < 0:
                total = 0
        a[y] = total & 0xFFFF
        bias += 1
        y += 1


@micropython.viper
def dense_backward(plan: ptr32, at: int, w: ptr16, a: ptr16):
    """One SGD update of a dense layer; the deltas of its inputs take the inputs' place.

    The outputs' cells hold deltas (Q18). Each weight is loaded once: it adds its part to the delta of its input, then
    takes its update w -= (delta * x + r) >> 16 with r a Weyl sequence, which rounds stochastically. An input that is
    zero moves no weight; where it came out of a ReLU it takes no delta either, so its whole column is passed over.
    """
    inputs = plan[at + N_IN]
    outputs = plan[at + N_OUT]
    column = plan[at + WEIGHTS]
    bias = plan[at + BIASES]
    x = plan[at + X]
    y = plan[at + Y]
    x_end = x + inputs
    y_end = y + outputs
    shift = plan[at + BACK_SHIFT]
    half = (1 << shift) >> 1
    post = 12 - shift
    rounding = plan[at + BACK_ROUND]
    propagate = plan[at + BACK]
    every = propagate & LINEAR
    # A fresh start for every layer, so that the sequence's period never locks on to the layer's size.
    r = (plan[RANDOM] * 25173 + 13849) & 0xFFFF
    while x < x_end:
        value = (a[x] ^ 0x8000) - 0x8000
        if (value | every) != 0:
            i = column
            o = y
            total = rounding
            while o < y_end:
                delta = (a[o] ^ 0x8000) - 0x8000
                weight = (w[i] ^ 0x8000) - 0x8000
                total += (weight * delta + half) >> shift
                r = (r + 0x9E37) & 0xFFFF
                weight -= (delta * value + r) >> 16
                if weight > 32767:
                    weight = 32767
                if weight < -32767:
                    weight = -32767
                w[i] = weight & 0xFFFF
                i += inputs
                o += 1
            if propagate:
                total = total >> post
                if total > 32767:
                    total = 32767
                if total < -32767:
                    total = -32767
                a[x] = total & 0xFFFF
        column += 1
        x += 1
    while y < y_end:
        r = (r + 0x9E37) & 0xFFFF
        weight = ((w[bias] ^ 0x8000) - 0x8000) - (((((a[y] ^ 0x8000) - 0x8000) << 10) + r) >> 16)
        if weight > 32767:
            weight = 32767
        if weight < -32767:
            weight = -32767
        w[bias] = weight & 0xFFFF
        bias += 1
        y += 1
    plan[RANDOM] = r


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


@micropython.native
def forward(plan, w, a):
    """The outputs of the whole network, from the inputs in the first cells of ``a``: linear values or probabilities."""
    at = HEADER
    for _ in range(plan[LAYERS]):
        dense_forward(plan, at, w, a)
        at += FIELDS
    if plan[LOSS] == CROSS_ENTROPY:
        softmax(plan, a)


@micropython.native
def loss(plan, a, target):
    """Loss of the outputs (Q16; squared errors are summed, not averaged); their deltas take the outputs' place."""
    if plan[LOSS] == CROSS_ENTROPY:
        return cross_entropy(plan, a, target)
    return squared_error(plan, a, target)


@micropython.native
def step(plan, w, a, target):
    """One step of stochastic gradient descent on the sample in ``a`` and ``target``; returns the loss before it."""
    forward(plan, w, a)
    value = loss(plan, a, target)
    at = HEADER + FIELDS * plan[LAYERS]
    for _ in range(plan[LAYERS]):
        at -= FIELDS
        dense_backward(plan, at, w, a)
    return value


@micropython.viper
def largest_change(w: ptr16, base: ptr16, start: int, end: int) -> int:
    """The largest absolute value of w - base in cells ``start`` to ``end``, at most 32767."""
    largest = 0
    i = start
    while i < end:
        change = ((w[i] ^ 0x8000) - 0x8000) - ((base[i] ^ 0x8000) - 0x8000)
        if change < 0:
            change = 0 - change
        if change > largest:
            largest = change
        i += 1
    if largest > 32767:
        largest = 32767
    return largest


@micropython.viper
def quantize(w: ptr16, base: ptr16, start: int, end: int, gain: int, r: int, bits: int, out: ptr8, first: int):
    """Pack cells ``start`` to ``end`` of w - base into ``out``, whose first byte holds cell ``first``.

    q = ((w - base) * gain + r_i) >> 16, with r_i the Weyl sequence r + 0x9E37 i: the same for cell i however the cells
    are cut into pieces. ``gain`` is at most 65536, and at most 65536 (2^(bits-1) - 1) / largest change.
    16 bits are little-endian; of 4 bits the even cell takes the low half of a byte.
    """
    r = (r + (start & 0xFFFF) * (0x9E37 - 0x10000)) & 0xFFFF
    i = start
    while i < end:
        change = ((w[i] ^ 0x8000) - 0x8000) - ((base[i] ^ 0x8000) - 0x8000)
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
