"""A network as a short list that travels in the manifest: its layers, parameter layout and RAM need.

    [["input", 1], ["dense", 32, "relu"], ["dense", 32, "relu"], ["dense", 1], ["squared_error"]]

The first item gives the number of inputs, the last the loss: ``squared_error`` has a linear head, ``cross_entropy`` a
softmax head. Between them stand the layers, each ``["dense", outputs]`` or ``["dense", outputs, "relu"]``.
"""

from array import array

from . import kernels

MAX_WIDTH = 4095  # inputs or outputs of a layer: the pre-shift of a product stays below the 12 bits to shift
MAX_LAYERS = 16
MAX_PARAMETERS = 1 << 20

LOSSES = {"squared_error": kernels.SQUARED_ERROR, "cross_entropy": kernels.CROSS_ENTROPY}


class ModelError(ValueError):
    """A model list that no device can run; the text says what is wrong and what is allowed."""


class Model:
    """A model list, checked and laid out.

    Attributes:
        spec: the list itself.
        inputs, outputs: the shape of a sample.
        loss: "squared_error" or "cross_entropy".
        tensors: a list of (name, offset, shape) of the parameters, in the order of their memory: weights row by row
            (outputs x inputs), then the biases, layer by layer.
        parameters: their number.
        activations: the number of 16-bit cells that a step works in: the inputs and every layer's outputs.
    """

    def __init__(self, spec):
        layers = _check(spec)
        self.spec = spec
        self.inputs = spec[0][1]
        self.loss = spec[-1][0]
        self.tensors = []
        self.layers = []
        offset = 0
        x = 0
        n_in = self.inputs
        for index, (n_out, relu) in enumerate(layers):
            self.tensors.append(("dense%d.weight" % index, offset, (n_out, n_in)))
            self.tensors.append(("dense%d.bias" % index, offset + n_in * n_out, (n_out,)))
            self.layers.append((n_in, n_out, offset, x, relu))
            offset += (n_in + 1) * n_out
            x += n_in
            n_in = n_out
        self.outputs = n_in
        self.parameters = offset
        self.activations = x + n_in
        if offset > MAX_PARAMETERS:
            raise ModelError("the model has %d parameters; at most %d are allowed" % (offset, MAX_PARAMETERS))

    def plan(self):
        """The model as the kernels read it: an array('i') of `kernels.HEADER` + `kernels.FIELDS` cells a layer."""
        cells = array("i", [0] * (kernels.HEADER + kernels.FIELDS * len(self.layers)))
        cells[kernels.OUTPUT] = self.activations - self.outputs
        cells[kernels.OUTPUTS] = self.outputs
        cells[kernels.LOSS] = LOSSES[self.loss]
        cells[kernels.LAYERS] = len(self.layers)
        at = kernels.HEADER
        for index, (n_in, n_out, offset, x, relu) in enumerate(self.layers):
            cells[at + kernels.N_IN] = n_in
            cells[at + kernels.N_OUT] = n_out
            cells[at + kernels.WEIGHTS] = offset
            cells[at + kernels.BIASES] = offset + n_in * n_out
            cells[at + kernels.X] = x
            cells[at + kernels.Y] = x + n_in
            cells[at + kernels.RELU] = 1 if relu else 0
            cells[at + kernels.SHIFT], cells[at + kernels.ROUND] = _sum_of_products(n_in)
            if index:
                behind_relu = self.layers[index - 1][4]
                cells[at + kernels.BACK] = kernels.BEHIND_RELU if behind_relu else kernels.LINEAR
            cells[at + kernels.BACK_SHIFT], cells[at + kernels.BACK_ROUND] = _sum_of_products(n_out)
            at += kernels.FIELDS
        return cells

    def ram(self):
        """Bytes of the buffers that a `learner.Learner` allocates: two of parameters, activations, target, plan."""
        return (
            4 * self.parameters
            + 2 * self.activations
            + 2 * self.target_cells()
            + 4 * (kernels.HEADER + kernels.FIELDS * len(self.layers))
        )

    def target_cells(self):
        """Cells of a sample's target: one for a label, one for each output otherwise."""
        return 1 if self.loss == "cross_entropy" else self.outputs


def _sum_of_products(n):
    """Pre-shift of each of ``n`` int16 products whose sum must stay in int32, and the rounding constant of the sum."""
    shift = -1
    while n >> (shift + 1):
        shift += 1
    return shift, (1 << (12 - shift)) >> 1


def _check(spec):
    """The (outputs, relu) of every layer, or `ModelError`."""
    if not isinstance(spec, (list, tuple)) or len(spec) < 3:
        raise ModelError('a model is a list: ["input", n], one or more layers, a loss')
    for item in spec:
        if not isinstance(item, (list, tuple)) or not item or not isinstance(item[0], str):
            raise ModelError("each item of a model is a list that begins with a name, not %r" % (item,))
    if spec[0][0] != "input" or len(spec[0]) != 2 or not _is_width(spec[0][1]):
        raise ModelError('a model begins with ["input", n], n from 1 to %d, not %r' % (MAX_WIDTH, spec[0]))
    if len(spec[-1]) != 1 or spec[-1][0] not in LOSSES:
        raise ModelError("a model ends with one of %s, not %r" % (sorted([[k] for k in LOSSES]), spec[-1]))
    if len(spec) - 2 > MAX_LAYERS:
        raise ModelError("a model has at most %d layers, not %d" % (MAX_LAYERS, len(spec) - 2))
    layers = []
    for item in spec[1:-1]:
        if (
            item[0] != "dense"
            or not 2 <= len(item) <= 3
            or not _is_width(item[1])
            or list(item[2:]) not in ([], ["relu"])
        ):
            raise ModelError(
                'a layer is ["dense", n] or ["dense", n, "relu"], n from 1 to %d, not %r' % (MAX_WIDTH, item)
            )
        layers.append((item[1], len(item) == 3))
    if layers[-1][1]:
        raise ModelError("the last layer has no ReLU: its outputs go to the head")
    return layers


def _is_width(value):
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_WIDTH
