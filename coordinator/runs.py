"""Several runs in one service, each with a store and a session of its own: what ends one does not end the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import Config
from .errors import ConfigError
from .logs import of_run
from .service import Coordinator


@dataclass
class Served:
    """One of the runs.

    Attributes:
        coordinator: from the beginning on, if its store could be opened.
        status: the last, once it has ended well.
        error: what it has failed for.
    """

    config: Config
    coordinator: Coordinator | None = None
    status: dict[str, Any] | None = None
    error: Exception | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.status is not None or self.error is not None

    @property
    def obstacle(self) -> str:
        """What stands in the way of its work, in a sentence; empty if nothing does, or all is done."""
        if self.error is not None:
            return str(self.error)
        if self.status is not None:
            return ""
        return "it has not begun" if self.coordinator is None else self.coordinator.obstacle


class Runs:
    """The runs of one service.

    ``on_status`` is called with each run's status message every second, and at its end; ``on_error`` with what a run
    has failed for, at once. Raises `ConfigError` for configurations that can't be served side by side.
    """

    def __init__(
        self,
        configs: Sequence[Config],
        *,
        on_status: Callable[[dict[str, Any]], None] | None = None,
        on_error: Callable[[Served, Exception], None] = lambda served, error: None,
    ) -> None:
        _check_distinct(configs)
        self.served = [Served(config) for config in configs]
        self._on_status = on_status
        self._on_error = on_error

    def begin(self) -> None:
        """Open the stores, and take up each run where it was; one that can't be is left out."""
        for served in self.served:
            with self._guarded(served):
                served.coordinator = Coordinator(served.config, on_status=self._on_status)

    async def run(self) -> None:
        """Serve those that `begin` could take up, each to its end; what became of them is in `served`."""
        async with asyncio.TaskGroup() as tasks:
            for served in self.served:
                if served.coordinator is not None:
                    tasks.create_task(self._serve(served, served.coordinator), name=served.config.run.name)

    async def _serve(self, served: Served, coordinator: Coordinator) -> None:
        with self._guarded(served):
            served.status = await coordinator.run()

    @contextmanager
    def _guarded(self, served: Served) -> Iterator[None]:
        """What goes wrong here is of this run alone."""
        with of_run(served.config.run.name):
            try:
                yield
            except Exception as error:  # noqa: BLE001 - the other runs go on
                served.error = error
                self._on_error(served, error)

    def stop(self) -> None:
        """End all of them soon, as `Coordinator.stop` does."""
        for served in self.served:
            if served.coordinator is not None:
                served.coordinator.stop()

    @property
    def begun(self) -> bool:
        """Whether each has come so far as to work, or has ended before."""
        return all(served.ended or not served.obstacle for served in self.served)

    @property
    def obstacle(self) -> str:
        """What stands in the way of any of them, in a sentence; empty if nothing does."""
        return next((f"run {s.config.run.name}: {s.obstacle}" for s in self.served if s.obstacle), "")


def _check_distinct(configs: Sequence[Config]) -> None:
    names: set[str] = set()
    stores: dict[str, str] = {}
    for config in configs:
        name = config.run.name
        if name in names:
            raise ConfigError(f"two of the configurations are of run {name}; a service has each run once")
        names.add(name)
        location = config.store_location()
        if "://" in location:
            continue  # there every run has a schema of its own
        other = stores.setdefault(str(Path(location).resolve()), name)
        if other != name:
            raise ConfigError(f"runs {other} and {name} have the same store, {location}; each needs one of its own")
