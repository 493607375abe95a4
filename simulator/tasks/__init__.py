"""What a fleet learns: a task gives the model, the settings that suit it, and a stream for every device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from pathlib import Path
from typing import Any, ClassVar

from tinyreptile.learner import ONE
from tinyreptile.model import Model
from tinyreptile.streams import TRAIN, Stream

from ..offline import take

_ROWS = 1000  # samples of a MicroPython device that reads them from a file


class TaskError(Exception):
    """A task that can't be set up; the text says why and what to do."""


class Task(ABC):
    """One family of tasks, spread over training devices and unseen ones.

    Attributes:
        name: as it is given to ``--task``.
        model: the model list.
        settings: configuration tables that suit the task, as in the TOML file.
        devices, evaluators: how many there are at most; None: any number.
    """

    name: ClassVar[str]
    model: ClassVar[list[list[Any]]]
    settings: ClassVar[dict[str, dict[str, Any]]]
    devices: int | None = None
    evaluators: int | None = None

    def __init__(self, data: Path | None = None) -> None:  # noqa: B027 - most tasks need no data
        """Set up with the data sets in the folder ``data``; a task that needs none passes it over."""

    @abstractmethod
    def train_stream(self, index: int, seed: int) -> Stream:
        """The stream of training device ``index`` of the fleet ``seed``."""

    @abstractmethod
    def unseen_stream(self, index: int, seed: int) -> Stream:
        """The stream of held-out device ``index``: its task is in no training device's stream."""

    def micropython_stream(self, index: int, seed: int, folder: Path) -> dict[str, Any]:
        """The stream of training device ``index`` as a MicroPython device's configuration describes it.

        Unless a task knows better: samples of the stream, written to a file of rows in ``folder``.
        """
        model = Model(self.model)
        stream = self.train_stream(index, seed)
        x, y = memoryview(array("h", bytes(2 * model.inputs))), array("h", bytes(2 * model.target_cells()))
        labels = model.loss == "cross_entropy"
        path = folder / f"{self.name}-{index}.csv"
        stream.begin(TRAIN)
        with path.open("w") as file:
            for _ in range(_ROWS):
                take(stream, x, y)
                targets = [str(y[0])] if labels else [repr(value / ONE) for value in y]
                file.write(",".join([*(repr(value / ONE) for value in x), *targets]) + "\n")
        return {"kind": "rows", "path": str(path), "inputs": model.inputs, "outputs": model.outputs, "labels": labels}


def task_class(name: str) -> type[Task]:
    """The class of task ``name``; raises `TaskError`."""
    from .presence import Presence
    from .sine import Sine

    classes: dict[str, type[Task]] = {"sine": Sine, "presence": Presence}
    if name not in classes:
        raise TaskError(f"a task is one of {', '.join(classes)}, not {name!r}")
    return classes[name]


def make_task(name: str, data: Path | None = None) -> Task:
    """The task ``name`` with its data, if it has any, from the folder ``data``; raises `TaskError` or `DataError`."""
    return task_class(name)(data)


def task_settings(name: str) -> dict[str, dict[str, Any]]:
    """Configuration tables for a run of task ``name``: its model, and the settings that suit it; raises `TaskError`."""
    task = task_class(name)
    return {**task.settings, "run": {"model": task.model}}
