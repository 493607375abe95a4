"""TinyReptile with a meta-batch: many devices at work at once, and the coordinator waits for the last."""

from __future__ import annotations

from statistics import fmean
from typing import Any, ClassVar

from coordinator.rules import Weights

from . import Algorithm


class Synchronous(Algorithm):
    """TinyReptile's device side (arXiv 2304.05201) with Reptile's meta-batch (arXiv 1803.02999, algorithm 2).

    The coordinator's batch mode: ``meta_batch`` devices learn online from one version, and their mean moves it. A
    round lasts until the last update; in place of a device that is lost another is asked at the deadline.
    """

    defaults: ClassVar[dict[str, Any]] = {"meta_batch": 50}

    @classmethod
    def works(cls, settings: dict[str, Any]) -> int:
        """The meta-batch."""
        return int(settings["meta_batch"])

    def round(self, phi: Weights, number: int) -> float:
        """For each of the meta-batch w <- phi, learn online; phi <- phi + alpha mean(w - phi)."""
        deltas, devices, losses = [], [], []
        for work in self.fleet.together(number, self.settings.meta_batch):
            work.load(phi)
            losses.append(work.train(self.settings.steps))
            deltas.append(work.delta())
            devices.append(work.index)
        self.move(phi, deltas, devices, number)
        return fmean(losses)
