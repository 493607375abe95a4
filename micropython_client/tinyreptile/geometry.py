"""What a model's layers are, by name: for who studies models. A device needs its plan only."""

from . import plan
from .layers import scratch_cells
from .shifts import sums

_NAMES = {plan.DENSE: "dense", plan.CONVOLUTION: "conv", plan.DEPTHWISE: "depthwise"}


class Layer:
    """One layer, as the plan ``cells`` describe it from cell ``at`` on.

    Its attributes are those cells by name; ``scratch``, the 32-bit cells that its sums and lists take; and ``sums``,
    the products of an output's sum, of an input's delta, of a weight's gradient.
    """

    def __init__(self, cells, at):
        self.kind = cells[at + plan.KIND]
        self.height, self.width, self.channels = cells[at + plan.HEIGHT : at + plan.CHANNELS + 1]
        self.out_height, self.out_width, self.out_channels = cells[at + plan.OUT_HEIGHT : at + plan.OUT_CHANNELS + 1]
        self.kernel_height, self.kernel_width = cells[at + plan.KERNEL_HEIGHT : at + plan.KERNEL_WIDTH + 1]
        self.stride = cells[at + plan.STRIDE]
        self.pad_y, self.pad_x = cells[at + plan.PAD_Y : at + plan.PAD_X + 1]
        self.weights = cells[at + plan.WEIGHTS]
        self.biases = cells[at + plan.BIASES]
        self.x = cells[at + plan.X]
        self.relu = bool(cells[at + plan.RELU])
        self.scratch = scratch_cells(cells[at : at + plan.FIELDS])
        self.sums = sums(cells, at)

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


def layers(model):
    """The list of `Layer` of a `model.Model`."""
    cells = model.plan()
    return [Layer(cells, at) for at in range(plan.HEADER, len(cells), plan.FIELDS)]


def tensors(model):
    """(name, offset, shape) of each tensor of a `model.Model`'s parameters, in the order of their memory.

    Weights are (inputs, outputs), of convolutions (kernel height, kernel width, inputs, outputs), of depthwise ones
    (kernel height, kernel width, channels); a layer's biases follow its weights.
    """
    result = []
    for index, layer in enumerate(layers(model)):
        if layer.kind == plan.AVERAGE:
            continue
        name = "%s%d" % (_NAMES[layer.kind], index)
        shape = (layer.channels,) if layer.kind == plan.DEPTHWISE else (layer.channels, layer.out_channels)
        if layer.kind != plan.DENSE:
            shape = (layer.kernel_height, layer.kernel_width) + shape
        result.append((name + ".weight", layer.weights, shape))
        result.append((name + ".bias", layer.biases, (layer.out_channels,)))
    return result


def multiplications(model):
    """Multiply-accumulates of a training step, at most: forward, backward but for the inputs, and update."""
    each = [layer.multiplications() for layer in layers(model)]
    return 3 * sum(each) - each[0]
