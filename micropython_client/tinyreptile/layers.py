"""Model lists: what may stand in one, checked item by item. A board needs this once and forgets it.

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

from .model import FRACTION, ModelError
from .portable import const
from .shifts import fit, sums

# The cells of the plan, see `plan`.
_OUTPUT = const(3)
_OUTPUTS = const(4)
_LOSS = const(5)
_SIGN = const(6)
_HEADER = const(13)
_KIND = const(0)
_HEIGHT = const(1)
_WIDTH = const(2)
_CHANNELS = const(3)
_OUT_HEIGHT = const(4)
_OUT_WIDTH = const(5)
_OUT_CHANNELS = const(6)
_KERNEL_HEIGHT = const(7)
_KERNEL_WIDTH = const(8)
_STRIDE = const(9)
_PAD_Y = const(10)
_PAD_X = const(11)
_WEIGHTS = const(12)
_BIASES = const(13)
_X = const(14)
_Y = const(15)
_RELU = const(16)
_BACK = const(20)
_FIELDS = const(26)
_DENSE = const(0)
_CONVOLUTION = const(1)
_DEPTHWISE = const(2)
_AVERAGE = const(3)
_BEHIND_RELU = const(1)
_LINEAR = const(2)
_SQUARED_ERROR = const(0)
_CROSS_ENTROPY = const(1)

MAX_SUM = 4095  # products of one sum: from 4096 on the pre-shift of a product would be all its fraction
MAX_LAYERS = 16
MAX_PARAMETERS = 1 << 20
MAX_INPUTS = 65535

LOSSES = {"squared_error": _SQUARED_ERROR, "cross_entropy": _CROSS_ENTROPY}


def lay_out(spec, bits):
    """What a model list says, with weights of ``bits`` bits, as attributes of a `model.Model`; raises `ModelError`.

    (shape, inputs, loss, offsets, parameters, scratch, is_dense, plan)
    """
    shape, layers = check(spec)
    cells = array("i", [0] * _HEADER)
    offsets = array("i")
    offset = x = scratch = 0
    relu = None  # of the layer before; None: there is none
    for layer in layers:
        layer[_X] = x
        x += layer[_HEIGHT] * layer[_WIDTH] * layer[_CHANNELS]
        layer[_Y] = x
        if relu is not None:
            layer[_BACK] = _BEHIND_RELU if relu else _LINEAR
        relu = layer[_RELU]
        if layer[_KIND] != _AVERAGE:
            layer[_WEIGHTS] = offset
            offsets.append(offset)
            offset += _weights(layer)
            layer[_BIASES] = offset
            offsets.append(offset)
            offset += layer[_OUT_CHANNELS]
        scratch = max(scratch, scratch_cells(layer))
        cells.extend(layer)
    if not offset:
        raise ModelError("the model has no parameters: give it a dense or a convolutional layer")
    if offset > MAX_PARAMETERS:
        raise ModelError("the model has %d parameters; at most %d are allowed" % (offset, MAX_PARAMETERS))
    loss = spec[-1][0]
    cells[_OUTPUT] = x
    cells[_OUTPUTS] = layer[_OUT_HEIGHT] * layer[_OUT_WIDTH] * layer[_OUT_CHANNELS]
    cells[_LOSS] = LOSSES[loss]
    cells[_SIGN] = 1 << (bits - 1)
    fit(cells, [FRACTION] * len(offsets), bits)
    is_dense = all([layer[_KIND] == _DENSE for layer in layers])
    return shape, _product(shape), loss, offsets, offset, scratch, is_dense, cells


def check(spec):
    """(input shape, the layers' cells of the plan, as far as each has them alone) of a list; raises `ModelError`."""
    if not isinstance(spec, (list, tuple)) or len(spec) < 3:
        raise ModelError('a model is a list: ["input", n], one or more layers, a loss')
    for item in spec:
        if not isinstance(item, (list, tuple)) or not item or not isinstance(item[0], str):
            raise ModelError("each item of a model is a list that begins with a name, not %.60r" % (item,))
    if spec[0][0] != "input" or not 2 <= len(spec[0]) <= 4 or not _are_sizes(spec[0][1:]):
        raise ModelError(
            'a model begins with ["input", n], ["input", t, c] or ["input", h, w, c] of numbers from 1 to %d, not %.60r'
            % (MAX_INPUTS, spec[0])
        )
    if len(spec[-1]) != 1 or spec[-1][0] not in LOSSES:
        raise ModelError("a model ends with one of %s, not %.60r" % (sorted([[k] for k in LOSSES]), spec[-1]))
    if len(spec) - 2 > MAX_LAYERS:
        raise ModelError("a model has at most %d layers, not %d" % (MAX_LAYERS, len(spec) - 2))
    shape = tuple(spec[0][1:])
    layers = []
    for item in spec[1:-1]:
        if item[0] == "flatten" and len(item) == 1:
            shape = (_product(shape),)
            continue
        layer = _layer(item, shape)
        _check_sums(item, layer)
        shape = tuple(layer[_OUT_HEIGHT : _OUT_CHANNELS + 1])[-len(shape) :]
        if layer[_KIND] == _AVERAGE:
            shape = shape[-1:]
        layers.append(layer)
    if not layers or layers[-1][_KIND] != _DENSE and len(shape) != 1:
        raise ModelError("the outputs have the shape %s: end with a dense layer, or average or flatten" % (shape,))
    if spec[-1][0] == "cross_entropy" and layers[-1][_KIND] != _DENSE:
        # Of it alone the kernels have whole sums, which logits need: see `kernels.put_logits`.
        raise ModelError('cross_entropy follows a dense layer: put one, or ["average"] and one, before it')
    if layers[-1][_RELU]:
        raise ModelError("the last layer has no ReLU: its outputs go to the head")
    if _product(spec[0][1:]) > MAX_INPUTS or _product(shape) > MAX_SUM:
        raise ModelError("a model has at most %d inputs and %d outputs" % (MAX_INPUTS, MAX_SUM))
    return tuple(spec[0][1:]), layers


def _layer(item, shape):
    """The cells of the layer that ``item`` makes of inputs of ``shape``."""
    name = item[0]
    relu = item[-1] == "relu"
    numbers = item[1:-1] if relu else item[1:]
    known = {"dense": 1, "conv1d": 4, "conv2d": 4, "depthwise1d": 3, "depthwise2d": 3, "average": 0}
    if name not in known or len(numbers) != known[name] or (relu and name == "average"):
        raise ModelError("no layer is written %.60r; docs/protocol.md lists them" % (item,))
    if name == "dense":
        if len(shape) != 1:
            raise ModelError(
                '%r follows inputs of the shape %s; put ["flatten"] or ["average"] before it' % (item, shape)
            )
        if not _are_sizes(numbers):
            raise ModelError("%r: the outputs of a dense layer are 1 to %d" % (item, MAX_SUM))
        return _layer_cells(_DENSE, (1, 1) + shape, (1, 1, numbers[0]), (1, 1), 1, (0, 0), relu)
    dimensions = len(shape) - 1
    if dimensions < 1 or name[-2:] in ("1d", "2d") and name[-2:] != "%dd" % dimensions:
        raise ModelError("%r can't follow inputs of the shape %s" % (item, shape))
    height, width, channels = (1,) * (2 - dimensions) + shape
    if name == "average":
        return _layer_cells(_AVERAGE, (height, width, channels), (1, 1, channels), (1, 1), 1, (0, 0), False)
    outputs = numbers[0] if len(numbers) == 4 else channels
    kernel, stride, pad = numbers[-3:]
    if not _are_sizes((outputs, kernel, stride)) or not _is_int(pad) or not 0 <= pad < kernel:
        raise ModelError("%r: channels, kernel and stride are 1 or more, the padding is less than the kernel" % (item,))
    kernel_height, pad_y = (kernel, pad) if dimensions == 2 else (1, 0)
    rows = (height + 2 * pad_y - kernel_height) // stride + 1
    columns = (width + 2 * pad - kernel) // stride + 1
    if rows < 1 or columns < 1:
        raise ModelError("%r: the kernel is larger than its inputs of the shape %s" % (item, shape))
    kind = _CONVOLUTION if len(numbers) == 4 else _DEPTHWISE
    return _layer_cells(
        kind, (height, width, channels), (rows, columns, outputs), (kernel_height, kernel), stride, (pad_y, pad), relu
    )


def _layer_cells(kind, shape, out, kernel, stride, pad, relu):
    """Cells of the plan, with the geometry in them."""
    cells = array("i", [0] * _FIELDS)
    cells[_KIND] = kind
    cells[_HEIGHT], cells[_WIDTH], cells[_CHANNELS] = shape
    cells[_OUT_HEIGHT], cells[_OUT_WIDTH], cells[_OUT_CHANNELS] = out
    cells[_KERNEL_HEIGHT], cells[_KERNEL_WIDTH] = kernel
    cells[_STRIDE] = stride
    cells[_PAD_Y], cells[_PAD_X] = pad
    cells[_RELU] = 1 if relu else 0
    return cells


def _weights(layer):
    """How many weights a layer has."""
    kernel = layer[_KERNEL_HEIGHT] * layer[_KERNEL_WIDTH] * layer[_CHANNELS]
    return kernel if layer[_KIND] == _DEPTHWISE else kernel * layer[_OUT_CHANNELS]


def scratch_cells(layer):
    """32-bit cells that the layer's sums and lists take."""
    taps = layer[_KERNEL_HEIGHT] * layer[_KERNEL_WIDTH]
    inputs, outputs = layer[_CHANNELS], layer[_OUT_CHANNELS]
    if layer[_KIND] == _AVERAGE:
        return 0
    if layer[_KIND] == _DEPTHWISE:
        return (taps + 1) * inputs
    positions = layer[_OUT_HEIGHT] * layer[_OUT_WIDTH]
    return max(outputs + taps * inputs + 1, taps * outputs + positions + 1)


def _check_sums(item, layer):
    fewer = "use fewer channels or a smaller kernel"
    if layer[_KIND] == _AVERAGE:
        fewer = "make its input smaller with a convolution's stride"
    products, reach, positions = sums(layer, 0)
    for n, what, advice in (
        (products, "inputs of an output", fewer),
        (reach, "outputs that an input takes part in", "use fewer outputs or a smaller kernel"),
        (positions, "positions", "use a larger stride or a smaller input"),
    ):
        if n > MAX_SUM:
            raise ModelError(
                "%r: sums over its %d %s could leave 32 bits, at most %d are safe; %s"
                % (item, n, what, MAX_SUM, advice)
            )


def _product(shape):
    product = 1
    for n in shape:
        product *= n
    return product


def _are_sizes(values):
    for value in values:
        if not _is_int(value) or not 1 <= value <= MAX_INPUTS:
            return False
    return True


def _is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)
