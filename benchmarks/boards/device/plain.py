"""Online learning of a dense network in floats, as one would write it in MicroPython without this library."""

import math
import random


class Plain:
    """Layers of ``sizes``, ReLU between them; with ``classes`` a softmax head, else a linear one."""

    def __init__(self, sizes, classes):
        self.classes = classes
        self.weights = []
        self.biases = []
        for inputs, outputs in zip(sizes, sizes[1:]):
            scale = math.sqrt(2 / inputs)
            self.weights.append([[random.uniform(-scale, scale) for _ in range(inputs)] for _ in range(outputs)])
            self.biases.append([0.0] * outputs)

    def forward(self, x):
        """All layers' activations, the inputs first."""
        activations = [x]
        for layer in range(len(self.weights)):
            outputs = []
            for row, bias in zip(self.weights[layer], self.biases[layer]):
                total = bias
                for i in range(len(row)):
                    total += row[i] * x[i]
                if layer < len(self.weights) - 1 and total < 0:
                    total = 0.0
                outputs.append(total)
            x = outputs
            activations.append(x)
        if self.classes:
            top = max(x)
            powers = [math.exp(value - top) for value in x]
            total = sum(powers)
            activations[-1] = [power / total for power in powers]
        return activations

    def step(self, x, y, beta):
        """One step of SGD on the sample (x, y)."""
        activations = self.forward(x)
        if self.classes:
            deltas = [p - (1.0 if i == y else 0.0) for i, p in enumerate(activations[-1])]
        else:
            deltas = [2 * (output - target) / len(y) for output, target in zip(activations[-1], y)]
        for layer in range(len(self.weights) - 1, -1, -1):
            x = activations[layer]
            before = [0.0] * len(x)
            for o in range(len(deltas)):
                row = self.weights[layer][o]
                delta = deltas[o]
                for i in range(len(row)):
                    before[i] += row[i] * delta
                    row[i] -= beta * delta * x[i]
                self.biases[layer][o] -= beta * delta
            deltas = [delta if value > 0 else 0.0 for delta, value in zip(before, x)]
