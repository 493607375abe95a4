"""Networks to try, with parameters and a sample drawn for them, and a step's mean over its rounding."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tinyreptile import plan as fields
from tinyreptile.geometry import tensors
from tinyreptile.learner import Learner
from tinyreptile.model import FRACTION, LEAST_FRACTION, Model

from .float_twin import FloatTwin

Q10, Q18 = 1 << 10, 1 << 18
FORMATS = ("int16", "int8")
DRAWS = 256  # of a mean over the rounding
LIMITS = {"int16": 32767, "int8": 127}

DENSE: dict[str, list[list[Any]]] = {
    "linear": [["input", 4], ["dense", 1], ["squared_error"]],
    "linear, three outputs": [["input", 4], ["dense", 3], ["squared_error"]],
    "one hidden layer": [["input", 3], ["dense", 9, "relu"], ["dense", 1], ["squared_error"]],
    "two hidden layers": [["input", 2], ["dense", 8, "relu"], ["dense", 8, "relu"], ["dense", 1], ["squared_error"]],
    "two hidden layers, three outputs": [
        ["input", 2],
        ["dense", 8, "relu"],
        ["dense", 6, "relu"],
        ["dense", 3],
        ["squared_error"],
    ],
    "linear hidden layer": [["input", 3], ["dense", 5], ["dense", 4, "relu"], ["dense", 2], ["squared_error"]],
    "wide": [["input", 70], ["dense", 40, "relu"], ["dense", 1], ["squared_error"]],
    "two classes": [["input", 4], ["dense", 2], ["cross_entropy"]],
    "five classes, one hidden layer": [["input", 6], ["dense", 10, "relu"], ["dense", 5], ["cross_entropy"]],
    "five classes, two hidden layers": [
        ["input", 3],
        ["dense", 8, "relu"],
        ["dense", 8, "relu"],
        ["dense", 5],
        ["cross_entropy"],
    ],
}

IMAGES: dict[str, list[list[Any]]] = {
    "convolution": [["input", 4, 5, 2], ["conv2d", 3, 3, 1, 0, "relu"], ["flatten"], ["dense", 2], ["squared_error"]],
    "padded": [["input", 4, 3, 2], ["conv2d", 3, 3, 1, 1, "relu"], ["flatten"], ["dense", 2], ["squared_error"]],
    "padded more than needed": [["input", 3, 4, 1], ["conv2d", 2, 3, 1, 2], ["average"], ["squared_error"]],
    "stride 2": [["input", 6, 5, 1], ["conv2d", 3, 3, 2, 1, "relu"], ["flatten"], ["dense", 3], ["cross_entropy"]],
    "stride 2, inputs left over": [["input", 6, 4, 2], ["conv2d", 2, 3, 2, 0], ["flatten"], ["squared_error"]],
    "stride 3": [["input", 7, 5, 2], ["conv2d", 3, 4, 3, 2, "relu"], ["flatten"], ["dense", 2], ["squared_error"]],
    "stride beyond the kernel": [["input", 7, 7, 1], ["conv2d", 4, 2, 3, 1], ["average"], ["squared_error"]],
    "kernel 1": [["input", 3, 3, 4], ["conv2d", 5, 1, 1, 0, "relu"], ["flatten"], ["dense", 2], ["squared_error"]],
    "convolution behind ReLU": [
        ["input", 5, 5, 1],
        ["conv2d", 4, 3, 1, 1, "relu"],
        ["conv2d", 4, 3, 2, 1, "relu"],
        ["conv2d", 3, 3, 1, 0],
        ["flatten"],
        ["squared_error"],
    ],
    "linear convolutions": [
        ["input", 5, 6, 1],
        ["conv2d", 2, 3, 2, 1],
        ["conv2d", 3, 2, 1, 1],
        ["flatten"],
        ["dense", 2],
        ["squared_error"],
    ],
    "strides 2 and 3 behind one another": [
        ["input", 9, 7, 1],
        ["conv2d", 3, 3, 2, 1, "relu"],
        ["conv2d", 4, 4, 3, 2, "relu"],
        ["flatten"],
        ["dense", 3],
        ["cross_entropy"],
    ],
    "averaged": [
        ["input", 5, 4, 2],
        ["conv2d", 6, 3, 1, 1, "relu"],
        ["average"],
        ["dense", 3],
        ["cross_entropy"],
    ],
    "average of the inputs": [["input", 3, 5, 4], ["average"], ["dense", 3, "relu"], ["dense", 2], ["squared_error"]],
    "series": [["input", 9, 2], ["conv1d", 4, 3, 1, 0, "relu"], ["flatten"], ["dense", 2], ["squared_error"]],
    "series, strides": [
        ["input", 17, 2],
        ["conv1d", 4, 5, 2, 2, "relu"],
        ["conv1d", 5, 3, 3, 1, "relu"],
        ["average"],
        ["dense", 3],
        ["cross_entropy"],
    ],
    "depthwise": [["input", 4, 5, 3], ["depthwise2d", 3, 1, 1], ["flatten"], ["dense", 2], ["squared_error"]],
    "depthwise, stride 2": [["input", 6, 5, 3], ["depthwise2d", 3, 2, 1], ["average"], ["squared_error"]],
    "depthwise, stride 3": [["input", 7, 8, 2], ["depthwise2d", 2, 3, 1], ["flatten"], ["squared_error"]],
    "depthwise series": [
        ["input", 11, 3],
        ["depthwise1d", 3, 2, 2, "relu"],
        ["depthwise1d", 2, 1, 0],
        ["average"],
        ["dense", 2],
        ["squared_error"],
    ],
    "depthwise separable": [
        ["input", 6, 6, 1],
        ["conv2d", 4, 3, 2, 1, "relu"],
        ["depthwise2d", 3, 1, 1, "relu"],
        ["conv2d", 6, 1, 1, 0, "relu"],
        ["average"],
        ["dense", 4],
        ["cross_entropy"],
    ],
    "depthwise separable, linear, with a stride": [
        ["input", 8, 7, 2],
        ["depthwise2d", 3, 2, 1],
        ["conv2d", 5, 1, 1, 0],
        ["depthwise2d", 3, 3, 2],
        ["conv2d", 4, 1, 1, 0, "relu"],
        ["flatten"],
        ["dense", 3],
        ["squared_error"],
    ],
}

NETWORKS = DENSE | IMAGES


@dataclass
class Drawn:
    """A model with ``cells``, its parameters as integers, tensor t of ``fractions[t]`` bits, and a sample (int16)."""

    model: Model
    cells: np.ndarray
    fractions: list[int]
    x: np.ndarray
    y: np.ndarray
    spec: list[list[Any]]

    @property
    def units(self) -> np.ndarray:
        """Of each parameter, what its lowest bit is worth."""
        sizes = [int(np.prod(shape)) for _, _, shape in tensors(self.model)]
        return np.repeat([2.0**-fraction for fraction in self.fractions], sizes)

    @property
    def parameters(self) -> np.ndarray:
        return self.cells * self.units

    def wire(self) -> bytes:
        """The initialization as a device fetches it, in the format of the weights."""
        if self.model.weights == "int16":
            return self.cells.astype("<i2").tobytes()
        return bytes(self.fractions) + self.cells.astype(np.int8).tobytes()

    def learner(self) -> Learner:
        learner = Learner(self.model, encoding=self.model.weights)
        learner.wire[:] = self.wire()
        learner.receive()
        learner.load()
        return learner

    def twin(self) -> tuple[FloatTwin, np.ndarray, np.ndarray]:
        """The float64 twin with the same parameters, and the sample as it takes it."""
        twin = FloatTwin(self.spec, np.float64)
        twin.set(self.parameters)
        return twin, self.x[None] / Q10, self.y if self.model.loss == "cross_entropy" else self.y[None] / Q10


def cells_of(learner: Learner) -> np.ndarray:
    """The weights of a learner as integers."""
    return np.frombuffer(learner.weights, {"int16": "<i2", "int8": np.int8}[learner.model.weights]).astype(np.int64)


def draw(spec: list[list[Any]], seed: int, weights: str = "int16") -> Drawn:
    """Parameters as a network's are at first, and a sample; with 8 bits every tensor has a scale of its own."""
    model = Model(spec, weights)
    rng = np.random.default_rng(seed)
    parts, fractions = [], []
    fan_in = 1
    for name, _, shape in tensors(model):
        if name.endswith(".weight"):
            fan_in = int(np.prod(shape[:-1]))
            values = rng.normal(0, math.sqrt(2 / fan_in), int(np.prod(shape)))
        else:
            values = rng.normal(0, 0.3, shape[0])
        fraction = FRACTION
        if weights == "int8":
            fits = math.floor(math.log2(120 / np.abs(values).max()))
            fraction = int(np.clip(fits - rng.integers(0, 2), LEAST_FRACTION, FRACTION))
        limit = LIMITS[weights]
        parts.append(np.clip(np.rint(values * 2.0**fraction), -limit, limit))
        fractions.append(fraction)
    x = np.rint(rng.uniform(-1.5, 1.5, model.inputs) * Q10)
    if model.loss == "cross_entropy":
        y = rng.integers(0, model.outputs, 1)
    else:
        y = np.rint(rng.uniform(-2, 2, model.outputs) * Q10)
    return Drawn(model, np.concatenate(parts).astype(np.int64), fractions, x.astype(np.int16), y.astype(np.int16), spec)


