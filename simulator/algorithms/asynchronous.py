"""TinyReptile with many devices at work at once, on a simulated clock."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from coordinator.rules import Weights

from . import Algorithm, State
from .fleet import Fleet


@dataclass(order=True)
class Flight:
    """Work that a device is at, ordered by when it is heard of again.

    Attributes:
        at: seconds on the simulated clock, when its update arrives or its deadline is over.
        work: its number.
        device: its index.
        version: the number of rounds that the initialization had seen when the device took it.
        loss: mean over its training.
        delta: what will arrive, float64 (parameters,); None if nothing will.
    """

    at: float
    work: int
    device: int
    version: int
    loss: float
    delta: Weights | None


class Asynchronous(Algorithm):
    """TinyReptile (arXiv 2304.05201) with the asynchronous server of FedAsync (Xie et al., arXiv 1903.03934).

    ``in_flight`` devices are at work at any time, each from the version it took; an update moves the initialization
    when it arrives, discounted by its staleness tau, the number of versions since. Whoever comes back, or is given up
    at the deadline, makes room for the next at once.
    """

    defaults: ClassVar[dict[str, Any]] = {"in_flight": 50, "staleness": "polynomial"}

    def __init__(self, fleet: Fleet, settings: dict[str, Any], rounds: int) -> None:
        super().__init__(fleet, settings, rounds)
        self._flights: list[Flight] = []
        self._asked = 0

    def round(self, phi: Weights, number: int) -> float:
        """Ask whenever there is room; the next update to arrive: phi <- phi + alpha s(tau) (w - phi_then)."""
        flight = None
        while flight is None or flight.delta is None:
            while len(self._flights) < self.settings.in_flight:
                heapq.heappush(self._flights, self._ask(phi, number - 1))
            flight = heapq.heappop(self._flights)
            self.fleet.counts.seconds = flight.at
        self.move(phi, [flight.delta], [flight.device], number, tau=number - 1 - flight.version)
        return flight.loss

    def _ask(self, phi: Weights, version: int) -> Flight:
        """A device begins from ``phi``. What it will send is known at once: nothing later has a part in it."""
        self._asked += 1
        work = self.fleet.work(self._asked)
        at = self.fleet.counts.seconds + work.seconds
        if not work.comes_back:
            self.fleet.counts.bytes_down += self.fleet.device.received
            return Flight(at, self._asked, work.index, version, 0.0, None)
        work.load(phi)
        loss = work.train(self.settings.steps)
        return Flight(at, self._asked, work.index, version, loss, work.delta())

    def state(self) -> State:
        """The flights, a row each, and the number of works asked for."""
        flights = sorted(self._flights)
        returning = [flight.delta for flight in flights if flight.delta is not None]
        return {
            "flights": np.array([(f.at, f.work, f.device, f.version, f.loss, f.delta is not None) for f in flights]),
            "deltas": np.array(returning),
            "asked": np.array(self._asked),
        }

    def resume(self, state: State) -> None:
        """The same flights; a sorted list is a heap."""
        deltas = iter(state["deltas"])
        self._flights = [
            Flight(at, int(work), int(device), int(version), loss, next(deltas) if returns else None)
            for at, work, device, version, loss, returns in state["flights"].tolist()
        ]
        self._asked = int(state["asked"])
