"""Reptile's way on a device: stored samples, mini-batches, several passes (arXiv 1803.02999); the foil of `learner`.

It takes the memory of the stored samples and of a third array of parameters, where a batch's updates are collected.
"""

from array import array

from .learner import Learner
from .plan import CONVOLUTION, DENSE, FIELDS, HEADER, KIND, RANDOM
from .portable import address, view8, view16, zeros


class BatchLearner(Learner):
    """A `Learner` that keeps up to ``shots`` samples and learns from them in mini-batches.

    Attributes:
        shots: how many samples there is room for.
        count: how many are stored.
    """

    def __init__(self, model, shots, seed=1, encoding="int16"):
        Learner.__init__(self, model, seed, encoding)
        self.shots = shots
        self.count = 0
        self._updated = bytearray(len(self.weights))
        self._u = address((view8 if model.weights == "int8" else view16)(self._updated))
        self._kernels.load_convolutions()
        keep_weights(self._plan)
        self._stored = zeros("h", shots * (model.inputs + len(self.y)))

    def ram(self):
        """Bytes of all buffers."""
        return self.model.ram(self.shots)

    def clear(self):
        """Forget the stored samples."""
        self.count = 0

    def store(self, x, y):
        """Keep a copy of the sample ``x`` (Q5.10), ``y`` (Q5.10, or a label); ValueError where there is no room."""
        if self.count >= self.shots:
            raise ValueError("there is room for %d samples" % self.shots)
        self._take(x, y)
        cells = memoryview(self._stored)
        size = len(self.x) + len(self.y)
        at = self.count * size
        cells[at : at + len(self.x)] = self.x
        cells[at + len(self.x) : at + size] = self.y
        self.count += 1

    def set_rate(self, beta):
        """Use learning rate ``beta``, 0 to 1; raises ValueError outside."""
        Learner.set_rate(self, beta)
        self._beta = beta

    def train(self, batch, epochs):
        """Mini-batch SGD over the stored samples; returns the mean loss, each sample's taken before its batch's step.

        ``epochs`` passes, each in a new order, ``batch`` samples to a step (the last of a pass may have fewer), with
        the mean of their gradients. ValueError where nothing is stored.
        """
        if not self.count:
            raise ValueError("no sample is stored to learn from")
        total = 0.0
        order = bytearray(self.count) if self.count < 256 else array("H", bytes(2 * self.count))
        for i in range(self.count):
            order[i] = i
        cells = memoryview(self._stored)
        size = len(self.x) + len(self.y)
        for _ in range(epochs):
            self._shuffle(order)
            for start in range(0, self.count, batch):
                end = min(start + batch, self.count)
                Learner.set_rate(self, self._beta / (end - start))
                self._updated[:] = self.weights
                for j in range(start, end):
                    at = order[j] * size
                    self.x[:] = cells[at : at + len(self.x)]
                    self.y[:] = self._stored[at + len(self.x) : at + size]
                    total += self._kernels.step(self._p, self._w, self._u, self._a, self._s, self._y) / self._loss_unit
                self.weights[:] = self._updated
        Learner.set_rate(self, self._beta)
        return total / (epochs * self.count)

    def _shuffle(self, order):
        """Fisher and Yates, by a linear congruence that goes on from the rounding's sequence."""
        state = self._plan[RANDOM]
        for i in range(len(order) - 1, 0, -1):
            state = (state * 25173 + 13849) & 0xFFFF
            j = (state * (i + 1)) >> 16
            order[i], order[j] = order[j], order[i]
        self._plan[RANDOM] = state


def keep_weights(plan):
    """Let dense layers go the way of convolutions: a batch's samples see the same weights, updates go elsewhere."""
    for at in range(HEADER, len(plan), FIELDS):
        if plan[at + KIND] == DENSE:
            plan[at + KIND] = CONVOLUTION
