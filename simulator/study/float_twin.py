"""The same networks and the same one-sample SGD in float32: what integers are held against.

PyTorch computes forward pass and gradients; nothing is taken from the portable library but the model's geometry.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from coordinator.rules import Weights
from simulator.offline import Device
from tinyreptile import plan
from tinyreptile.geometry import layers, tensors
from tinyreptile.learner import ONE
from tinyreptile.model import Model

from . import StudyError

if TYPE_CHECKING:
    from torch import Tensor

    Cells = memoryview | array[int]


class TwinLearner:
    """A network of ``model`` in float32 behind the integer learner's interface: samples in Q5.10, no other rounding.

    Attributes:
        weights: list of float32 tensors, in the order and shapes of `geometry.tensors`.

    Raises `StudyError` where PyTorch is not installed.
    """

    def __init__(self, model: Model) -> None:
        try:
            import torch
        except ImportError:
            raise StudyError(
                "the float32 twin needs PyTorch: pip install torch==2.13.0, or don't name it with --only"
            ) from None
        self._torch = torch
        torch.set_num_threads(1)  # one sample is no work for two, and jobs share the cores
        self.model = model
        self.x = memoryview(array("h", bytes(2 * model.inputs)))
        self.y = array("h", bytes(2 * model.target_cells()))
        self._beta = 0.0
        self._labels = model.loss == "cross_entropy"
        shapes = [shape for _, _, shape in tensors(model)]
        self._sizes = [int(np.prod(shape)) for shape in shapes]
        self.weights: list[Tensor] = [torch.zeros(shape, requires_grad=True) for shape in shapes]

    def set_rate(self, beta: float) -> None:
        """Use learning rate ``beta``."""
        self._beta = beta

    def set_weights(self, weights: Weights) -> None:
        """Take ``weights``, (parameters,), rounded to float32."""
        torch = self._torch
        parts = torch.from_numpy(weights.astype(np.float32)).split(self._sizes)
        with torch.no_grad():
            torch._foreach_copy_(self.weights, [p.view(w.shape) for p, w in zip(parts, self.weights, strict=True)])

    def get_weights(self) -> Weights:
        """All weights, float64 (parameters,)."""
        flat: npt.NDArray[np.float32] = self._torch.cat([w.detach().reshape(-1) for w in self.weights]).numpy()
        return flat.astype(np.float64)

    def step(self, x: Cells, y: Cells) -> float:
        """One SGD step on one sample; its loss before the step."""
        torch = self._torch
        loss = self._loss(self._forward(x), y)
        gradients = torch.autograd.grad(loss, self.weights)
        with torch.no_grad():
            torch._foreach_add_(self.weights, gradients, alpha=-self._beta)
        return float(loss.detach())

    def saturated(self) -> int:
        """Return 0: no number of a step leaves the range of float32."""
        return 0

    def evaluate(self, x: Cells, y: Cells) -> tuple[float, int]:
        """(loss, predicted label) of one sample without learning from it; a regression's label is -1."""
        with self._torch.no_grad():
            outputs = self._forward(x)
            return float(self._loss(outputs, y)), int(outputs.argmax()) if self._labels else -1

    def _loss(self, outputs: Tensor, y: Cells) -> Tensor:
        if self._labels:
            return outputs.logsumexp(0) - outputs[y[0]]
        targets = self._torch.frombuffer(y, dtype=self._torch.int16) / ONE
        return (outputs - targets).square().mean()

    def _forward(self, x: Cells) -> Tensor:
        """The outputs, before the softmax, of inputs in the order height, width, channels."""
        torch = self._torch
        functional = torch.nn.functional
        values = torch.frombuffer(x, dtype=torch.int16) / ONE
        parameters = iter(self.weights)
        for layer in layers(self.model):
            if layer.kind == plan.AVERAGE:
                values = values.view(-1, layer.channels).mean(0)
                continue
            weight, bias = next(parameters), next(parameters)
            if layer.kind == plan.DENSE:
                values = torch.addmv(bias, weight.T, values.reshape(-1))
            else:
                image = values.view(1, layer.height, layer.width, layer.channels).permute(0, 3, 1, 2)
                depthwise = layer.kind == plan.DEPTHWISE
                # Ours end in channels: (rows, columns, inputs, outputs); PyTorch's begin with outputs, inputs.
                kernel = weight.permute(2, 0, 1).unsqueeze(1) if depthwise else weight.permute(3, 2, 0, 1)
                pad = (layer.pad_y, layer.pad_x)
                groups = layer.channels if depthwise else 1
                out = functional.conv2d(image, kernel, bias, (layer.stride, layer.stride), pad, groups=groups)
                values = out[0].permute(1, 2, 0).reshape(-1)
            if layer.relu:
                values = values.relu()
        return values


class TwinDevice(Device):
    """The twin as a device; what it receives and sends is float32, and is not rounded on the way."""

    def __init__(self, model: Model, *, beta: float) -> None:
        self.learner: TwinLearner = TwinLearner(model)
        self.learner.set_rate(beta)
        self.received = self.sent = 4 * model.parameters
        self._model = model
        self._start: Weights = np.zeros(model.parameters)

    def load(self, weights: Weights, work: int) -> None:
        """Begin from ``weights``."""
        self.learner.set_weights(weights)
        self._start = self.learner.get_weights()

    def delta(self) -> Weights:
        """The plain difference."""
        return self.learner.get_weights() - self._start

    def ram(self) -> int:
        """Bytes that the same buffers take with 32-bit cells: two of weights, the activations, the target."""
        return int(8 * self._model.parameters + 4 * (self._model.activations + self._model.target_cells()))
