"""Online learning in fixed memory: one sample at a time, one SGD step each, nothing allocated after set-up.

TinyReptile's device side (arXiv 2304.05201): load an initialization, take k steps, hand out delta = weights -
initialization.
"""

import math
from array import array
from binascii import crc32

from .model import FRACTION, LEAST_FRACTION, WEIGHT_BITS
from .portable import address, const, view8, view16, view32, zeros

# Cells of the plan, see `plan`.
_RANDOM = const(0)
_RATE = const(1)
_RATE_SHIFT = const(2)
_LAST = const(10)
_BEFORE = const(11)
_SATURATED = const(12)

ONE = 1024  # 1.0 in Q5.10, the format of inputs, targets and outputs


def fixed(value):
    """``value`` in Q5.10, rounded and saturated at +-32; raises ValueError for NaN."""
    value = value * ONE + 0.5
    if value >= 32767:
        return 32767
    if value <= -32767:
        return -32767
    if value != value:
        raise ValueError("a sample is made of numbers, and NaN is none")
    return math.floor(value)


class Learner:
    """The buffers of one model, and the steps on them.

    ``seed`` starts the stochastic rounding. ``encoding`` is that of the initializations to come: "int16" (Q3.12) or
    "int8" (for each tensor its fraction bits, one byte, then one byte a parameter); 8-bit weights need "int8".

    Attributes:
        wire: memoryview that takes an initialization as it comes over the wire; `receive` follows.
        initialization: what was received last, in the format of the weights.
        weights: bytearray of the parameters, little-endian: what is being learned.
        x: memoryview of `model.inputs` int16 cells, Q5.10: the sample to learn from is written here.
        y: array('h'): its target, Q5.10 an output; or its label in cell 0.

    Raises ValueError for an encoding that does not go with the model's weights.
    """

    def __init__(self, model, seed=1, encoding="int16"):
        narrow = model.weights == "int8"
        wire_size = wire_bytes(model, encoding)
        self.model = model
        self._kernels = kernels_for(model.weights)
        size = WEIGHT_BITS[model.weights] // 8
        view = view8 if narrow else view16
        header = model.header_bytes()
        self.weights = bytearray(size * model.parameters)
        self._received = bytearray(header + size * model.parameters)
        self.initialization = memoryview(self._received)[header:]
        self.wire = memoryview(self._received)
        self._widen = encoding == "int8" and not narrow
        if self._widen:
            # It is received at the end of its place, and widened from the front on.
            self.wire = self.wire[-wire_size:]
        self._activations = zeros("h", model.activations)
        self._sums = zeros("i", model.scratch)
        self._plan = model.plan()
        if not model.is_dense:
            self._kernels.load_convolutions()
        self.fractions = bytearray([FRACTION] * len(model.offsets))
        self.y = array("h", bytes(2 * model.target_cells()))
        self.x = memoryview(self._activations)[: model.inputs]
        self._outputs = memoryview(self._activations)[model.activations - model.outputs :]
        self._classes = model.outputs if model.loss == "cross_entropy" else 0
        self._loss_unit = 65536.0
        if not self._classes:
            # The kernel divides the sum of squared errors by the next power of two; a loss is their mean.
            power = 1
            while power < model.outputs:
                power *= 2
            self._loss_unit *= model.outputs / power
        self._view = view
        self._w = address(view(self.weights))
        self._a = address(view16(self._activations))
        self._s = address(view32(self._sums))
        self._y = address(view16(self.y))
        self._p = address(view32(self._plan))
        self.seed(seed)
        self.set_rate(0.0)

    def receive(self):
        """`wire` holds a whole initialization: make it the one to `load`. Raises ValueError if it can't be one.

        The kernels' sums have room for weights down to -32767 (8-bit ones: -127); a lesser one is raised to that.
        """
        narrow = self.model.weights == "int8"
        if self._widen:
            from .wire import widen

            count = len(self.model.offsets)
            parameters = self.model.parameters
            fractions = bytes(self.wire[:count])
            _check_fractions(fractions)
            cells = view8(self._received)
            for index in range(count):
                start, end = self.model.cells(index)
                widen(cells, start, end, parameters, FRACTION - fractions[index])
        elif narrow:
            fractions = self.wire[: len(self.fractions)]
            _check_fractions(fractions)
            self.fractions[:] = fractions
            self.model.scale(self._plan, self.fractions)
        view = view8 if narrow else view16
        wire = wire_for(self.model.weights)
        wire.saturate(view(self.initialization), self.model.parameters, 1 << (WEIGHT_BITS[self.model.weights] - 1))

    def change(self, start, code, data):
        """Add coded differences to the initialization from cell ``start`` on; returns the first cell that is left.

        ``code`` has a byte for each tensor: how many low bits of a difference lie apart, and 16 times the shift of it.
        ``data`` is one piece: the bytes of its first part (2 bytes, little-endian), then both parts, see `wire.change`.
        """
        wire = wire_for(self.model.weights)
        base = self._view(self.initialization)
        sign = 1 << (WEIGHT_BITS[self.model.weights] - 1)
        middle = 8 * (2 + (data[0] | data[1] << 8))
        at = array("i", (16, middle, min(middle, 8 * len(data)), 8 * len(data)))
        cells = view32(at)
        packed = view8(data)
        for index in range(len(code)):
            first, end = self.model.cells(index)
            if first <= start < end:
                start = wire.change(base, start, end, sign, code[index] >> 4, code[index] & 15, packed, cells)
        return start

    def crc(self):
        """CRC-32 of the initialization, as it is held; of 8-bit weights with the fraction bits before them."""
        return crc32(self._received) & 0xFFFFFFFF

    def seed(self, seed):
        """Restart what rounds the updates; of ``seed`` 31 bits count."""
        start = ((seed & 0xFFFF) * 25173 + 13849) & 0xFFFF
        self._plan[_RANDOM] = self._plan[_LAST] = start
        self._plan[_BEFORE] = (seed >> 16) & 0x7FFF | 0x8000  # a generator that is all zeros would stay so

    def set_rate(self, beta):
        """Use learning rate ``beta``, 0 to 1; raises ValueError outside."""
        if not 0.0 <= beta <= 1.0:
            raise ValueError("a learning rate lies between 0 and 1, not %r" % beta)
        if self._classes:
            scale = beta * 8.0  # error in Q15, delta in Q18
        else:
            # error in Q10; the mean of squares has the gradient 2 e / n
            scale = beta * 256.0 * 2.0 / self.model.outputs
        shift = 0
        while scale and scale < 16384.0 and shift < 30:
            scale *= 2.0
            shift += 1
        self._plan[_RATE] = min(32767, int(scale + 0.5))
        self._plan[_RATE_SHIFT] = shift

    def load(self):
        """Begin from `initialization`: copy it into `weights`."""
        self.weights[:] = self.initialization
        self._plan[_SATURATED] = 0

    def saturated(self):
        """Return in how many steps since `load` an output of a layer reached the end of its format, +-32."""
        return self._plan[_SATURATED]

    def untrained_loss(self):
        """Return the loss of a model whose outputs are all zero on the target in `y`: what has learned nothing."""
        if self._classes:
            return math.log(self._classes)
        return sum([value * value for value in self.y]) / (ONE * ONE * len(self.y))

    def use(self, weights, fractions):
        """Learn and predict with ``weights`` from now on, of this model's size and so many ``fractions`` a tensor."""
        self.weights = weights
        self._w = address(self._view(weights))
        if self.fractions != fractions:
            self.fractions[:] = fractions
            self.model.scale(self._plan, self.fractions)

    def step(self, x, y):
        """Learn from one sample: ``x`` (Q5.10), ``y`` (Q5.10, or a label); returns its loss before the step.

        Both are sequences of ints, or the learner's own `x` and `y`, already filled. The loss is the mean squared
        error over the outputs, or the cross-entropy in nats. Raises ValueError for a sample of the wrong shape or a
        label that is no class.
        """
        self._take(x, y)
        return self._kernels.step(self._p, self._w, self._w, self._a, self._s, self._y) / self._loss_unit

    def evaluate(self, x, y):
        """(loss, predicted label) of one sample without learning from it; a regression's label is -1."""
        self._take(x, y)
        self._kernels.forward(self._p, self._w, self._a, self._s)
        label = -1
        if self._classes:
            label = 0
            for i in range(1, self._classes):
                if self._outputs[i] > self._outputs[label]:
                    label = i
        return self._kernels.loss(self._p, self._a, self._y) / self._loss_unit, label

    def predict(self, x):
        """Outputs for ``x`` (Q5.10): memoryview of int16, linear values in Q5.10 or probabilities in 15 bits.

        The view is overwritten by the next call of any kind.
        """
        if x is not self.x:
            _copy(x, self.x, "inputs")
        self._kernels.forward(self._p, self._w, self._a, self._s)
        if self._classes:
            self._kernels.softmax(self._p, self._a, 16384)
        return self._outputs

    def delta(self, bits, kept=None):
        """What was learned since `load`, in ``bits`` each: a `delta.Delta` that packs itself piece by piece.

        Of all changes only the ``kept`` largest, if that is given: a `sparse_delta.SparseDelta`.
        """
        what = self.model, self.weights, self.initialization, self.fractions, bits, self._plan[_RANDOM]
        if kept is None:
            from .delta import Delta

            return Delta(*what)
        from .sparse_delta import SparseDelta

        return SparseDelta(*what, kept)

    def _take(self, x, y):
        if x is not self.x:
            _copy(x, self.x, "inputs")
        if y is not self.y:
            _copy(y, self.y, "targets")
        if self._classes and not 0 <= self.y[0] < self._classes:
            raise ValueError("label %d of a model of %d classes" % (self.y[0], self._classes))


