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

The loops that take most of a step's time are in `loops`, or in assembly in `thumb`. What layers other than dense ones
need is in `convolutions`.

Rules of the source, so that every compiler makes the same of it: cells are loaded unsigned, so
``(v ^ 0x8000) - 0x8000`` gives the sign back; 32-bit cells are unsigned on x64 only, so a sum that may be negative is
put together of its halves; ints are 32 bits wide on boards and under numba, 64 on x64; a local keeps one type; no
division; literals below 2^30 (from there on they are objects on boards); what is stored is masked.

A *plan* (array of int32) drives everything: a header, then `plan.FIELDS` cells for each layer, of which the last is the
one whose outputs lie at `plan.OUTPUT`. `model.Model` writes it; the numbers of its cells are those of `plan`. Any array
may be given by its address (`portable.address`).

``kernels8.py`` is this file with 8-bit weights; ``make_kernels8.py`` writes it.
"""

from .portable import RUNNER, THUMB, const, micropython, ptr16, ptr32

if THUMB:
    from .thumb import add_rows, bias_backward, dense_backward, list_patch, put_outputs
else:
    from .loops import add_rows, bias_backward, dense_backward, list_patch, put_outputs


def load_convolutions():
    """Load what only layers that are not dense need: on a board, that is much."""
    global average_backward, average_forward, convolution_backward, depthwise_backward, depthwise_forward
    from .convolutions import (
        average_backward,
        average_forward,
        convolution_backward,
        depthwise_backward,
        depthwise_forward,
    )


if RUNNER != "micropython":  # which alone looks a name up no sooner than it calls it
    load_convolutions()


# The plan's header.
_RATE = const(1)  # mantissa of the learning rate, 2^14 to 2^15 - 1, or 0
_RATE_SHIFT = const(2)  # its exponent: delta = (error * mantissa) >> shift
_OUTPUT = const(3)  # where the outputs lie among the activations
_OUTPUTS = const(4)  # their number
_LOSS = const(5)  # SQUARED_ERROR or CROSS_ENTROPY
_JOB = const(7)  # what a loop is about: the layer's first cell; above 16 bits the input channel
_HEADER = const(9)  # cells of the header

# The cells of layer i, from HEADER + FIELDS * i.
_KIND = const(0)  # DENSE, CONVOLUTION, DEPTHWISE or AVERAGE
_OUT_HEIGHT = const(4)  # of the outputs
_OUT_WIDTH = const(5)
_OUT_CHANNELS = const(6)
_Y = const(15)  # offset of the outputs among the activations
_BACK = const(20)  # what takes the inputs' deltas: 0 (nothing: they are the sample), BEHIND_RELU or LINEAR
_FIELDS = const(26)

_CONVOLUTION = const(1)
_DEPTHWISE = const(2)
_AVERAGE = const(3)

_CROSS_ENTROPY = const(1)


@micropython.viper
def convolution_forward(plan, at: int, w, a, s):
    """Outputs of the dense or convolutional layer whose plan lies at cell ``at``, one position after the other."""
    p = ptr32(plan)
    p[_JOB] = at
    place = p[at + _Y]
    for row in range(p[at + _OUT_HEIGHT]):
        for column in range(p[at + _OUT_WIDTH]):
            list_patch(plan, (row << 16) | column, a, s)
            add_rows(plan, w, s)
            put_outputs(plan, place, a, s)
            place += p[at + _OUT_CHANNELS]


@micropython.viper
def squared_error(plan: ptr32, a: ptr16, target: ptr16) -> int:
    """Sum of squared errors (Q16, saturated below 2^30) of the outputs; their deltas take the outputs' place."""
    y = plan[_OUTPUT]
    end = y + plan[_OUTPUTS]
    rate = plan[_RATE]
    shift = plan[_RATE_SHIFT]
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
    start = plan[_OUTPUT]
    end = start + plan[_OUTPUTS]
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
    start = plan[_OUTPUT]
    end = start + plan[_OUTPUTS]
    rate = plan[_RATE]
    shift = plan[_RATE_SHIFT]
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
    at = _HEADER
    y = 0
    while y != p[_OUTPUT]:
        y = p[at + _Y]
        kind = p[at + _KIND]
        if kind == _DEPTHWISE:
            depthwise_forward(plan, at, w, a, s)
        elif kind == _AVERAGE:
            average_forward(plan, at, a)
        else:
            convolution_forward(plan, at, w, a, s)
        at += _FIELDS
    if p[_LOSS] == _CROSS_ENTROPY:
        softmax(plan, a)


@micropython.viper
def loss(plan, a, target) -> int:
    """Loss of the outputs (Q16; squared errors are summed, not averaged); their deltas take the outputs' place."""
    p = ptr32(plan)
    if p[_LOSS] == _CROSS_ENTROPY:
        return int(cross_entropy(plan, a, target))
    return int(squared_error(plan, a, target))


@micropython.viper
def step(plan, w, u, a, s, target) -> int:
    """One step of stochastic gradient descent on the sample in ``a`` and ``target``; returns the loss before it.

    ``u`` takes the update: ``w`` itself, or, where no layer's kind is `plan.DENSE`, another array of the same size.
    """
    forward(plan, w, a, s)
    value = int(loss(plan, a, target))
    p = ptr32(plan)
    at = _HEADER
    while p[at + _Y] != p[_OUTPUT]:
        at += _FIELDS
    while at > 0:
        kind = p[at + _KIND]
        if kind == _AVERAGE:
            if p[at + _BACK]:  # else its inputs are the sample
                average_backward(plan, at, a)
        else:
            if kind == _DEPTHWISE:
                depthwise_backward(plan, at, w, u, a, s)
            elif kind == _CONVOLUTION:
                convolution_backward(plan, at, w, u, a, s)
            else:
                dense_backward(plan, at, w, a)
            bias_backward(plan, at, u, a)
        at -= _FIELDS
    return value
