"""A device without a network: its own learner, its own loops, and deltas that are really packed.

    device = IntegerDevice(model, beta=0.005, bits=4)
    device.load(weights, 1)
    loss = run_now(episodes.train(device.learner, stream, 32))
    weights += 0.3 * device.delta()
    results = evaluate(device, weights, unseen, steps=32, shots=10, queries=50)

`simulator.algorithms` does the first four lines for thousands of rounds. Whatever else learns, a float reference or a
device that stores samples, takes part as a `Device` of its own.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from array import array
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from coordinator.deltas import kept_of, unpack
from coordinator.initialization import encode
from coordinator.rules import Weights
from tinyreptile import episodes, evaluation
from tinyreptile.batch import BatchLearner
from tinyreptile.coding import Coded
from tinyreptile.learner import Learner
from tinyreptile.model import Model
from tinyreptile.privacy import Privacy
from tinyreptile.streams import QUERY, SUPPORT, TRAIN, Cells, Stream, call, draw


class Device(ABC):
    """Something that learns from the initialization and says what it learned.

    Attributes:
        learner: offers what the loops of `tinyreptile.episodes` use of a `tinyreptile.learner.Learner`.
        received: bytes of an initialization as it reaches the device.
        sent: bytes of the last delta as it left the device, coded, without its messages' other fields.
    """

    learner: Any
    received: int = 0
    sent: int = 0

    @abstractmethod
    def load(self, weights: Weights, work: int) -> None:
        """Begin work number ``work`` from the initialization ``weights``, float64 (parameters,)."""

    @abstractmethod
    def delta(self) -> Weights:
        """What was learned since `load`, float64 (parameters,), as the coordinator receives it."""

    @abstractmethod
    def ram(self) -> int:
        """Bytes that learning takes: all buffers, stored samples among them."""


class IntegerDevice(Device):
    """The client's learner, its initialization as published and its delta as packed for the wire in ``bits``.

    ``beta`` is the learning rate, ``encoding`` the initialization's on the wire ("int16" or "int8"; of int8 weights
    always "int8"), ``top`` the share of the delta's numbers that is sent. With ``shots`` it stores that many samples to
    train on in mini-batches, as the baselines do; else it drops each once it has learned from it. With ``privacy`` its
    deltas are made private first.
    """

    def __init__(
        self,
        model: Model,
        *,
        beta: float,
        bits: int,
        top: float = 1.0,
        encoding: str = "int16",
        shots: int = 0,
        privacy: Privacy | None = None,
    ) -> None:
        self._model = model
        self._privacy = privacy
        self._bits = bits
        self._encoding = "int8" if model.weights == "int8" else encoding
        self._kept = kept_of(model, top)
        if shots:
            self.learner = BatchLearner(model, shots, encoding=self._encoding)
        else:
            self.learner = Learner(model, encoding=self._encoding)
        self._ram = int(model.ram(shots))
        self.learner.set_rate(beta)
        self.received = len(self.learner.wire)

    def load(self, weights: Weights, work: int) -> None:
        """Take ``weights`` as they are published; ``work`` seeds the rounding, as on the client."""
        self.learner.wire[:] = encode(self._model, weights, self._encoding)
        self.learner.receive()
        self.learner.load()
        self.learner.seed(work)

    def delta(self) -> Weights:
        """Quantized, packed, and unpacked by the coordinator's own code."""
        if self._privacy is not None:
            run_now(self._privacy.protect(self.learner, episodes.no_pause))
        delta = self.learner.delta(self._bits, self._kept)
        packed = bytearray(delta.size)
        delta.pack(0, packed)
        self.sent = sum(Coded(delta).sizes)
        return unpack(self._model, packed, self._bits, delta.gains, self._kept)

    def ram(self) -> int:
        """What the model states, and the store where there is one."""
        return self._ram


def run_now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What ``coroutine`` returns, without an event loop; RuntimeError if it waits for anything."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("a stream waits for its samples; offline they must be there at once")


