"""Transfer: one joint model over everybody's samples, fine-tuned on the unseen device."""

from __future__ import annotations

from typing import Any, ClassVar

from coordinator.rules import Weights

from . import Algorithm


class Transfer(Algorithm):
    """One model learns from the samples of all devices mixed, in one place; an unseen device fine-tunes it.

    The usual way without meta-learning, and a baseline of arXiv 2304.05201. Every sample is another device's and
    crosses the wire: bytes up are samples, in the int16 cells that they have on a device. The simulated clock stands
    still, as no device is waited for.
    """

    defaults: ClassVar[dict[str, Any]] = {"alpha": 1.0, "schedule": "constant"}

    def round(self, phi: Weights, number: int) -> float:
        """``steps`` times, one sample of another device each: phi <- phi - beta * gradient."""
        joint, counts = self.fleet.device, self.fleet.counts
        joint.load(phi, number)
        loss = 0.0
        for i in range(self.settings.steps):
            loss += self.fleet.work(number, i).train(1)
        self.move(phi, [joint.delta()], [number], number)  # each time of other devices
        model = joint.learner.model
        counts.bytes_up += self.settings.steps * 2 * (model.inputs + model.target_cells())
        return loss / int(self.settings.steps)
