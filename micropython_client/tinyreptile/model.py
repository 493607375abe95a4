"""A network as a short list that travels in the manifest: its layers, parameter layout and RAM need.

    [["input", 28, 28, 1], ["conv2d", 16, 3, 2, 1, "relu"], ["flatten"], ["dense", 5], ["cross_entropy"]]

The first item gives the shape of an input: ``["input", n]``, ``["input", time, channels]`` or ``["input", height,
width, channels]``; the last the loss: ``squared_error`` has a linear head, ``cross_entropy`` a softmax head. Between
them stand the layers, each of the first four with ``"relu"`` at its end or without:

- ``["dense", outputs]``
- ``["conv2d", channels, kernel, stride, padding]`` and ``["conv1d", ...]``: kernel x kernel or kernel taps; ``padding``
  zeros on every side
- ``["depthwise2d", kernel, stride, padding]`` and ``["depthwise1d", ...]``: a kernel for each channel; followed by a
  convolution with kernel 1 it makes a depthwise-separable convolution
- ``["average"]``: the mean of each channel over all positions
- ``["flatten"]``: positions and channels in one row, which a dense layer needs
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
        self.shape, self.layers = _check(spec)
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


def _check(spec):
    """(input shape, layers), or `ModelError`."""
    if not isinstance(spec, (list, tuple)) or len(spec) < 3:
        raise ModelError('a model is a list: ["input", n], one or more layers, a loss')
    for item in spec:
        if not isinstance(item, (list, tuple)) or not item or not isinstance(item[0], str):
            raise ModelError("each item of a model is a list that begins with a name, not %r" % (item,))
    if spec[0][0] != "input" or not 2 <= len(spec[0]) <= 4 or not _are_sizes(spec[0][1:]):
        raise ModelError('a model begins with ["input", n], ["input", t, c] or ["input", h, w, c], not %r' % (spec[0],))
    if len(spec[-1]) != 1 or spec[-1][0] not in LOSSES:
        raise ModelError("a model ends with one of %s, not %r" % (sorted([[k] for k in LOSSES]), spec[-1]))
    if len(spec) - 2 > MAX_LAYERS:
        raise ModelError("a model has at most %d layers, not %d" % (MAX_LAYERS, len(spec) - 2))
    shape = tuple(spec[0][1:])
    layers = []
    for item in spec[1:-1]:
        if item[0] == "flatten" and len(item) == 1:
            shape = (_cells(shape),)
            continue
        layer = _layer(item, shape)
        _check_sums(item, layer)
        shape = (layer.out_height, layer.out_width, layer.out_channels)[-len(shape) :]
        if layer.kind == plan.AVERAGE:
            shape = shape[-1:]
        layers.append(layer)
    if not layers or layers[-1].kind != plan.DENSE and len(shape) != 1:
        raise ModelError("the outputs have the shape %s: end with a dense layer, or average or flatten" % (shape,))
    if layers[-1].relu:
        raise ModelError("the last layer has no ReLU: its outputs go to the head")
    if _cells(spec[0][1:]) > MAX_INPUTS or _cells(shape) > MAX_SUM:
        raise ModelError("a model has at most %d inputs and %d outputs" % (MAX_INPUTS, MAX_SUM))
    return tuple(spec[0][1:]), layers


def _layer(item, shape):
    """The `Layer` that ``item`` makes of inputs of ``shape``."""
    name = item[0]
    relu = item[-1] == "relu"
    numbers = item[1:-1] if relu else item[1:]
    known = {"dense": 1, "conv1d": 4, "conv2d": 4, "depthwise1d": 3, "depthwise2d": 3, "average": 0}
    if name not in known or len(numbers) != known[name] or (relu and name == "average"):
        raise ModelError("no layer is written %r; docs/protocol.md lists them" % (item,))
    if name == "dense":
        if len(shape) != 1:
            raise ModelError(
                '%r follows inputs of the shape %s; put ["flatten"] or ["average"] before it' % (item, shape)
            )
        if not _are_sizes(numbers):
            raise ModelError("%r: the outputs of a dense layer are 1 to %d" % (item, MAX_SUM))
        return Layer(plan.DENSE, (1, 1) + shape, (1, 1, numbers[0]), (1, 1), 1, (0, 0), relu)
    dimensions = len(shape) - 1
    if dimensions < 1 or name[-2:] in ("1d", "2d") and name[-2:] != "%dd" % dimensions:
        raise ModelError("%r can't follow inputs of the shape %s" % (item, shape))
    height, width, channels = (1,) * (2 - dimensions) + shape
    if name == "average":
        return Layer(plan.AVERAGE, (height, width, channels), (1, 1, channels), (1, 1), 1, (0, 0), False)
    outputs = numbers[0] if len(numbers) == 4 else channels
    kernel, stride, pad = numbers[-3:]
    if not _are_sizes((outputs, kernel, stride)) or not _is_int(pad) or not 0 <= pad < kernel:
        raise ModelError("%r: channels, kernel and stride are 1 or more, the padding is less than the kernel" % (item,))
    kernel_height, pad_y = (kernel, pad) if dimensions == 2 else (1, 0)
    rows = (height + 2 * pad_y - kernel_height) // stride + 1
    columns = (width + 2 * pad - kernel) // stride + 1
    if rows < 1 or columns < 1:
        raise ModelError("%r: the kernel is larger than its inputs of the shape %s" % (item, shape))
    kind = plan.CONVOLUTION if len(numbers) == 4 else plan.DEPTHWISE
    return Layer(
        kind, (height, width, channels), (rows, columns, outputs), (kernel_height, kernel), stride, (pad_y, pad), relu
    )


def _check_sums(item, layer):
    fewer = "use fewer channels or a smaller kernel"
    if layer.kind == plan.AVERAGE:
        fewer = "make its input smaller with a convolution's stride"
    for n, what, advice in (
        (layer.sums[0], "inputs of an output", fewer),
        (layer.sums[1], "outputs that an input takes part in", "use fewer outputs or a smaller kernel"),
        (layer.sums[2], "positions", "use a larger stride or a smaller input"),
    ):
        if n > MAX_SUM:
            raise ModelError(
                "%r: sums over its %d %s could leave 32 bits, at most %d are safe; %s"
                % (item, n, what, MAX_SUM, advice)
            )


def _cells(shape):
    cells = 1
    for n in shape:
        cells *= n
    return cells


def _are_sizes(values):
    for value in values:
        if not _is_int(value) or not 1 <= value <= MAX_INPUTS:
            return False
    return True


def _is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)
