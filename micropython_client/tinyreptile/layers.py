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

from . import plan
from .model import LOSSES, MAX_INPUTS, MAX_LAYERS, MAX_SUM, Layer, ModelError


def check(spec):
    """(input shape, list of `Layer`) of a model list; raises `ModelError`."""
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
