"""TinyMetaFed: local layers that never leave the device, and only the largest changes of the others on the wire."""

from __future__ import annotations

from typing import Any, ClassVar

from coordinator.rules import Weights

from . import Algorithm, AlgorithmError


class TinyMetaFed(Algorithm):
    """TinyMetaFed (Ren, Li, Anicic, Runkler 2023, arXiv 2307.06822).

    The last ``local_layers`` layers are local: nobody sends them, and phi keeps their first values. A device learns
    online from ``steps`` samples. On the first ``local_steps`` it reconstructs the local layers from those first
    values while the global ones rest (partial local reconstruction); on the others it learns the global layers while
    the local ones rest. Of the global change the device sends the largest share ``top`` (a setting of the device), and
    alpha follows a cosine (learning-rate schedule). An unseen device adapts as all others do here, with all its layers.
    """

    defaults: ClassVar[dict[str, Any]] = {"local_layers": 1, "local_steps": 8, "schedule": "cosine"}

    def round(self, phi: Weights, number: int) -> float:
        """Sample a device; reconstruct the local part, learn the global one; phi <- phi + alpha Top-P(w - phi)."""
        work = self.fleet.one(number)
        work.load(phi)
        weights = work.learner.weights
        global_part, local_part = self._parts(work.learner)
        first_local = bytes(weights[local_part])
        resting, seen = global_part if self.settings.local_steps else local_part, 0
        kept = bytes(weights[resting])

        async def rest() -> None:
            # A learner moves all layers in a step. To put one back is to have frozen it: a step depends on the
            # weights it begins with, and on nothing else.
            nonlocal resting, kept, seen
            seen += 1
            weights[resting] = kept
            if seen == self.settings.local_steps:
                resting, kept = local_part, bytes(weights[local_part])

        loss = work.train(self.settings.steps, rest)
        weights[local_part] = first_local
        self.move(phi, [work.delta()], [work.index], number)
        return loss

    def _parts(self, learner: Any) -> tuple[slice, slice]:
        """Bytes of the global and of the local cells; each layer has two tensors, weights and biases."""
        offsets, local = learner.model.offsets, self.settings.local_layers
        if not 0 <= 2 * local <= len(offsets):
            raise AlgorithmError(f"of {len(offsets) // 2} layers with weights, local_layers can't be {local}")
        cell = len(learner.weights) // learner.model.parameters
        border = cell * [*offsets, learner.model.parameters][len(offsets) - 2 * local]
        return slice(0, border), slice(border, None)
