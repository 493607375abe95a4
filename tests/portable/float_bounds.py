"""How far integers may lie from floats: what the number formats allow a step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .float_twin import Average, Convolution, Dense, FloatTwin, flat
from .networks import DRAWS, Q10, Q18, Drawn


def half_unit(products: int, bits: int, fraction: int) -> float:
    """Half a unit of a product that is shifted so far that as many of them stay in int32."""
    shift = max(0, products.bit_length() - (1 if bits == 16 else 8))
    return 2.0 ** (shift - fraction - 1)


def error_bounds(drawn: Drawn, twin: FloatTwin, x: Any, y: Any, beta: float) -> tuple[np.ndarray, float]:
    """How far the formats allow each parameter's step to lie from the float one.

    Interval arithmetic over the two passes: every stored value is rounded to half a unit of its format, every product
    of a sum to half a unit of its shifted format; what is rounded stochastically lies within that on average. The
    second value is the smallest distance of a pre-activation from ReLU's corner less its error: where it is negative,
    the two may disagree on which units are on.
    """
    bits = 16 if drawn.model.weights == "int16" else 8
    scales = iter(drawn.fractions)
    fractions = [(next(scales), next(scales)) if layer.shape else (0, 0) for layer in twin.layers]
    activations = twin.forward(x)
    error = np.zeros_like(activations[0])
    errors = [error]
    clearance = math.inf
    for i, layer in enumerate(twin.layers):
        error = layer.apply(error, np.abs(twin.weights[i]))
        if layer.shape:
            products = int(np.prod(layer.shape[:-1]))
            if isinstance(layer, Dense | Convolution):
                error = error + (products + 2) * half_unit(products, bits, 10 + fractions[i][0]) + 0.5 / Q10
        elif isinstance(layer, Average):
            error = error + 1.5 / Q10 + np.abs(activations[i + 1]) * 2.0**-13
        errors.append(error)
        if twin.relu[i]:
            z = layer.apply(activations[i], twin.weights[i]) + twin.biases[i]
            clearance = min(clearance, float((np.abs(z) - error).min()))
    if drawn.model.loss == "cross_entropy":
        # A probability moves by half of what a logit moves at most; the cubic and the shares add their own.
        head = errors[-1].max() / 2 + 3e-4
        largest = 1.0
    else:
        head = errors[-1].max() * 2 / drawn.model.outputs
        largest = float(np.abs(activations[-1] - y).max()) * 2 / drawn.model.outputs
    delta_error = np.full(activations[-1].shape, beta * (head + largest * 2.0**-14) + 0.5 / Q18)
    deltas = twin.deltas(activations, y)
    bounds = []
    for i in reversed(range(len(twin.layers))):
        layer, delta = twin.layers[i], beta * np.abs(deltas[i])
        if isinstance(layer, Dense | Convolution):
            positions = int(np.prod(layer.out[:-1]))
            weight_error = (
                layer.gradient(np.abs(activations[i]), delta_error)
                + layer.gradient(errors[i], delta)
                + layer.gradient(errors[i], delta_error)
                + positions * half_unit(positions, 16, 28)
                + 2.0 ** -fractions[i][0] / DRAWS
            )
            bias_error = delta_error.reshape(-1, layer.out[-1]).sum(axis=0) + 2.0 ** -fractions[i][1] / DRAWS
            bounds.append((weight_error, bias_error))
            reach = math.prod(layer.out) // layer.out[-1] if isinstance(layer, Convolution) else 1
            reach = min(reach, math.prod(layer.shape[:2])) if isinstance(layer, Convolution) else 1
            products = reach if getattr(layer, "depthwise", False) else reach * layer.out[-1]
            delta_error = layer.back(delta_error, np.abs(twin.weights[i]))
            delta_error = delta_error + (products + 1) * half_unit(products, bits, 18 + fractions[i][0]) + 0.5 / Q18
        else:
            delta_error = layer.back(delta_error, twin.weights[i])
            if isinstance(layer, Average):
                delta_error = delta_error + layer.back(delta, twin.weights[i]) * 2.0**-13 + 1 / Q18
    return flat(bounds[::-1]), clearance


def can_be_told(drawn: Drawn, wanted: np.ndarray, bounds: np.ndarray) -> bool:
    """Whether the largest step of every tensor stands out of what the formats allow."""
    for index in range(len(drawn.model.offsets)):
        cells = slice(*drawn.model.cells(index))
        if np.abs(wanted[cells]).max() < 5 * bounds[cells].max():
            return False
    return True