def begin_rounding(learner: Learner, draw: int, draws: int = DRAWS) -> None:
    """Let the next step be number ``draw`` of ``draws`` whose random numbers are spread evenly."""
    random, dither = draw * 65536 // draws, draw * 0x9E37 & 0xFFFF
    # The generator's step, backwards: its last number becomes the dither, the other one makes the random number.
    other = random ^ dither ^ (dither >> 1)
    for shift in (3, 6, 12):
        other ^= other >> shift
    for shift in (5, 10):
        other ^= other << shift & 0xFFFF
    learner._plan[fields.LAST], learner._plan[fields.BEFORE] = dither, other


def mean_step(drawn: Drawn, beta: float, draws: int = DRAWS) -> np.ndarray:
    """The change of each parameter by one step, averaged over random numbers that are spread evenly.

    What rounds an update is a bijection of one of them, so its mean is met to 1 / draws.
    """
    learner = drawn.learner()
    learner.set_rate(beta)
    sample, target = array("h", drawn.x.tolist()), array("h", drawn.y.tolist())
    total = np.zeros(drawn.model.parameters)
    for number in range(draws):
        learner.load()
        begin_rounding(learner, number, draws)
        learner.step(sample, target)
        total += cells_of(learner) - drawn.cells
    return total / draws * drawn.units


