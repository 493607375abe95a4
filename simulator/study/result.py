"""What a run has come to, as it is stored."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

Count = Literal["updates", "refused", "samples", "gradients", "bytes_up", "bytes_down", "seconds"]


class Point(TypedDict):
    """Unseen devices after ``step`` one-sample steps: means of their query samples' losses and accuracies.

    A regression has no ``accuracy``; it is a share, balanced over the classes.
    """

    step: int
    loss: float
    accuracy: NotRequired[float]


class Cost(TypedDict):
    """`simulator.algorithms.fleet.Counts`."""

    updates: int
    refused: int
    samples: int
    gradients: int
    bytes_up: int
    bytes_down: int
    seconds: float


class Look(Cost):
    """A point of the learning curve: what it had cost by ``round``, and a few unseen devices."""

    round: int
    training_loss: float | None
    rate: float
    before: Point
    after: Point


class Result(TypedDict):
    """A run's result.

    ``settings`` are all that it depends on, ``versions`` what computed it. ``adaptation`` is what the end looked at,
    and ``also`` what else, by name; ``rate`` is the learning rate there. ``ram`` are bytes of a training device's
    buffers, ``multiply_accumulates`` those of a gradient, ``cpu_seconds`` the processor time of all training.
    """

    settings: dict[str, Any]
    versions: dict[str, str]
    adaptation: list[Point]
    also: dict[str, list[Point]]
    rate: float
    counts: Cost
    parameters: int
    ram: int
    multiply_accumulates: int
    cpu_seconds: float
    curve: list[Look]
