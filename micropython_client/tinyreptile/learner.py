"""Online learning in fixed memory: one sample at a time, one SGD step each, nothing allocated after set-up.

TinyReptile's device side (arXiv 2304.05201): load an initialization, take k steps, hand out delta = weights -
initialization.
"""

import math
from array import array

from . import kernels
from .portable import view16, view32

ONE = 1024  # 1.0 in Q5.10, the format of inputs, targets and outputs


def fixed(value):
    """``value`` in Q5.10, rounded and saturated at +-32; raises ValueError for NaN."""
    value = value * ONE + 0.5
    if value >= 32767:
        return 32767
    if value <= -32767:
        return -32767
    return math.floor(value)


class Learner:
    """The buffers of one model, and the steps on them.

    Attributes:
        initialization: bytearray of `model.parameters` little-endian int16, Q3.12: what the last fetch brought.
        weights: bytearray of the same size and format: what is being learned.
        x: memoryview of `model.inputs` int16 cells, Q5.10: the sample to learn from is written here.
        y: array('h'): its target, Q5.10 an output; or its label in cell 0.

    ``seed`` starts the stochastic rounding.
    """

    def __init__(self, model, seed=1):
        self.model = model
        self.weights = bytearray(2 * model.parameters)
        self.initialization = bytearray(2 * model.parameters)
        self._activations = array("h", bytes(2 * model.activations))
        self._plan = model.plan()
        self.y = array("h", bytes(2 * model.target_cells()))
        self.x = memoryview(self._activations)[: model.inputs]
        self._outputs = memoryview(self._activations)[model.activations - model.outputs :]
        self._classes = model.outputs if model.loss == "cross_entropy" else 0
        # Squared errors are summed in Q16 by the kernel; a loss is their mean.
        self._loss_unit = 65536.0 * (1 if self._classes else model.outputs)
        self._w = view16(self.weights)
        self._a = view16(self._activations)
        self._y = view16(self.y)
        self._p = view32(self._plan)
        self.seed(seed)
        self.set_rate(0.0)

    def seed(self, seed):
        """Restart the sequence that rounds the updates."""
        self._plan[kernels.RANDOM] = seed & 0xFFFF

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
        self._plan[kernels.RATE] = min(32767, int(scale + 0.5))
        self._plan[kernels.RATE_SHIFT] = shift

    def load(self):
        """Begin from `initialization`: copy it into `weights`."""
        self.weights[:] = self.initialization

    def step(self, x, y):
        """Learn from one sample: ``x`` (Q5.10), ``y`` (Q5.10, or a label); returns its loss before the step.

        Both are sequences of ints, or the learner's own `x` and `y`, already filled. The loss is the mean squared
        error over the outputs, or the cross-entropy in nats. Raises ValueError for a sample of the wrong shape or a
        label that is no class.
        """
        self._take(x, y)
        return kernels.step(self._p, self._w, self._a, self._y) / self._loss_unit

    def evaluate(self, x, y):
        """(loss, predicted label) of one sample without learning from it; a regression's label is -1."""
        self._take(x, y)
        kernels.forward(self._p, self._w, self._a)
        label = -1
        if self._classes:
            label = 0
            for i in range(1, self._classes):
                if self._outputs[i] > self._outputs[label]:
                    label = i
        return kernels.loss(self._p, self._a, self._y) / self._loss_unit, label

    def predict(self, x):
        """Outputs for ``x`` (Q5.10): memoryview of int16, linear values in Q5.10 or probabilities in 15 bits.

        The view is overwritten by the next call of any kind.
        """
        if x is not self.x:
            _copy(x, self.x, "inputs")
        kernels.forward(self._p, self._w, self._a)
        return self._outputs

    def delta(self, bits):
        """What was learned since `load`, quantized to ``bits``: a `delta.Delta` that packs itself piece by piece."""
        from .delta import Delta

        return Delta(self.model, self.weights, self.initialization, bits, self._plan[kernels.RANDOM])

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
        cells[i] = values[i]
