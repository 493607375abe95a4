"""FedSGD: one gradient a device and round."""

from __future__ import annotations

from statistics import fmean
from typing import Any, ClassVar

from coordinator.rules import Weights

from . import Algorithm


class FedSGD(Algorithm):
    """Federated SGD (McMahan et al. 2017, arXiv 1602.05629, section 2): the least that FedAvg can do.

    ``clients`` devices a round, each with one gradient over all its ``steps`` stored samples. The learning rate is
    applied on the device, so that what crosses the wire has the size of a delta: phi + mean(-beta g) = phi - beta
    mean(g).
    """

    defaults: ClassVar[dict[str, Any]] = {"clients": 5, "alpha": 1.0, "schedule": "constant"}

    @classmethod
    def works(cls, settings: dict[str, Any]) -> int:
        """The clients."""
        return int(settings["clients"])

    @classmethod
    def shots(cls, settings: dict[str, Any]) -> int:
        """All samples of a piece of work."""
        return int(settings["steps"])

    def round(self, phi: Weights, number: int) -> float:
        """Each client k: g_k <- gradient of its loss at phi; then phi <- phi - beta * mean of the g_k."""
        deltas, devices, losses = [], [], []
        for work in self.fleet.together(number, self.settings.clients):
            work.load(phi)
            work.store(self.settings.steps)
            losses.append(work.train_stored(batch=self.settings.steps, epochs=1))
            deltas.append(work.delta())
            devices.append(work.index)
        self.move(phi, deltas, devices, number)
        return fmean(losses)
