"""Sine regression: every device has a sine of its own; unseen devices have others."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from tinyreptile.streams import Stream
from tinyreptile.streams.sine import SineStream

from . import Task

_UNSEEN = 1 << 20  # seeds of held-out devices lie beyond those of any fleet


class Sine(Task):
    """Amplitude in [0.1, 5], phase in [0, pi], inputs in [-5, 5]; a device draws a new sine for every piece of work."""

    name = "sine"
    model: ClassVar[list[list[Any]]] = [
        ["input", 1],
        ["dense", 32, "relu"],
        ["dense", 32, "relu"],
        ["dense", 1],
        ["squared_error"],
    ]
    settings: ClassVar[dict[str, dict[str, Any]]] = {
        "learning": {"steps": 32, "beta": 0.005, "alpha": 0.3, "alpha_end": 0.0, "bits": 8},
        "evaluation": {"steps": 32, "shots": 10, "queries": 50},
    }

    def train_stream(self, index: int, seed: int) -> Stream:
        """Device ``index``: a new sine for every piece of work, as the paper draws its clients."""
        return SineStream(seed * 100_003 + index, fresh=True)

    def unseen_stream(self, index: int, seed: int) -> Stream:
        """Held-out device ``index``: one sine, the same whenever it is asked."""
        return SineStream(_UNSEEN + seed * 100_003 + index)

    def micropython_stream(self, index: int, seed: int, folder: Path) -> dict[str, Any]:
        """The same sines: the stream is part of the portable library."""
        return {"kind": "sine", "seed": seed * 100_003 + index, "fresh": True}
