"""What the algorithms share: devices at work, everything they see, send and compute counted, and a simulated clock.

A piece of work is a function of (seed, number, attempt): which device it falls to, which samples it meets, how long it
takes and whether it comes back. No random state is carried from one to the next.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from coordinator.rules import Weights
from simulator.offline import Device, run_now, take
from simulator.tasks import Task
from tinyreptile import episodes
from tinyreptile.streams import TRAIN, Stream, call

Pause = Callable[[], Awaitable[None]]

ANY = 1 << 16  # devices of a task that has any number


class AlgorithmError(Exception):
    """An algorithm that is not there, or a setting that it lacks, or a use that is not meant; the text says which."""


@dataclass
class Counts:
    """What a run has cost since its beginning.

    Attributes:
        updates: deltas that moved the initialization, or had a part in it.
        refused: deltas that had none: they were far too large, or their training diverged and none was sent.
        samples: drawn from devices' streams.
        gradients: samples that a gradient was computed of; more than samples where a stored one is met again.
        bytes_up, bytes_down: packed deltas, or samples, from devices; initializations to devices.
        seconds: on the simulated clock.
    """

    updates: int = 0
    refused: int = 0
    samples: int = 0
    gradients: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Delays:
    """How long pieces of work take, and how many are lost.

    Attributes:
        median: seconds between the request and the update.
        sigma: of the log-normal distribution: the standard deviation of the logarithm; 0: always the median.
        drop: share of the works that never come back.
        deadline: seconds after which the coordinator gives a work up. One that takes longer is lost as well.
    """

    median: float = 0.0
    sigma: float = 0.0
    drop: float = 0.0
    deadline: float = math.inf


class Work:
    """One piece of work on one device: load, train, delta, each counted.

    Attributes:
        index: of the device, among those of the task.
        seconds: that it takes; the deadline if it never comes back.
        comes_back: whether it does.
    """

    def __init__(self, fleet: Fleet, rng: random.Random) -> None:
        self._fleet = fleet
        self._counts = fleet.counts
        self._device = fleet.device
        self.index = rng.randrange(fleet.task.devices or ANY)
        self._seed = rng.getrandbits(31)
        delays = fleet.delays
        self.seconds = delays.median * math.exp(rng.gauss(0.0, delays.sigma))
        self.comes_back = rng.random() >= delays.drop and self.seconds <= delays.deadline
        if not self.comes_back:
            self.seconds = delays.deadline
        self._number = rng.getrandbits(16)
        self._diverged = False

    @property
    def learner(self) -> Any:
        """The device's learner, for what an algorithm does besides."""
        return self._device.learner

    def load(self, phi: Weights) -> None:
        """Begin from ``phi``: w <- phi."""
        self._device.load(phi, self._number)
        self._counts.bytes_down += self._device.received

    def train(self, steps: int, after_each: Pause = episodes.no_pause) -> float:
        """``steps`` times, one new sample: w <- w - beta * gradient; returns their mean loss, NaN if they diverged."""
        stream, begun = self._stream(), time.process_time()
        loss = math.nan
        try:
            loss = run_now(episodes.train(self._device.learner, stream, steps, after_each))
        except episodes.Diverged:
            self._diverged = True
        self._fleet.cpu_seconds += time.process_time() - begun
        self._counts.samples += steps
        self._counts.gradients += steps
        return loss

    def store(self, shots: int) -> None:
        """Draw ``shots`` new samples and keep them as the device's support set.

        Raises `AlgorithmError` where the algorithm's `shots` has said that there are none.
        """
        learner, stream = self._device.learner, self._stream()
        if not hasattr(learner, "store"):
            raise AlgorithmError("this algorithm stores samples: let the algorithm's `shots` say how many")
        learner.clear()
        call(stream, lambda: stream.begin(TRAIN))
        for _ in range(shots):
            take(stream, learner.x, learner.y)
            learner.store(learner.x, learner.y)
        self._counts.samples += shots

    def train_stored(self, batch: int, epochs: int) -> float:
        """``epochs`` passes over the stored samples in mini-batches of ``batch``; returns their mean loss."""
        learner = self._device.learner
        begun = time.process_time()
        loss: float = learner.train(batch, epochs)
        self._fleet.cpu_seconds += time.process_time() - begun
        self._counts.gradients += epochs * learner.count
        return loss

    def delta(self) -> Weights | None:
        """The difference w - phi as it reaches the coordinator, quantized and packed in between.

        None where training diverged: the device sends nothing then.
        """
        if self._diverged:
            self._counts.refused += 1
            return None
        delta = self._device.delta()
        self._counts.bytes_up += self._device.sent
        return delta

    def _stream(self) -> Stream:
        return self._fleet.task.train_stream(self.index, self._seed)


class Fleet:
    """The training devices of ``task``, all simulated by one ``device``; ``seed`` decides everything that is random.

    Without ``delays`` works take no time, and all come back.

    Attributes:
        counts: what the run has cost so far.
        cpu_seconds: processor time of the devices' training, measured.
    """

    def __init__(self, task: Task, device: Device, seed: int, delays: Delays | None = None) -> None:
        self.task = task
        self.device = device
        self.seed = seed
        self.delays = delays or Delays()
        self.counts = Counts()
        self.cpu_seconds = 0.0

    def work(self, number: int, attempt: int = 0) -> Work:
        """Work ``number``, whether it comes back or not; the clock is the caller's affair."""
        return Work(self, random.Random(f"{self.seed}/{number}/{attempt}"))

    def one(self, number: int) -> Work:
        """Ask a device, as round ``number``; if it does not come back by the deadline, another one, and so on."""
        return self.together(number, 1)[0]

    def together(self, number: int, works: int) -> list[Work]:
        """Ask ``works`` devices at once, as round ``number``; the clock waits until as many have come back.

        In place of one that is lost another is asked at the deadline. They share the one simulated device: finish with
        one work before the next.
        """
        came, longest = [], 0.0
        for i in range(1, works + 1):
            seconds = 0.0
            for attempt in count():
                work = self.work((number - 1) * works + i, attempt)
                seconds += work.seconds
                if work.comes_back:
                    break
                self.counts.bytes_down += self.device.received
            came.append(work)
            longest = max(longest, seconds)
        self.counts.seconds += longest
        return came
