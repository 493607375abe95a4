"""FedAvg: devices train on what they have stored, and their weights are averaged."""

from __future__ import annotations

from statistics import fmean
from typing import Any, ClassVar

from coordinator.rules import Weights

from . import Algorithm


class FedAvg(Algorithm):
    """Federated averaging (McMahan et al. 2017, arXiv 1602.05629, algorithm 1).

    ``clients`` devices a round, each with ``epochs`` local passes over ``steps`` stored samples in mini-batches of
    ``batch``. All have equally many samples, so the weighted mean is a plain one. The mean is taken over differences,
    as they cross the wire: phi + mean(w - phi) = mean(w).
    """

    defaults: ClassVar[dict[str, Any]] = {
        "clients": 5,
        "batch": 10,
        "epochs": 5,
        "alpha": 1.0,
        "schedule": "constant",
    }

    @classmethod
    def works(cls, settings: dict[str, Any]) -> int:
        """The clients."""
        return int(settings["clients"])

    @classmethod
    def shots(cls, settings: dict[str, Any]) -> int:
        """All samples of a piece of work."""
        return int(settings["steps"])

    def round(self, phi: Weights, number: int) -> float:
        """Each client k: w_k <- ClientUpdate(k, phi); then phi <- mean of the w_k."""
        deltas, devices, losses = [], [], []
        for work in self.fleet.together(number, self.settings.clients):
            work.load(phi)
            work.store(self.settings.steps)
            losses.append(work.train_stored(self.settings.batch, self.settings.epochs))
            deltas.append(work.delta())
            devices.append(work.index)
        self.move(phi, deltas, devices, number)
        return fmean(losses)
