"""What a fleet learns: a task gives the model, the settings that suit it, and a stream for every device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from tinyreptile.learner import ONE
from tinyreptile.streams import TRAIN, Stream, call

from ..imports import named_class

# By name, which is that of the module, too: a coordinator of one waits for the imports of no other.
_TASKS = {"sine": "Sine", "presence": "Presence", "omniglot": "Omniglot", "keywords": "Keywords"}
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
        from ..offline import take  # with it comes numba, which a coordinator of the task need not load

        stream = self.train_stream(index, seed)
        labels = self.model[-1] == ["cross_entropy"]
        x = memoryview(array("h", bytes(2 * stream.inputs)))
        y = array("h", bytes(2 * (1 if labels else stream.outputs)))
        path = folder / f"{self.name}-{index}.csv"
        call(stream, lambda: stream.begin(TRAIN))
        with path.open("w") as file:
            for _ in range(_ROWS):
                take(stream, x, y)
                targets = [str(y[0])] if labels else [repr(value / ONE) for value in y]
                file.write(",".join([*(repr(value / ONE) for value in x), *targets]) + "\n")
        return {"kind": "rows", "path": str(path), "inputs": stream.inputs, "outputs": stream.outputs, "labels": labels}


def task_class(name: str) -> type[Task]:
    """The class of task ``name``, or of one of your own as "package.module.Class"; raises `TaskError`."""
    if "." in name:
        task = named_class(name, Task, TaskError)  # type: ignore[type-abstract]
        for attribute in ("name", "model", "settings"):
            if not hasattr(task, attribute):
                raise TaskError(f"{name} has no {attribute}: a task says its name, its model and its settings")
        return task
    if name not in _TASKS:
        raise TaskError(
            f"a task is one of {', '.join(_TASKS)}, or a class of yours as package.module.Class, not {name!r}"
        )
    found: type[Task] = getattr(import_module(f".{name}", __name__), _TASKS[name])
    return found


def make_task(name: str, data: Path | None = None) -> Task:
    """The task ``name`` with its data, if it has any, from the folder ``data``; raises `TaskError` or `DataError`."""
    return task_class(name)(data)


def task_settings(name: str) -> dict[str, dict[str, Any]]:
    """Configuration tables for a run of task ``name``: its model, and the settings that suit it; raises `TaskError`."""
    task = task_class(name)
    return {**task.settings, "run": {"model": task.model}}
