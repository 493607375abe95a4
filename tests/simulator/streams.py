"""What tests of few-shot streams share."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.offline import take
from tinyreptile.streams import Stream


def samples(stream: Stream, part: str, count: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """The first ``count`` samples of ``part``: their inputs (count, inputs), Q5.10, and their labels (count,)."""
    stream.begin(part)
    return more(stream, count)


def more(stream: Stream, count: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """The next ``count`` samples."""
    x, y = memoryview(array("h", bytes(2 * stream.inputs))), array("h", [-1])
    inputs, labels = np.empty((count, stream.inputs), np.int16), np.empty(count, np.int16)
    for i in range(count):
        take(stream, x, y)
        inputs[i], labels[i] = x, y[0]
    return inputs, labels


def distances(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Squared distances of every row of ``one`` from every row of ``other``."""
    a, b = one.astype(float), other.astype(float)
    result: npt.NDArray[np.float64] = (a**2).sum(axis=1)[:, None] - 2 * a @ b.T + (b**2).sum(axis=1)
    return result
