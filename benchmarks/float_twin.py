"""An independent float implementation of the same networks and one-sample SGD, to hold the integer one against.

Matrix form, numpy, written from the textbook and sharing nothing with the portable library but the model list.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]


class FloatTwin:
    """A dense network in floating point; ``parameters`` as one flat vector in the order of `tinyreptile.model`."""

    def __init__(self, spec: list[list[object]], dtype: type[np.floating] = np.float32) -> None:
        widths = [int(str(spec[0][1]))] + [int(str(item[1])) for item in spec[1:-1]]
        self.relu = [len(item) == 3 for item in spec[1:-1]]
        self.cross_entropy = spec[-1][0] == "cross_entropy"
        self.dtype = dtype
        self.shapes = list(zip(widths[1:], widths[:-1], strict=True))
        self.weights: list[Array] = [np.zeros(shape, dtype) for shape in self.shapes]
        self.biases: list[Array] = [np.zeros(shape[0], dtype) for shape in self.shapes]

    def set(self, parameters: Array) -> None:
        """Take the flat vector ``parameters``."""
        at = 0
        for layer, (rows, columns) in enumerate(self.shapes):
            self.weights[layer] = parameters[at : at + rows * columns].reshape(rows, columns).astype(self.dtype)
            at += rows * columns
            self.biases[layer] = parameters[at : at + rows].astype(self.dtype)
            at += rows

    def get(self) -> Array:
        """The flat vector of all parameters."""
        return np.concatenate([part.ravel() for pair in zip(self.weights, self.biases, strict=True) for part in pair])

    def forward(self, x: Array) -> list[Array]:
        """Activations of every layer for inputs ``x`` (samples x inputs), the head's last."""
        activations = [x.astype(self.dtype)]
        for weight, bias, relu in zip(self.weights, self.biases, self.relu, strict=True):
            z = activations[-1] @ weight.T + bias
            activations.append(np.maximum(z, 0) if relu else z)
        if self.cross_entropy:
            shifted = np.exp(activations[-1] - activations[-1].max(axis=1, keepdims=True))
            activations[-1] = shifted / shifted.sum(axis=1, keepdims=True)
        return activations

    def loss(self, x: Array, y: Array) -> float:
        """Mean loss over the samples: squared error, or cross-entropy of labels ``y``."""
        out = self.forward(x)[-1]
        if self.cross_entropy:
            return float(-np.log(out[np.arange(len(y)), y.astype(int)]).mean())
        return float(((out - y) ** 2).mean())

    def gradient(self, x: Array, y: Array) -> list[tuple[Array, Array]]:
        """Gradient of `loss` by every layer's weights and biases."""
        activations = self.forward(x)
        if self.cross_entropy:
            delta = activations[-1].copy()
            delta[np.arange(len(y)), y.astype(int)] -= 1
            delta /= len(y)
        else:
            delta = 2 * (activations[-1] - y.astype(self.dtype)) / y.size
        gradients: list[tuple[Array, Array]] = []
        for layer in reversed(range(len(self.weights))):
            gradients.append((delta.T @ activations[layer], delta.sum(axis=0)))
            if layer:
                delta = delta @ self.weights[layer]
                if self.relu[layer - 1]:
                    delta = delta * (activations[layer] > 0)
        return gradients[::-1]

    def step(self, x: Array, y: Array, beta: float) -> None:
        """One SGD step on the samples."""
        for layer, (weight, bias) in enumerate(self.gradient(x, y)):
            self.weights[layer] = self.weights[layer] - self.dtype(beta) * weight
            self.biases[layer] = self.biases[layer] - self.dtype(beta) * bias
