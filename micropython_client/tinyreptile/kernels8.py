"""`kernels` with 8-bit weights; written by make_kernels8.py, not to be edited."""

from .portable import RUNNER, THUMB, const, micropython, ptr16, ptr32

if THUMB:
    from .thumb8 import add_rows, bias_backward, dense_backward, list_patch, put_outputs
else:
    from .loops8 import add_rows, bias_backward, dense_backward, list_patch, put_outputs


def load_convolutions():
    """Load what only layers that are not dense need: on a board, that is much."""
    global average_backward, average_forward, convolution_backward, depthwise_backward, depthwise_forward
    from .convolutions8 import (
        average_backward,
        average_forward,
        convolution_backward,
        depthwise_backward,
        depthwise_forward,
    )


if RUNNER != "micropython":  # which alone looks a name up no sooner than it calls it
    load_convolutions()


# The plan's header.
_RANDOM = const(0)  # the 16-bit Weyl sequence that rounds the updates
_RATE = const(1)  # mantissa of the learning rate, 2^14 to 2^15 - 1, or 0
_RATE_SHIFT = const(2)  # its exponent: delta = (error * mantissa) >> shift
_OUTPUT = const(3)  # where the outputs lie among the activations
_OUTPUTS = const(4)  # their number
_LOSS = const(5)  # SQUARED_ERROR or CROSS_ENTROPY
_JOB = const(7)  # what a loop is about: the layer's first cell; above 16 bits the input channel
_DITHER = const(9)  # 16 random bits, independent of RANDOM, that round the sums of a layer
_LAST = const(10)  # the generator of both: its last number
_BEFORE = const(11)  # and the one before
_SATURATED = const(12)  # steps in which an output of a layer reached the end of its format
_HEADER = const(13)  # cells of the header

# The cells of layer i, from HEADER + FIELDS * i.
_KIND = const(0)  # DENSE, CONVOLUTION, DEPTHWISE or AVERAGE
_OUT_HEIGHT = const(4)  # of the outputs
_OUT_WIDTH = const(5)
_OUT_CHANNELS = const(6)
_Y = const(15)  # offset of the outputs among the activations
_POST = const(18)  # right shift of an output's sum
_BACK = const(20)  # what takes the inputs' deltas: 0 (nothing: they are the sample), BEHIND_RELU or LINEAR
_FIELDS = const(26)

_CONVOLUTION = const(1)
_DEPTHWISE = const(2)
_AVERAGE = const(3)

_CROSS_ENTROPY = const(1)


@micropython.viper
def put_logits(plan: ptr32, a: ptr16, s: ptr32):
    """Put the logits of the softmax head, less the largest of them, in the outputs' place (Q5.10).

    Softmax depends on differences only, and exp(-32) is nothing: a difference may end at -32. Logits that ended at 32
    themselves would look alike beyond: a sample that is told apart without doubt would go on teaching, and long runs,
    whose logits grow to 50 and more, would diverge.
    """
    post = plan[(plan[_JOB] & 0xFFFF) + _POST]
    y = plan[_OUTPUT]
    top = -0x3FFFFFFF
    for o in range(plan[_OUTPUTS]):
        total = (((((s[o] >> 16) & 0xFFFF) ^ 0x8000) - 0x8000) << 16) | (s[o] & 0xFFFF)
        total = total >> post
        if total > top:
            top = total
    for o in range(plan[_OUTPUTS]):
        total = (((((s[o] >> 16) & 0xFFFF) ^ 0x8000) - 0x8000) << 16) | (s[o] & 0xFFFF)
        total = (total >> post) - top
        if total < -32767:
            total = -32767
        a[y + o] = total & 0xFFFF


@micropython.viper
def convolution_forward(plan, at: int, w, a, s):
    """Outputs of the dense or convolutional layer whose plan lies at cell ``at``, one position after the other."""
    p = ptr32(plan)
    p[_JOB] = at
    place = p[at + _Y]
    softmax_head = p[_LOSS] == _CROSS_ENTROPY and place == p[_OUTPUT]
    for row in range(p[at + _OUT_HEIGHT]):
        for column in range(p[at + _OUT_WIDTH]):
            list_patch(plan, (row << 16) | column, a, s)
            add_rows(plan, w, s)
            if softmax_head:
                put_logits(plan, a, s)
            else:
                put_outputs(plan, place, a, s)
            place += p[at + _OUT_CHANNELS]


