"""A network as a short list that travels in the manifest: parameter layout, plan and RAM need.

    [["input", 28, 28, 1], ["conv2d", 16, 3, 2, 1, "relu"], ["flatten"], ["dense", 5], ["cross_entropy"]]

`layers` says what may stand in such a list, and checks it. `geometry` tells what a model's layers are, for who asks.
"""

from array import array

from .portable import const

# Cells of the plan, see `plan`.
_OUTPUT = const(3)
_OUTPUTS = const(4)

FRACTION = 12  # fraction bits of a 16-bit weight
LEAST_FRACTION = 4  # of an 8-bit weight, which may have up to FRACTION

WEIGHT_BITS = {"int16": 16, "int8": 8}


class ModelError(ValueError):
    """A model list that no device can run; the text says what is wrong and what is allowed."""


class Model:
    """A model list, checked and laid out.

    ``weights`` is the format of the parameters on a device: "int16" (Q3.12) or "int8" (a scale for each tensor).

    Attributes:
        spec: the list itself.
        shape: of an input, as in the list.
        inputs, outputs: the cells of a sample.
        loss: "squared_error" or "cross_entropy".
        offsets: array('i') of the first cell of each tensor, in the order of their memory: weights, then biases, layer
            by layer.
        parameters: their number.
        activations: the number of 16-bit cells that a step works in: the inputs and every layer's outputs.
        is_dense: whether there are dense layers only.
        scratch: 32-bit cells that the sums of a layer and its lists take, at most.
    """

    def __init__(self, spec, weights="int16"):
        if weights not in WEIGHT_BITS:
            raise ModelError("weights are int16 or int8, not %r" % (weights,))
        self.spec = spec
        self.weights = weights
        from .layers import lay_out

        self.shape, self.inputs, self.loss, self.offsets, self.parameters, self.scratch, self.is_dense, self._plan = (
            lay_out(spec, WEIGHT_BITS[weights])
        )
        self.outputs = self._plan[_OUTPUTS]
        self.activations = self._plan[_OUTPUT] + self.outputs

    def plan(self):
        """The model as the kernels read it: an array('i') of `plan.HEADER` + `plan.FIELDS` cells a layer."""
        return array("i", self._plan)

    def scale(self, cells, fractions):
        """Fit the shifts in the plan ``cells`` to weights of so many ``fractions`` bits, one number a tensor."""
        from .shifts import fit

        fit(cells, fractions, WEIGHT_BITS[self.weights])

    def ram(self, batch=0):
        """Bytes of the buffers that a `learner.Learner` allocates.

        Two of parameters, fraction bits, activations, sums, target, plan; and with a ``batch`` of so many stored
        samples, as a `batch.BatchLearner` has them, these and the array that a batch's updates are collected in.
        """
        size = WEIGHT_BITS[self.weights] // 8
        sample = 2 * (self.inputs + self.target_cells())
        return (
            2 * size * self.parameters
            + self.header_bytes()
            + len(self.offsets)
            + 2 * self.activations
            + 4 * self.scratch
            + 2 * self.target_cells()
            + 4 * len(self._plan)
            + (size * self.parameters + batch * sample if batch else 0)
        )

    def cells(self, index):
        """First cell of tensor ``index`` and the first after it."""
        end = self.offsets[index + 1] if index + 1 < len(self.offsets) else self.parameters
        return self.offsets[index], end

    def header_bytes(self):
        """Bytes before the cells of an int8 initialization: the fraction bits of each tensor."""
        return len(self.offsets) if self.weights == "int8" else 0

    def target_cells(self):
        """Cells of a sample's target: one for a label, one for each output otherwise."""
        return 1 if self.loss == "cross_entropy" else self.outputs
