"""Several runs in one service, each with a store and a session of its own, and one end for all if one fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import Config
from .errors import ConfigError, failure_text
from .logs import of_run
from .service import Coordinator

_log = logging.getLogger(__name__)


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
            return failure_text(self.error)
        if self.status is not None:
            return ""
        return "it has not begun" if self.coordinator is None else self.coordinator.obstacle


class Runs:
    """The runs of one service.

    One that fails ends the service: the others are stopped in order, and whoever supervises the process starts all of
    them again. In a process that went on, nobody would.

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
        self._ending = False

    def begin(self) -> None:
        """Open the stores, and take up each run where it was; then `failure` names one that can't be."""
        for served in self.served:
            with self._guarded(served):
                served.coordinator = Coordinator(served.config, on_status=self._on_status)

    async def run(self) -> None:
        """Serve each run to its end, or until one has failed; what became of them is in `served`."""
        if self.failure:
            self._end()  # what `begin` could take up is closed in order
        async with asyncio.TaskGroup() as tasks:
            for served in self.served:
                if served.coordinator is not None:
                    tasks.create_task(self._serve(served, served.coordinator), name=served.config.run.name)

    async def _serve(self, served: Served, coordinator: Coordinator) -> None:
        with self._guarded(served):
            try:
                served.status = await coordinator.run()
            except asyncio.CancelledError as error:
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                # Nobody has cancelled this task: without an error the run would be gone in silence.
                raise RuntimeError("a part of it was cancelled") from error
        if served.error is not None:
            self._end()

    @contextmanager
    def _guarded(self, served: Served) -> Iterator[None]:
        """Take note of what the run fails for here."""
        with of_run(served.config.run.name):
            try:
                yield
            except Exception as error:  # noqa: BLE001 - the other runs end in order
                served.error = error
                self._on_error(served, error)

    def _end(self) -> None:
        """Stop the runs that go on beside one that has failed."""
        others = [served.config.run.name for served in self.served if served.coordinator and not served.ended]
        if others and not self._ending:
            _log.warning("the service ends for this, and stops %s", " and ".join(others))
        self._ending = True
        self.stop()

    def stop(self) -> None:
        """End all of them soon, as `Coordinator.stop` does."""
        for served in self.served:
            if served.coordinator is not None:
                served.coordinator.stop()

    @property
    def failure(self) -> str:
        """Which run has failed, and for what, in a sentence; empty if none has."""
        return next((f"run {s.config.run.name} has failed: {s.obstacle}" for s in self.served if s.error), "")

    @property
    def obstacle(self) -> str:
        """What stands in the way of any of them, in a sentence; empty if nothing does."""
        return self.failure or next((f"run {s.config.run.name}: {s.obstacle}" for s in self.served if s.obstacle), "")


def _check_distinct(configs: Sequence[Config]) -> None:
    names: set[str] = set()
    clients: dict[tuple[str, int, str], str] = {}
    stores: dict[str, str] = {}
    for config in configs:
        name = config.run.name
        if name in names:
            raise ConfigError(f"two of the configurations are of run {name}; a service has each run once")
        names.add(name)
        if config.broker.client_id is not None:
            client = (config.broker.host, config.broker.port, config.broker.client_id)
            if (other := clients.setdefault(client, name)) != name:
                raise ConfigError(
                    f"runs {other} and {name} have the same broker.client_id, {client[2]}; each needs one of its own"
                )
        location = config.store_location()
        if "://" in location:
            continue  # there every run has a schema of its own
        other = stores.setdefault(str(Path(location).resolve()), name)
        if other != name:
            raise ConfigError(f"runs {other} and {name} have the same store, {location}; each needs one of its own")
