"""One evaluation of one version on the held-out devices: who was asked, what came back, and the summary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyreptile import messages, reports


def check_evaluation(message: Any, classes: int) -> dict[str, Any]:
    """``message`` if it is an evaluation of a model of ``classes`` classes (0: regression), else `MessageError`."""
    evaluation: dict[str, Any] = messages.check(reports.EVALUATION, message)
    for name in ("seen", "hits_before", "hits_after"):
        counts = reports.check_ints(name, evaluation.setdefault(name, []), 0, 1_000_000)
        if len(counts) != classes:
            raise messages.MessageError(f"{name} has {len(counts)} counts, the model {classes} classes")
        if any(count > seen for count, seen in zip(counts, evaluation["seen"], strict=True)):
            raise messages.MessageError(f"{name} counts more samples of a class than were seen")
    return evaluation


@dataclass
class EvaluationRound:
    """All devices that were idle when it began adapt the same version."""

    updates: int
    version: int
    waiting: set[int] = field(default_factory=set)  # work ids
    results: list[dict[str, Any]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Means over the devices: query loss ``before`` and ``after`` adaptation; with classes, accuracies too.

        Balanced accuracy is the mean over the classes of the share predicted right, all devices' queries together.
        """
        result: dict[str, Any] = {
            "updates": self.updates,
            "version": self.version,
            "devices": len(self.results),
            "before": float(np.mean([r["before"] for r in self.results])),
            "after": float(np.mean([r["after"] for r in self.results])),
        }
        seen = np.sum([r.get("seen", []) for r in self.results], axis=0)
        if np.any(seen):
            for moment in ("before", "after"):
                hits = np.sum([r[f"hits_{moment}"] for r in self.results], axis=0)
                result[f"balanced_accuracy_{moment}"] = float(np.mean(hits[seen > 0] / seen[seen > 0]))
        return result
