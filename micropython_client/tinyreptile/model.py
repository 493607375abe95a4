"""A network as a short list that travels in the manifest: parameter layout, plan and RAM need.

    [["input", 28, 28, 1], ["conv2d", 16, 3, 2, 1, "relu"], ["flatten"], ["dense", 5], ["cross_entropy"]]

`layers` says what may stand in such a list, and checks it.
"""

from array import array

from . import plan

MAX_SUM = 4095  # products of one sum: from 4096 on the pre-shift of a product would be all its fraction
MAX_LAYERS = 16
MAX_PARAMETERS = 1 << 20
MAX_INPUTS = 65535

FRACTION = 12  # fraction bits of a 16-bit weight
LEAST_FRACTION = 4  # of an 8-bit weight, which may have up to FRACTION

WEIGHT_BITS = {"int16": 16, "int8": 8}
LOSSES = {"squared_error": plan.SQUARED_ERROR, "cross_entropy": plan.CROSS_ENTROPY}


class ModelError(ValueError):
    """A model list that no device can run; the text says what is wrong and what is allowed."""


class Layer:
    """One layer with parameters, or an average, as the plan describes it: its kind, geometry and place."""

    def __init__(self, kind, shape, out, kernel, stride, pad, relu):
        self.kind = kind
        self.height, self.width, self.channels = shape
        self.out_height, self.out_width, self.out_channels = out
        self.kernel_height, self.kernel_width = kernel
        self.stride = stride
        self.pad_y, self.pad_x = pad
        self.relu = relu
        self.weights = self.biases = 0  # offsets among the parameters
        self.x = 0  # offset of the inputs among the activations
        taps = self.kernel_height * self.kernel_width
        # Outputs that one input takes part in.
        reach = -(-self.kernel_height // stride) * -(-self.kernel_width // stride)
        positions = self.out_height * self.out_width
        if kind == plan.DEPTHWISE:
            self.weight_shape = (self.kernel_height, self.kernel_width, self.channels)
            self.sums = (taps, reach, positions)
            self.scratch = (taps + 1) * self.channels
        elif kind == plan.AVERAGE:
            self.weight_shape = ()
            self.sums = (self.height * self.width, 1, 1)
            self.scratch = 0
        else:
            self.weight_shape = (self.kernel_height, self.kernel_width, self.channels, self.out_channels)
            self.sums = (taps * self.channels, reach * self.out_channels, positions)
            self.scratch = max(self.out_channels + taps * self.channels + 1, taps * self.out_channels + positions + 1)
        if kind == plan.DENSE:
            self.weight_shape = self.weight_shape[2:]

    def inputs(self):
        """Cells of the inputs."""
        return self.height * self.width * self.channels

    def outputs(self):
        """Cells of the outputs."""
        return self.out_height * self.out_width * self.out_channels

    def multiplications(self):
        """Multiply-accumulates of a forward pass, at most: zeros are passed over."""
        if self.kind == plan.AVERAGE:
            return self.inputs()
        return self.sums[0] * self.outputs()


class Model:
    """A model list, checked and laid out.

    ``weights`` is the format of the parameters on a device: "int16" (Q3.12) or "int8" (a scale for each tensor).

    Attributes:
        spec: the list itself.
        shape: of an input, as in the list.
        inputs, outputs: the cells of a sample.
        loss: "squared_error" or "cross_entropy".
        tensors: a list of (name, offset, shape) of the parameters, in the order of their memory: weights (inputs,
            outputs), for convolutions (kernel height, kernel width, inputs, outputs), for depthwise ones (kernel
            height, kernel width, channels); then the biases, layer by layer.
        layers: the list of `Layer`.
        parameters: their number.
        activations: the number of 16-bit cells that a step works in: the inputs and every layer's outputs.
    """

    def __init__(self, spec, weights="int16"):
        if weights not in WEIGHT_BITS:
            raise ModelError("weights are int16 or int8, not %r" % (weights,))
        self.spec = spec
        self.weights = weights
        from .layers import check

        self.shape, self.layers = check(spec)
        self.loss = spec[-1][0]
        self.inputs = self.layers[0].inputs()
        self.outputs = self.layers[-1].outputs()
        self.tensors = []
        offset = 0
        x = 0
        for index, layer in enumerate(self.layers):
            layer.x = x
            x += layer.inputs()
            if layer.kind == plan.AVERAGE:
                continue
            name = "%s%d" % (_NAMES[layer.kind], index)
            layer.weights = offset
            self.tensors.append((name + ".weight", offset, layer.weight_shape))
            size = 1
            for n in layer.weight_shape:
                size *= n
            layer.biases = offset + size
            self.tensors.append((name + ".bias", layer.biases, (layer.out_channels,)))
            offset = layer.biases + layer.out_channels
        self.parameters = offset
        self.activations = x + self.outputs
        if not offset:
            raise ModelError("the model has no parameters: give it a dense or a convolutional layer")
        if offset > MAX_PARAMETERS:
            raise ModelError("the model has %d parameters; at most %d are allowed" % (offset, MAX_PARAMETERS))

    def plan(self):
        """The model as the kernels read it: an array('i') of `plan.HEADER` + `plan.FIELDS` cells a layer."""
        k = plan
        cells = array("i", [0] * (k.HEADER + k.FIELDS * len(self.layers)))
        cells[k.OUTPUT] = self.activations - self.outputs
        cells[k.OUTPUTS] = self.outputs
        cells[k.LOSS] = LOSSES[self.loss]
        cells[k.SIGN] = 1 << (WEIGHT_BITS[self.weights] - 1)
        at = k.HEADER
        relu = None  # of the layer before; None: there is none
        for layer in self.layers:
            cells[at + k.KIND] = layer.kind
            cells[at + k.HEIGHT] = layer.height
            cells[at + k.WIDTH] = layer.width
            cells[at + k.CHANNELS] = layer.channels
            cells[at + k.OUT_HEIGHT] = layer.out_height
            cells[at + k.OUT_WIDTH] = layer.out_width
            cells[at + k.OUT_CHANNELS] = layer.out_channels
            cells[at + k.KERNEL_HEIGHT] = layer.kernel_height
            cells[at + k.KERNEL_WIDTH] = layer.kernel_width
            cells[at + k.STRIDE] = layer.stride
            cells[at + k.PAD_Y] = layer.pad_y
            cells[at + k.PAD_X] = layer.pad_x
            cells[at + k.WEIGHTS] = layer.weights
            cells[at + k.BIASES] = layer.biases
            cells[at + k.X] = layer.x
            cells[at + k.Y] = layer.x + layer.inputs()
            cells[at + k.RELU] = 1 if layer.relu else 0
            if relu is not None:
                cells[at + k.BACK] = k.BEHIND_RELU if relu else k.LINEAR
            relu = layer.relu
            at += k.FIELDS
        self.scale(cells, [FRACTION] * len(self.tensors))
        return cells

    def scale(self, cells, fractions):
        """Fit the shifts in the plan ``cells`` to weights of so many ``fractions`` bits, one number a tensor.

        No sum leaves int32. A product of a 16-bit weight (or of two 16-bit numbers) stays below 2^30, for neither a
        weight nor a delta is ever -32768; one of an 8-bit weight stays within 2^22. n of them, each shifted by s, stay
        within 2^31 - 2^(30-s) for the one, within 2^30 for the other; the rounding constants and the bias that join the
        sum are smaller than what that leaves. So does a pair, which is summed before it is shifted.
        """
        k = plan
        at = k.HEADER
        tensor = 0
        for layer in self.layers:
            products, reach, positions = layer.sums
            if layer.kind == k.AVERAGE:
                shift = _pre_shift(products, 16)
                cells[at + k.SHIFT] = shift
                cells[at + k.RECIPROCAL] = ((1 << (15 + shift)) // products + 1) >> 1
            else:
                weight, bias = fractions[tensor : tensor + 2]
                bits = WEIGHT_BITS[self.weights]
                cells[at + k.SHIFT] = _pre_shift(products, bits)
                cells[at + k.POST] = weight - cells[at + k.SHIFT]
                cells[at + k.BIAS_SHIFT] = 10 + weight - bias
                cells[at + k.BACK_SHIFT] = _pre_shift(reach, bits)
                cells[at + k.BACK_POST] = weight - cells[at + k.BACK_SHIFT]
                cells[at + k.SUM_SHIFT] = _pre_shift(positions, 16)
                cells[at + k.STEP] = 28 - weight
                cells[at + k.BIAS_STEP] = 18 - bias
                tensor += 2
            at += k.FIELDS

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
            + len(self.tensors)
            + 2 * self.activations
            + 4 * self.scratch()
            + 2 * self.target_cells()
            + 4 * (plan.HEADER + plan.FIELDS * len(self.layers))
            + (size * self.parameters + batch * sample if batch else 0)
        )

    def cells(self, index):
        """First cell of tensor ``index`` and the first after it."""
        end = self.tensors[index + 1][1] if index + 1 < len(self.tensors) else self.parameters
        return self.tensors[index][1], end

    def header_bytes(self):
        """Bytes before the cells of an int8 initialization: the fraction bits of each tensor."""
        return len(self.tensors) if self.weights == "int8" else 0

    def scratch(self):
        """32-bit cells that the sums of a layer and its lists take, at most."""
        return max([layer.scratch for layer in self.layers])

    def target_cells(self):
        """Cells of a sample's target: one for a label, one for each output otherwise."""
        return 1 if self.loss == "cross_entropy" else self.outputs

    def multiplications(self):
        """Multiply-accumulates of a training step, at most: forward, backward but for the inputs, and update."""
        total = 3 * sum([layer.multiplications() for layer in self.layers])
        return total - self.layers[0].multiplications()


_NAMES = {plan.DENSE: "dense", plan.CONVOLUTION: "conv", plan.DEPTHWISE: "depthwise"}


def _pre_shift(n, bits):
    """Right shift of each of ``n`` products of a ``bits``-bit and a 16-bit number, for their sum to stay in int32."""
    shift = -1 if bits == 16 else -8
    while n:
        shift += 1
        n >>= 1
    return max(0, shift)