@st.composite
def random_specs(draw: st.DrawFn) -> list[list[Any]]:
    """Model lists of every kind of layer, small enough for plain Python."""
    size = st.integers(1, 7)
    shape = tuple(draw(size) for _ in range(draw(st.integers(1, 3))))
    spec: list[list[Any]] = [["input", *shape]]
    relu = st.sampled_from([["relu"], []])
    for _ in range(draw(st.integers(0, 3))):
        if len(shape) == 1:
            spec.append(["dense", draw(size), *draw(relu)])
            continue
        if draw(st.integers(0, 5)) == 0:
            spec.append([draw(st.sampled_from(["average", "flatten"]))])
            shape = shape[:1]
            continue
        kernel = draw(st.integers(1, 4))
        stride, pad = draw(st.integers(1, 3)), draw(st.integers(0, kernel - 1))
        if min(shape[:-1]) + 2 * pad < kernel:
            continue
        shape = (*((n + 2 * pad - kernel) // stride + 1 for n in shape[:-1]), shape[-1])
        kind = f"{len(shape) - 1}d"
        if draw(st.booleans()):
            spec.append(["conv" + kind, draw(st.integers(1, 5)), kernel, stride, pad, *draw(relu)])
        else:
            spec.append(["depthwise" + kind, kernel, stride, pad, *draw(relu)])
    if len(shape) > 1:
        spec.append([draw(st.sampled_from(["average", "flatten"]))])
    spec.append(["dense", draw(size)])
    spec.append([draw(st.sampled_from(["squared_error", "cross_entropy"]))])
    return spec


@st.composite
def random_models(draw: st.DrawFn) -> Model:
    """A model of either format that `random_specs` gave."""
    return Model(draw(random_specs()), draw(st.sampled_from(FORMATS)))


def extreme_cells(limit: int) -> st.SearchStrategy[int]:
    """Cells that are zero or at their limits more often than not."""
    return st.sampled_from([0, limit, -limit]) | st.integers(-limit, limit)
