"""TinyReptile: federated meta-learning on microcontrollers, serial and online."""

from __future__ import annotations

from coordinator.rules import Weights

from . import Algorithm


class TinyReptile(Algorithm):
    """TinyReptile (Ren, Anicic, Runkler, IJCNN 2023, arXiv 2304.05201, algorithm 1).

    One device a round. It sees ``steps`` samples, each once, learns from it and drops it.
    """

    def round(self, phi: Weights, number: int) -> float:
        """Sample a device; w <- phi; learn online; phi <- phi + alpha (w - phi)."""
        work = self.fleet.one(number)
        work.load(phi)
        loss = work.train(self.settings.steps)
        self.move(phi, [work.delta()], [work.index], number)
        return loss
