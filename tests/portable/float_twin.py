"""An independent float implementation of the same networks and one-sample SGD, to hold the integer one against.

Written from the textbook with numpy, for several samples at once; it shares nothing with the portable library but the
model list and the order of the parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]


class Dense:
    """Every output of every input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.out: tuple[int, ...] = (outputs,)
        self.shape: tuple[int, ...] = (inputs, outputs)  # of the weights

    def apply(self, x: Array, w: Array) -> Array:
        """Outputs, without their bias."""
        return x @ w

    def back(self, delta: Array, w: Array) -> Array:
        """Gradient by the inputs from ``delta``, that by the outputs."""
        return delta @ w.T

    def gradient(self, x: Array, delta: Array) -> Array:
        """Gradient by the weights, summed over the samples."""
        return x.T @ delta


class Convolution:
    """Of images (height, width, channels), ``outputs`` channels; without ``outputs`` depthwise."""

    def __init__(
        self, image: tuple[int, ...], kernel: tuple[int, int], stride: int, pad: tuple[int, int], outputs: int | None
    ) -> None:
        channels = image[-1]
        self.stride, self.pad = stride, pad
        rows, columns = ((n + 2 * p - k) // stride + 1 for n, p, k in zip(image, pad, kernel, strict=False))
        self.image = image
        self.depthwise = outputs is None
        self.out: tuple[int, ...] = (rows, columns, outputs or channels)
        self.shape: tuple[int, ...] = (*kernel, channels) if outputs is None else (*kernel, channels, outputs)

    def apply(self, x: Array, w: Array) -> Array:
        """Outputs, without their bias."""
        padded = self._padded(x)
        out = np.zeros((len(x), *self.out), x.dtype)
        for tap, window in self._taps():
            out += padded[window] * w[tap] if self.depthwise else padded[window] @ w[tap]
        return out

    def back(self, delta: Array, w: Array) -> Array:
        """Gradient by the inputs from ``delta``, that by the outputs."""
        padded = self._padded(np.zeros((len(delta), *self.image), delta.dtype))
        for tap, window in self._taps():
            padded[window] += delta * w[tap] if self.depthwise else delta @ w[tap].T
        y, x = self.pad
        inside: Array = padded[:, y : y + self.image[0], x : x + self.image[1]]
        return inside

    def gradient(self, x: Array, delta: Array) -> Array:
        """Gradient by the weights, summed over the samples."""
        padded = self._padded(x)
        gradient = np.zeros(self.shape, delta.dtype)
        indices = "nhwc,nhwc->c" if self.depthwise else "nhwc,nhwo->co"
        for tap, window in self._taps():
            gradient[tap] = np.einsum(indices, padded[window], delta)
        return gradient

    def _padded(self, x: Array) -> Array:
        y_x = [(n, n) for n in self.pad]
        return np.pad(x, [(0, 0), *y_x, (0, 0)])

    def _taps(self) -> Iterator[tuple[tuple[int, int], tuple[slice, ...]]]:
        """Each tap, and the inputs that it meets for all outputs, as an index of the padded images."""
        for y in range(self.shape[0]):
            for x in range(self.shape[1]):
                reach = [
                    slice(at, at + self.stride * (n - 1) + 1, self.stride)
                    for at, n in zip((y, x), self.out, strict=False)
                ]
                yield (y, x), (slice(None), *reach)


class Average:
    """The mean of each channel."""

    shape: tuple[int, ...] = ()

    def __init__(self, image: tuple[int, ...]) -> None:
        self.image = image
        self.out: tuple[int, ...] = image[-1:]

    def apply(self, x: Array, w: Array) -> Array:
        """Outputs; there are no weights."""
        mean: Array = x.mean(axis=(1, 2))
        return mean

    def back(self, delta: Array, w: Array) -> Array:
        """Gradient by the inputs from ``delta``, that by the outputs."""
        height, width, _ = self.image
        return np.broadcast_to(delta[:, None, None] / (height * width), (len(delta), *self.image))


class Flatten:
    """All cells in one row."""

    shape: tuple[int, ...] = ()

    def __init__(self, image: tuple[int, ...]) -> None:
        self.image = image
        self.out: tuple[int, ...] = (int(np.prod(image)),)

    def apply(self, x: Array, w: Array) -> Array:
        """Outputs; there are no weights."""
        return x.reshape(len(x), -1)

    def back(self, delta: Array, w: Array) -> Array:
        """Gradient by the inputs from ``delta``, that by the outputs."""
        return delta.reshape(len(delta), *self.image)


Layer = Dense | Convolution | Average | Flatten


class FloatTwin:
    """A network in floating point; its parameters also as one flat vector in the order of `tinyreptile.model`.

    Inputs are (samples, cells), targets (samples, outputs) or labels (samples,).

    Attributes:
        layers: one a layer of the model list, ``relu`` beside it; those without weights have empty ones.
    """

    def __init__(self, spec: list[list[Any]], dtype: type[np.floating] = np.float32) -> None:
        self.cross_entropy = spec[-1][0] == "cross_entropy"
        self.relu = [item[-1] == "relu" for item in spec[1:-1]]
        self.dtype = dtype
        shape: tuple[int, ...] = tuple(spec[0][1:])
        self.image = (1, *shape) if len(shape) == 2 else shape
        self.layers: list[Layer] = []
        out = self.image
        for item in spec[1:-1]:
            self.layers.append(_layer([value for value in item if value != "relu"], out))
            out = self.layers[-1].out
        self.weights: list[Array] = [np.zeros(layer.shape or 0, dtype) for layer in self.layers]
        self.biases: list[Array] = [np.zeros(layer.out[-1] if layer.shape else 0, dtype) for layer in self.layers]

    def set(self, parameters: Array) -> None:
        """Take the flat vector ``parameters``."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            for part in (weight, bias):
                part[...] = parameters[: part.size].reshape(part.shape)
                parameters = parameters[part.size :]

    def get(self) -> Array:
        """The flat vector of all parameters."""
        return flat(list(zip(self.weights, self.biases, strict=True)))

    def forward(self, x: Array) -> list[Array]:
        """The inputs and the activations of every layer, the head's last."""
        activations = [x.astype(self.dtype).reshape(len(x), *self.image)]
        for layer, weight, bias, relu in zip(self.layers, self.weights, self.biases, self.relu, strict=True):
            z = layer.apply(activations[-1], weight)
            if layer.shape:
                z = z + bias
            activations.append(np.maximum(z, 0) if relu else z)
        out = activations[-1]
        if self.cross_entropy:
            shifted = np.exp(out - out.max(axis=1, keepdims=True))
            activations[-1] = shifted / shifted.sum(axis=1, keepdims=True)
        return activations

    def loss(self, x: Array, y: Array) -> float:
        """Mean loss over the samples: squared error, or cross-entropy of labels ``y``."""
        out = self.forward(x)[-1]
        if self.cross_entropy:
            return float(-np.log(out[np.arange(len(y)), y.astype(int)]).mean())
        return float(((out - y) ** 2).mean())

    def deltas(self, activations: list[Array], y: Array) -> list[Array]:
        """Gradient of `loss` by every layer's outputs before their ReLU, from what `forward` gave."""
        out = activations[-1]
        if self.cross_entropy:
            delta = out.copy()
            delta[np.arange(len(y)), y.astype(int)] -= 1
            delta /= len(y)
        else:
            delta = 2 * (out - y.astype(self.dtype)) / y.size
        deltas = [delta]
        for at in reversed(range(1, len(self.layers))):
            delta = self.layers[at].back(delta, self.weights[at])
            if self.relu[at - 1]:
                delta = delta * (activations[at] > 0)
            deltas.append(delta)
        return deltas[::-1]

    def gradient(self, x: Array, y: Array) -> list[tuple[Array, Array]]:
        """Gradient of `loss` by every layer's weights and biases."""
        activations = self.forward(x)
        deltas = self.deltas(activations, y)
        return [
            (layer.gradient(inputs, delta), delta.reshape(-1, delta.shape[-1]).sum(axis=0))
            if isinstance(layer, Dense | Convolution)
            else (np.zeros(0, self.dtype), np.zeros(0, self.dtype))
            for layer, inputs, delta in zip(self.layers, activations[:-1], deltas, strict=True)
        ]

    def step(self, x: Array, y: Array, beta: float) -> None:
        """One SGD step on the samples."""
        for layer, (weight, bias) in enumerate(self.gradient(x, y)):
            self.weights[layer] = self.weights[layer] - self.dtype(beta) * weight
            self.biases[layer] = self.biases[layer] - self.dtype(beta) * bias


def flat(pairs: list[tuple[Array, Array]]) -> Array:
    """Pairs of weights and biases as one flat vector."""
    return np.concatenate([part.ravel() for pair in pairs for part in pair])


def _layer(item: list[Any], shape: tuple[int, ...]) -> Layer:
    name, *numbers = item
    if name == "dense":
        return Dense(shape[0], numbers[0])
    if name == "average":
        return Average(shape)
    if name == "flatten":
        return Flatten(shape)
    outputs = numbers.pop(0) if name.startswith("conv") else None
    kernel, stride, pad = numbers
    if name.endswith("1d"):
        return Convolution(shape, (1, kernel), stride, (0, pad), outputs)
    return Convolution(shape, (kernel, kernel), stride, (pad, pad), outputs)
