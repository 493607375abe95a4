"""The algorithm without a network: the device's own loops, real packed deltas and the coordinator's meta-update.

    device = IntegerDevice(model, beta=0.005, bits=4)
    weights = meta_train(device, start, cycle(fleet), 20_000, meta, steps=32)
    results = evaluate(device, weights, unseen, steps=32, shots=10, queries=50)

Whatever else learns, a float reference or a baseline of another kind, takes part as a `Device` of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from coordinator.deltas import unpack
from coordinator.initialization import encode
from coordinator.rules import MetaUpdate, Weights
from tinyreptile import episodes
from tinyreptile.learner import Learner
from tinyreptile.model import Model
from tinyreptile.streams import Stream


class Device(ABC):
    """Something that learns online from the initialization, one sample at a time, and says what it learned.

    Attributes:
        learner: offers what the loops of `tinyreptile.episodes` use of a `tinyreptile.learner.Learner`.
    """

    learner: Any

    @abstractmethod
    def load(self, weights: Weights, work: int) -> None:
        """Begin work number ``work`` from the initialization ``weights``, float64 (parameters,)."""

    @abstractmethod
    def delta(self) -> Weights:
        """What was learned since `load`, float64 (parameters,), as the coordinator receives it."""


class IntegerDevice(Device):
    """The client's learner, its initialization as published and its delta as packed for the wire in ``bits``.

    ``beta`` is the learning rate.
    """

    def __init__(self, model: Model, *, beta: float, bits: int) -> None:
        self._bits = bits
        self.learner = Learner(model)
        self.learner.set_rate(beta)

    def load(self, weights: Weights, work: int) -> None:
        """Take ``weights`` as int16; ``work`` seeds the rounding, as on the client."""
        self.learner.initialization[:] = encode(weights)
        self.learner.load()
        self.learner.seed(work)

    def delta(self) -> Weights:
        """Quantized, packed, and unpacked by the coordinator's own code."""
        delta = self.learner.delta(self._bits)
        packed = bytearray(delta.size)
        delta.pack(0, packed)
        return unpack(self.learner.model, packed, self._bits, delta.gains)


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
    run_now(stream.sample(x, y))


def meta_train(
    device: Device,
    weights: Weights,
    streams: Iterable[Stream],
    rounds: int,
    meta: MetaUpdate,
    *,
    steps: int,
    on_round: Callable[[int, float, Weights], None] | None = None,
) -> Weights:
    """TinyReptile in its serial form (arXiv 2304.05201, algorithm 1); returns the learned initialization.

    Each round takes the next of ``streams`` (`itertools.cycle` repeats a fleet), hands ``device`` the weights that the
    round before left, and lets it take ``steps`` one-sample steps. ``meta`` sees the progress 0 to 1 and folds the
    delta in. ``on_round`` is called after each round with its number from 1, its mean training loss, and the weights,
    which are not to be kept without a copy. The ``weights`` given are left as they are.
    """
    weights = weights.copy()
    for number, stream in zip(range(1, rounds + 1), streams, strict=False):
        device.load(weights, number)
        loss = run_now(episodes.train(device.learner, stream, steps))
        meta.apply(weights, device.delta(), progress=(number - 1) / rounds)
        if on_round:
            on_round(number, loss, weights)
    return weights


def evaluate(
    device: Device, weights: Weights, streams: Iterable[Stream], *, steps: int, shots: int, queries: int
) -> list[dict[str, Any]]:
    """Adapt ``weights`` to every unseen stream, each from the start; returns what clients report of an evaluation.

    ``steps`` go over ``shots`` support samples again and again; ``queries`` samples measure the loss.
    """
    results = []
    for number, stream in enumerate(streams, start=1):
        device.load(weights, number)
        results.append(run_now(episodes.evaluate(device.learner, stream, steps, shots, queries)))
    return results
