"""Reptile: a meta-batch of devices, each with mini-batch SGD over a stored support set."""

from __future__ import annotations

from statistics import fmean
from typing import Any, ClassVar

from coordinator.rules import Weights

from . import Algorithm


class Reptile(Algorithm):
    """Reptile (Nichol, Achiam, Schulman 2018, arXiv 1803.02999, algorithm 2).

    A device stores ``steps`` samples and passes over them ``epochs`` times in mini-batches of ``batch``; the
    differences of ``meta_batch`` devices, which all began from one version, are averaged.
    """

    defaults: ClassVar[dict[str, Any]] = {"meta_batch": 5, "batch": 10, "epochs": 5, "alpha": 1.0}

    @classmethod
    def works(cls, settings: dict[str, Any]) -> int:
        """The meta-batch."""
        return int(settings["meta_batch"])

    @classmethod
    def shots(cls, settings: dict[str, Any]) -> int:
        """All samples of a piece of work."""
        return int(settings["steps"])

    def round(self, phi: Weights, number: int) -> float:
        """For each of the meta-batch w <- phi, k steps of SGD; phi <- phi + alpha mean(w - phi)."""
        deltas, devices, losses = [], [], []
        for work in self.fleet.together(number, self.settings.meta_batch):
            work.load(phi)
            work.store(self.settings.steps)
            losses.append(work.train_stored(self.settings.batch, self.settings.epochs))
            deltas.append(work.delta())
            devices.append(work.index)
        self.move(phi, deltas, devices, number)
        return fmean(losses)