def _copy(values, cells, what):
    if len(values) != len(cells):
        raise ValueError("a sample of this model has %d %s, not %d" % (len(cells), what, len(values)))
    for i in range(len(cells)):
        value = values[i]
        try:
            whole = -32768 <= value <= 32767  # MicroPython would cut off the rest
            cells[i] = value
        except (TypeError, ValueError, OverflowError):
            whole = False
        if not whole:
            raise ValueError("%r among the %s is no int16; fixed() makes one of a number" % (value, what))


def kernels_for(weights):
    """The module of the kernels for "int16" or "int8" ``weights``; of the two, a device loads one."""
    if weights == "int8":
        from . import kernels8 as kernels
    else:
        from . import kernels
    return kernels


def wire_for(weights):
    """The module of a delta's arithmetic for "int16" or "int8" ``weights``."""
    if weights == "int8":
        from . import wire8 as wire
    else:
        from . import wire
    return wire


def wire_bytes(model, encoding):
    """Bytes of an initialization in that ``encoding``; ValueError for one that its weights don't take."""
    if encoding not in WEIGHT_BITS or (model.weights == "int8" and encoding != "int8"):
        raise ValueError("an initialization of %s is nothing for weights of %s" % (encoding, model.weights))
    return len(model.offsets) + model.parameters if encoding == "int8" else 2 * model.parameters


def _check_fractions(fractions):
    for fraction in fractions:
        if not LEAST_FRACTION <= fraction <= FRACTION:
            raise ValueError("8-bit weights have %d to %d fraction bits, not %d" % (LEAST_FRACTION, FRACTION, fraction))
