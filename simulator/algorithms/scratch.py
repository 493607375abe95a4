"""Scratch: no training before the unseen device's own."""

from __future__ import annotations

from coordinator.rules import Weights

from . import Algorithm


class Scratch(Algorithm):
    """The random first initialization, as it is: what an unseen device reaches alone, with the same few samples."""

    def round(self, phi: Weights, number: int) -> float:
        """Nothing."""
        return float("nan")
