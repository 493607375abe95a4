"""The algorithms without a network: the real learner, real packed deltas and the coordinator's meta-update, in a loop.

    device = IntegerDevice(model, steps=32, beta=0.005, bits=4)
    weights = meta_train(device, start, cycle(fleet), 20_000, meta)
    results = evaluate(device, weights, unseen, shots=10, queries=50)

Whatever else learns, a float reference or a baseline of another kind, takes part as a `Device` of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from coordinator.deltas import unpack
from coordinator.initialization import encode
from coordinator.rules import MetaUpdate, Weights
from tinyreptile.learner import Learner
from tinyreptile.model import Model
from tinyreptile.streams import QUERY, SUPPORT, TRAIN, Stream


@dataclass(frozen=True)
class Score:
    """Mean loss over query samples, and with classes the share of them predicted right."""

    loss: float
    accuracy: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """One unseen task: query samples before and after adaptation to the support samples."""

    before: Score
    after: Score


class Device(ABC):
    """Something that learns online from the initialization, one sample at a time, and says what it learned.

    Attributes:
        steps: one-sample SGD steps of a piece of training, and of an adaptation.
    """

    steps: int

    @abstractmethod
    def load(self, weights: Weights, work: int) -> None:
        """Begin work number ``work`` from the initialization ``weights``, float64 (parameters,)."""

    @abstractmethod
    def learn(self, stream: Stream) -> float:
        """One step on the stream's next sample; returns its loss before the step."""

    @abstractmethod
    def delta(self) -> Weights:
        """What was learned since `load`, float64 (parameters,), as the coordinator receives it."""

    @abstractmethod
    def query(self, stream: Stream) -> tuple[float, bool | None]:
        """(loss, whether the label was predicted right, None without labels) of the stream's next sample."""


class IntegerDevice(Device):
    """The client's learner, its initialization as published and its delta as packed for the wire in ``bits``.

    ``steps`` and the learning rate ``beta`` are the device's, as in its work message.
    """

    def __init__(self, model: Model, *, steps: int, beta: float, bits: int) -> None:
        self.steps = steps
        self._bits = bits
        self._learner = Learner(model)
        self._learner.set_rate(beta)

    def load(self, weights: Weights, work: int) -> None:
        """Take ``weights`` as int16; ``work`` seeds the rounding, as on the client."""
        self._learner.initialization[:] = encode(weights)
        self._learner.load()
        self._learner.seed(work)

    def learn(self, stream: Stream) -> float:
        """One integer step."""
        learner = self._learner
        take(stream, learner.x, learner.y)
        return float(learner.step(learner.x, learner.y))

    def delta(self) -> Weights:
        """Quantized, packed, and unpacked by the coordinator's own code."""
        delta = self._learner.delta(self._bits)
        packed = bytearray(delta.size)
        delta.pack(0, packed)
        return unpack(self._learner.model, packed, self._bits, delta.gains)

    def query(self, stream: Stream) -> tuple[float, bool | None]:
        """One forward pass; nothing is learned."""
        learner = self._learner
        take(stream, learner.x, learner.y)
        loss, label = learner.evaluate(learner.x, learner.y)
        return loss, None if label < 0 else label == learner.y[0]


def take(stream: Stream, x: memoryview, y: array[int]) -> None:
    """Write the next sample of ``stream`` into ``x`` and ``y``, without an event loop; the stream must not wait."""
    sample = stream.sample(x, y)
    try:
        sample.send(None)
    except StopIteration:
        return
    sample.close()
    raise RuntimeError(f"{type(stream).__name__} waits for its samples; offline they must be there at once")


def meta_train(
    device: Device,
    weights: Weights,
    streams: Iterable[Stream],
    rounds: int,
    meta: MetaUpdate,
    *,
    on_round: Callable[[int, float, Weights], None] | None = None,
) -> Weights:
    """TinyReptile in its serial form (arXiv 2304.05201, algorithm 1); returns the learned initialization.

    Each round takes the next of ``streams`` (`itertools.cycle` repeats a fleet) and hands ``device`` the weights that
    the round before left. ``meta`` sees the progress 0 to 1 and folds the delta in. ``on_round`` is called after each
    round with its number from 1, its mean training loss, and the weights, which are not to be kept without a copy.
    The ``weights`` given are left as they are.
    """
    weights = weights.copy()
    for number, stream in zip(range(1, rounds + 1), streams, strict=False):
        device.load(weights, number)
        stream.begin(TRAIN)
        loss = sum(device.learn(stream) for _ in range(device.steps)) / device.steps
        meta.apply(weights, device.delta(), progress=(number - 1) / rounds)
        if on_round:
            on_round(number, loss, weights)
    return weights


def evaluate(
    device: Device, weights: Weights, streams: Iterable[Stream], *, shots: int, queries: int
) -> list[Evaluation]:
    """Adapt ``weights`` to every unseen stream, each from the start, as a client does for an evaluation.

    The device's ``steps`` go over ``shots`` support samples again and again; ``queries`` samples measure the loss.
    """
    results = []
    for number, stream in enumerate(streams, start=1):
        device.load(weights, number)
        before = _query(device, stream, queries)
        for step in range(device.steps):
            if step % shots == 0:
                stream.begin(SUPPORT)
            device.learn(stream)
        results.append(Evaluation(before, _query(device, stream, queries)))
    return results


def _query(device: Device, stream: Stream, queries: int) -> Score:
    stream.begin(QUERY)
    answers = [device.query(stream) for _ in range(queries)]
    hits = [hit for _, hit in answers if hit is not None]
    return Score(float(np.mean([loss for loss, _ in answers])), float(np.mean(hits)) if hits else None)