@micropython.viper
def squared_error(plan: ptr32, a: ptr16, target: ptr16) -> int:
    """Sum of squared errors of the outputs over 2^k, the power of two next to their number (Q16, below 2^27).

    Deltas take the outputs' place. A delta is rounded stochastically, so that a rate may be so small that most deltas
    are below a unit.
    """
    y = plan[_OUTPUT]
    end = y + plan[_OUTPUTS]
    rate = plan[_RATE]
    shift = plan[_RATE_SHIFT]
    fine = plan[_RANDOM] >> 2
    q = plan[_DITHER]
    loss = 0  # in two words: units of 2^14 square units, and the rest
    rest = 0
    t = 0
    while y < end:
        error = ((a[y] ^ 0x8000) - 0x8000) - ((target[t] ^ 0x8000) - 0x8000)
        if error > 32767:
            error = 32767
        if error < -32767:
            error = -32767
        loss += error * error >> 14
        rest += error * error & 0x3FFF
        delta = (error * rate + (((q << 14) | fine) >> (30 - shift))) >> shift
        if delta > 32767:
            delta = 32767
        if delta < -32767:
            delta = -32767
        a[y] = delta & 0xFFFF
        q = (q + 0x9E37) & 0xFFFF
        y += 1
        t += 1
    k = 0
    while t > 1 << k:
        k += 1
    if k > 10:
        return (loss >> (k - 10)) + (rest >> (k + 4))
    return (loss << (10 - k)) + (rest >> (k + 4))


