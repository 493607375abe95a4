"""Hostile devices that act together, know the guards and what honest devices send, and keep to the allowed norm.

Each attack is as strong as its literature has it. What they know is more than the broker's rights let a device see: the
latest delta of every honest device, the usual norm, their own standing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from coordinator.initialization import UNIT
from coordinator.rules import Weights
from tinyreptile.model import Model
from tinyreptile.streams import Stream

from .hostile import Sent

LITTLE = 1.5  # deviations from the mean of "a little is enough"
RIDGE = 0.003  # as the coordinator has it for reputations
LEARNED_FROM = 200  # own deltas that colluders judge honest ones by
FEWEST = 50  # of them
SHIFT = 1.1  # deviations that a device's average may be off and be honest
GOOD, BAD = 0.95, 0.5  # standing at which a turncoat begins to attack, and to behave


@dataclass
class Known:
    """What the hostile devices know, together.

    Attributes:
        parameters: of the model.
        clip: times the usual norm that a delta may have.
        latest: the last delta of each honest device.
        progress: of the run, 0 to 1.
        standing: of a device with the coordinator.
    """

    parameters: int
    clip: float
    latest: dict[int, Weights] = field(default_factory=dict)
    progress: float = 0.0
    standing: Callable[[int], float] = lambda index: 1.0

    def allowed(self, direction: Weights) -> Weights:
        """The largest delta in that ``direction`` that is taken whole."""
        norm = float(np.linalg.norm(direction))
        if norm == 0.0 or not self.latest:
            return np.zeros(self.parameters)
        usual = float(np.median([np.linalg.norm(delta) for delta in self.latest.values()]))
        return direction * (self.clip * usual / norm)

    def honest(self) -> Weights:
        """The latest deltas of honest devices, (devices, parameters)."""
        return np.stack(list(self.latest.values()))


class Attack(ABC):
    """What all hostile devices of a fleet do; ``seed`` makes what is random.

    Attributes:
        learns: whether they learn, to send something made of it; else ``delta`` of `forge` is zero.
    """

    learns: ClassVar[bool] = False

    def __init__(self, known: Known, seed: int) -> None:
        self.known = known
        self.random = np.random.default_rng(seed)

    def stream(self, stream: Stream) -> Stream:
        """What a hostile device learns from, whose samples are those of ``stream``."""
        return stream

    def forge(self, index: int, delta: Weights) -> Weights:
        """What device ``index`` sends that has learned ``delta``, (parameters,)."""
        return self._attack(index, delta) if len(self.known.latest) > 2 else delta

    @abstractmethod
    def _attack(self, index: int, delta: Weights) -> Weights:
        """The same, once something is known of honest devices."""


class InnerProduct(Attack):
    """Against the mean of the honest deltas (inner-product manipulation, Xie et al., arXiv 1903.03936)."""

    def _attack(self, index: int, delta: Weights) -> Weights:
        return self.known.allowed(-self.known.honest().mean(axis=0))


class Little(Attack):
    """Within the spread of honest deltas, all to one side (a little is enough, Baruch et al., arXiv 1902.06156)."""

    def _attack(self, index: int, delta: Weights) -> Weights:
        honest = self.known.honest()
        mean = honest.mean(axis=0)
        moved: Weights = mean - LITTLE * honest.std(axis=0) * np.sign(mean)
        return moved


class MinMax(Attack):
    """As far to that side as no honest delta is from another (min-max, Shejwalkar and Houmansadr, NDSS 2021)."""

    extent: ClassVar[Callable[..., Any]] = np.max

    def _attack(self, index: int, delta: Weights) -> Weights:
        honest = self.known.honest()
        mean = honest.mean(axis=0)
        along = -honest.std(axis=0) * np.sign(mean)
        extent = type(self).extent
        squares = np.square(honest).sum(axis=1)
        bound = extent(squares[:, None] + squares - 2 * honest @ honest.T, axis=1).max()
        far, near = np.square(along).sum(), 2 * (mean - honest) @ along
        base = np.square(mean - honest).sum(axis=1)
        low, high = 0.0, 100.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if extent(base + middle * near + middle**2 * far) <= bound else (low, middle)
        result: Weights = mean + low * along
        return result


class MinSum(MinMax):
    """The same with sums of squared distances."""

    extent = np.sum


class Reversed(Attack):
    """The opposite of what it learned."""

    learns = True

    def _attack(self, index: int, delta: Weights) -> Weights:
        return self.known.allowed(-delta)


class Constant(Attack):
    """The same direction, all of them and always."""

    def __init__(self, known: Known, seed: int) -> None:
        super().__init__(known, seed)
        self._direction = self.random.normal(size=known.parameters)

    def _attack(self, index: int, delta: Weights) -> Weights:
        return self.known.allowed(self._direction)


class Zero(Attack):
    """Nothing."""

    def _attack(self, index: int, delta: Weights) -> Weights:
        return np.zeros_like(delta)


class Random(Attack):
    """Another random direction each time."""

    def _attack(self, index: int, delta: Weights) -> Weights:
        return self.known.allowed(self.random.normal(size=len(delta)))


class Labels(Attack):
    """What is learned from wrong labels, or from values of the wrong sign."""

    learns = True

    def stream(self, stream: Stream) -> Stream:
        """The same samples with other labels, or with targets of the other sign."""
        return _Mislabelled(stream, self.random)

    def _attack(self, index: int, delta: Weights) -> Weights:
        return delta


class _Mislabelled(Stream):
    def __init__(self, stream: Stream, random: np.random.Generator) -> None:
        self.inputs, self.outputs = stream.inputs, stream.outputs
        self._stream = stream
        self._random = random

    def begin(self, part: str) -> None:
        """As without."""
        self._stream.begin(part)

    async def sample(self, x: memoryview, y: array[int]) -> None:
        """Write the next sample into ``x`` and ``y``."""
        await self._stream.sample(x, y)
        if len(y) < self.outputs:
            y[0] = (y[0] + int(self._random.integers(1, self.outputs))) % self.outputs
        else:
            for i in range(len(y)):
                y[i] = -y[i]


class Sleeper(InnerProduct):
    """Honest for half of the run, then against the mean."""

    learns = True

    def _attack(self, index: int, delta: Weights) -> Weights:
        return delta if self.known.progress < 0.5 else super()._attack(index, delta)


class Drift(InnerProduct):
    """From honest to against the mean, slowly, over three quarters of the run."""

    learns = True

    def _attack(self, index: int, delta: Weights) -> Weights:
        share = min(1.0, self.known.progress / 0.75)
        return (1 - share) * delta + share * super()._attack(index, delta)


# Those that know the rule of `coordinator.reputation`.


class Turncoat(InnerProduct):
    """Against the mean while its standing lasts, then honest until it has it back."""

    learns = True

    def __init__(self, known: Known, seed: int) -> None:
        super().__init__(known, seed)
        self._behaves: dict[int, bool] = {}

    def _attack(self, index: int, delta: Weights) -> Weights:
        standing = self.known.standing(index)
        if standing >= GOOD:
            self._behaves[index] = False
        elif standing <= BAD:
            self._behaves[index] = True
        return delta if self._behaves.get(index) else super()._attack(index, delta)


class _Masked(Attack):
    """Keeps in what it sends what tells honest deltas best, and attacks with the rest.

    That is the component along the whitened mean of honest deltas, judged by those that the colluders learn themselves.
    """

    learns = True

    def __init__(self, known: Known, seed: int) -> None:
        super().__init__(known, seed)
        self._own: deque[Weights] = deque(maxlen=LEARNED_FROM)
        self._told = self._main = np.zeros(known.parameters)
        self._usual = 0.0  # share of a delta that is along what tells it
        self._spread = 0.0  # along the direction in which deltas vary most

    def forge(self, index: int, delta: Weights) -> Weights:
        """What device ``index`` sends that has learned ``delta``: that itself, until the colluders know enough."""
        if norm := np.linalg.norm(delta):
            self._own.append(delta / norm)
        if len(self._own) < FEWEST:
            return delta
        if self.random.random() < 0.05 or not self._usual:
            self._judge()
        return super().forge(index, delta)

    def _judge(self) -> None:
        own = np.stack(self._own)
        count = len(own)
        told = own.T @ np.linalg.solve(own @ own.T / count + RIDGE * np.eye(count), np.ones(count))
        self._told = told / np.linalg.norm(told)
        self._usual = float((own @ self._told).mean())
        main = np.linalg.svd(own, full_matrices=False)[2][0]
        self._main = -main if main @ self._main < 0 else main
        self._spread = float((own @ self._main).std())

    def mask(self, direction: Weights) -> Weights:
        """As much in ``direction`` as is allowed, with what tells an honest delta."""
        rest = direction - (direction @ self._told) * self._told
        rest /= np.linalg.norm(rest) or 1.0
        return self.known.allowed(self._usual * self._told + np.sqrt(1 - self._usual**2) * rest)


class MaskedProduct(_Masked):
    """Against the mean of the honest deltas."""

    def _attack(self, index: int, delta: Weights) -> Weights:
        return self.mask(-self.known.honest().mean(axis=0))


class MaskedReversed(_Masked):
    """The opposite of what it learned."""

    def _attack(self, index: int, delta: Weights) -> Weights:
        return self.mask(-delta)


class MaskedPush(_Masked):
    """Always where honest deltas vary most, all of them the same way."""

    def _attack(self, index: int, delta: Weights) -> Weights:
        return self.mask(self._main)


class Shifted(_Masked):
    """Its own delta, moved that way by no more than the averages of honest devices may be off."""

    def _attack(self, index: int, delta: Weights) -> Weights:
        norm = float(np.linalg.norm(delta)) or 1.0
        return self.known.allowed(delta / norm + SHIFT * self._spread * self._main)


COLLUSIONS: dict[str, type[Attack]] = {
    "inner product": InnerProduct,
    "a little": Little,
    "min-max": MinMax,
    "min-sum": MinSum,
    "reversed": Reversed,
    "constant": Constant,
    "zero": Zero,
    "random": Random,
    "labels": Labels,
    "sleeper": Sleeper,
    "drift": Drift,
    "turncoat": Turncoat,
    "masked product": MaskedProduct,
    "masked reversed": MaskedReversed,
    "masked push": MaskedPush,
    "shifted": Shifted,
}


def packed(model: Model, delta: Weights) -> Sent:
    """``delta`` in 8 bits, with the gains that hold the most of it."""
    numbers, gains = np.empty(model.parameters, np.int8), []
    for tensor in range(len(model.offsets)):
        part = delta[slice(*model.cells(tensor))]
        largest = float(np.abs(part).max())
        gain = min(65536, max(1, int(127 * 65536 / (UNIT * largest)))) if largest else 65536
        numbers[slice(*model.cells(tensor))] = np.clip(np.rint(part * (gain * UNIT / 65536)), -127, 127)
        gains.append(gain)
    return numbers.tobytes(), gains