def take(stream: Stream, x: memoryview, y: array[int]) -> None:
    """Write the next sample of ``stream`` into ``x`` and ``y``."""
    run_now(draw(stream, Cells(x, stream, "input"), Cells(y, stream, "target")))


def evaluate(
    device: Device, weights: Weights, streams: Iterable[Stream], *, steps: int, shots: int, queries: int
) -> list[dict[str, Any]]:
    """Adapt ``weights`` to every unseen stream, each from the start; returns what clients report of an evaluation.

    ``steps`` go over ``shots`` support samples again and again; ``queries`` samples measure the loss.
    """
    results = []
    for number, stream in enumerate(streams, start=1):
        device.load(weights, number)
        results.append(run_now(evaluation.evaluate(device.learner, stream, steps, shots, queries)))
    return results


class Sample(NamedTuple):
    """One sample: ``x`` in Q5.10, ``y`` its targets in Q5.10 or its label."""

    x: array[int]
    y: array[int]


class Replay(Stream):
    """``support`` and ``query`` samples, held for many looks at one adaptation.

    Training goes round the support samples and on from where it was, whatever has been queried in between.
    """

    def __init__(self, support: list[Sample], query: list[Sample]) -> None:
        self.queries = len(query)
        self._support = support
        self._query = query
        self.rewind()

    def rewind(self) -> None:
        """Begin with the first support sample again."""
        self._next_support = itertools.cycle(self._support)
        self._next = self._next_support

    @classmethod
    def of_unseen(cls, stream: Stream, learner: Any, shots: int, queries: int) -> Replay:
        """The first ``shots`` support and ``queries`` query samples of an unseen device."""
        call(stream, lambda: stream.begin(SUPPORT))
        support = _draw(stream, learner, shots)
        call(stream, lambda: stream.begin(QUERY))
        return cls(support, _draw(stream, learner, queries))

    @classmethod
    def of_training(cls, stream: Stream, learner: Any, shots: int, queries: int) -> Replay:
        """A piece of training as if it were an unseen device's: the first ``shots`` samples, and those that follow."""
        call(stream, lambda: stream.begin(TRAIN))
        return cls(_draw(stream, learner, shots), _draw(stream, learner, queries))

    def begin(self, part: str) -> None:
        """Queries begin anew; anything else goes on with the support samples."""
        self._next = itertools.cycle(self._query) if part == QUERY else self._next_support

    async def sample(self, x: memoryview, y: array[int]) -> None:
        """Write the next sample into ``x`` and ``y``."""
        x[:], y[:] = next(self._next)


def _draw(stream: Stream, learner: Any, count: int) -> list[Sample]:
    """The next ``count`` samples of ``stream``, in the shape that ``learner`` has."""
    samples = []
    for _ in range(count):
        take(stream, learner.x, learner.y)
        samples.append(Sample(array("h", learner.x), array("h", learner.y)))
    return samples


def adaptation(device: Device, weights: Weights, replays: Iterable[Replay], at: Sequence[int]) -> list[dict[str, Any]]:
    """What `evaluate` measures, after every number of one-sample steps in ``at``, which ascend.

    One entry a number, over all ``replays``: ``step``; ``loss``, the mean over the devices; and with classes
    ``accuracy``, the mean over the classes of the share predicted right, all devices' queries together.
    """
    looks: list[list[tuple[float, list[int], list[int]]]] = [[] for _ in at]
    for number, replay in enumerate(replays, start=1):
        device.load(weights, number)
        replay.rewind()
        done = 0
        for step, look in zip(at, looks, strict=True):
            if step > done:
                run_now(evaluation.adapt(device.learner, replay, step - done, step - done))
                done = step
            look.append(run_now(evaluation.query(device.learner, replay, replay.queries)))
    points: list[dict[str, Any]] = []
    for step, look in zip(at, looks, strict=True):
        point: dict[str, Any] = {"step": step, "loss": sum(loss for loss, _, _ in look) / len(look)}
        seen, hits = (np.sum([counts[i] for counts in look], axis=0) for i in (1, 2))
        if seen.size:
            point["accuracy"] = float(np.mean(hits[seen > 0] / seen[seen > 0]))
        points.append(point)
    return points