@micropython.viper
def softmax(plan: ptr32, a: ptr16, carry: int) -> int:
    """Turn the outputs' logits (Q5.10) into probabilities (15 fraction bits, at most 32767), in place.

    Returns the sum of exp(logit - largest logit), 15 fraction bits. exp(-u) = 2^-k * 2^-f, with a cubic for 2^-f on
    [0, 1) whose error is below 1e-4. What is cut off a probability is carried to the next one, so that however many
    there are their sum is one. ``carry``, 0 to 32767, is what the first one takes: 16384, or at random, and then every
    probability is rounded stochastically.
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
    low = 16384
    inverse = 0
    narrow = 0
    turn = 0
    while turn < 2:  # first the sum, then the shares
        y = start
        while y < end:
            u = ((top - ((a[y] ^ 0x8000) - 0x8000)) * 23637) >> 14  # 23637 / 2^14 = 1 / ln 2
            f = u & 1023
            u = (u >> 10) + narrow
            power = 0
            if u < 31:
                power = -1312
                power = (power * f >> 10) + 7595
                power = (power * f >> 10) - 22668
                power = (power * f >> 10) + 32768
            if turn == 0:
                power = power << 15 >> (u & 31)
                total += power >> 15
                low += power & 0x7FFF
            else:
                carry += power * inverse >> (u & 31)
                a[y] = carry >> 15
                carry = carry & 0x7FFF
            y += 1
        if turn == 0:
            total += low >> 15
            # 2^(30 + narrow) / total by restoring division, from the largest power of two that is not above it.
            rest = 32768
            while rest + rest <= total:
                rest += rest
                narrow += 1
            bit = 0
            while bit < 15:
                rest = rest << 1
                inverse = inverse << 1
                if rest >= total:
                    rest -= total
                    inverse += 1
                bit += 1
        turn += 1
    return total


@micropython.viper
def cross_entropy(plan, a, target) -> int:
    """-ln(probability of the label ``target[0]``), Q16, from the logits; their deltas take the outputs' place.

    It is the logarithm of the sum of exponentials, so that it has no limit but what logits may differ by. A delta is
    rounded as in `squared_error`; the label's error is what the others' errors leave it, so that they sum to zero.
    """
    p = ptr32(plan)
    cells = ptr16(a)
    start = p[_OUTPUT]
    end = start + p[_OUTPUTS]
    label = start + ptr16(target)[0]
    chosen = (cells[label] ^ 0x8000) - 0x8000
    gap = 0
    y = start
    while y < end:
        value = ((cells[y] ^ 0x8000) - 0x8000) - chosen
        if value > gap:
            gap = value
        y += 1
    m = int(softmax(plan, a, p[_RANDOM] >> 1))
    # The binary logarithm, 12 fraction bits: first its whole part, then one bit a squaring.
    log2 = 0
    while m >= 65536:
        m = m >> 1
        log2 += 4096
    m = m >> 1
    bit = 2048
    while bit > 0:
        m = m * m >> 14
        if m >= 32768:
            m = m >> 1
            log2 += bit
        bit = bit >> 1
    whole = 0
    y = start
    while y < end:
        whole += cells[y]
        y += 1
    rate = p[_RATE]
    shift = p[_RATE_SHIFT]
    fine = p[_RANDOM] >> 2
    q = p[_DITHER] | 0
    y = start
    while y < end:
        error = cells[y] | 0
        if y == label:
            error -= whole
        delta = (error * rate + (((q << 14) | fine) >> (30 - shift))) >> shift
        if delta > 32767:
            delta = 32767
        if delta < -32767:
            delta = -32767
        cells[y] = delta & 0xFFFF
        q = (q + 0x9E37) & 0xFFFF
        y += 1
    return (gap << 6) + (log2 * 11357 >> 10)  # 11357 / 2^14 = ln 2


@micropython.viper
def forward(plan, w, a, s):
    """The outputs of the whole network, from the inputs in the first cells of ``a``: linear values, or logits."""
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


@micropython.viper
def saturated(plan: ptr32, a: ptr16) -> int:
    """Return 1 if an output of a layer has reached the end of its format, else 0; logits of a softmax head may."""
    i = plan[_HEADER + _Y]
    end = plan[_OUTPUT]
    if plan[_LOSS] != _CROSS_ENTROPY:
        end += plan[_OUTPUTS]
    found = 0
    while i < end:
        value = a[i] | 0
        if value == 0x7FFF or value == 0x8001:
            found = 1
        i += 1
    return found


@micropython.viper
def loss(plan, a, target) -> int:
    """Loss of the outputs (Q16, of squared errors as `squared_error` has it); their deltas take the outputs' place."""
    p = ptr32(plan)
    if p[_LOSS] == _CROSS_ENTROPY:
        return int(cross_entropy(plan, a, target))
    return int(squared_error(plan, a, target))


@micropython.viper
def step(plan, w, u, a, s, target) -> int:
    """One step of stochastic gradient descent on the sample in ``a`` and ``target``; returns the loss before it.

    ``u`` takes the update: ``w`` itself, or, where no layer's kind is `plan.DENSE`, another array of the same size.

    Every step takes the next number of a xorshift generator of two 16-bit words, whose period is 2^32 - 1 whatever the
    network: a sequence that went on through the layers would soon come back to its start with some numbers of weights.
    Every layer makes its own start of it, by a linear congruence.
    """
    p = ptr32(plan)
    t = p[_BEFORE] ^ (p[_BEFORE] << 5) & 0xFFFF
    p[_BEFORE] = p[_LAST]
    p[_LAST] = p[_LAST] ^ (p[_LAST] >> 1) ^ t ^ (t >> 3)
    p[_RANDOM] = p[_LAST]
    p[_DITHER] = p[_BEFORE]
    forward(plan, w, a, s)
    p[_SATURATED] = p[_SATURATED] + int(saturated(plan, a))
    value = int(loss(plan, a, target))
    at = _HEADER
    while p[at + _Y] != p[_OUTPUT]:
        at += _FIELDS
    while at > 0:
        kind = p[at + _KIND]
        p[_RANDOM] = (p[_RANDOM] * 25173 + 13849) & 0xFFFF
        p[_DITHER] = (p[_DITHER] * 20081 + 13849) & 0xFFFF
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
