"""What a fleet learns: a task gives the model, the settings that suit it, and a stream for every device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from tinyreptile.streams import Stream


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

    @abstractmethod
    def train_stream(self, index: int, seed: int) -> Stream:
        """The stream of training device ``index`` of the fleet ``seed``."""

    @abstractmethod
    def unseen_stream(self, index: int, seed: int) -> Stream:
        """The stream of held-out device ``index``: its task is in no training device's stream."""


def make_task(name: str, data: Path | None = None) -> Task:
    """The task ``name`` with its data from the folder ``data``; raises `TaskError`."""
    from .presence import Presence
    from .sine import Sine

    if name == Sine.name:
        return Sine()
    if name == Presence.name:
        return Presence(data)
    raise TaskError(f"a task is one of {', '.join(TASKS)}, not {name!r}")


TASKS = ("sine", "presence")
