"""What a model's layers are, by name: for who studies models. A device needs its plan only."""

from . import plan
from .layers import scratch_cells
from .shifts import sums


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


def multiplications(model):
    """Multiply-accumulates of a training step, at most: forward, backward but for the inputs, and update."""
    each = [layer.multiplications() for layer in layers(model)]
    return 3 * sum(each) - each[0]
