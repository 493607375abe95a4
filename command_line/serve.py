"""`tinyreptile serve`: the coordinator of a run, or of several."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, nullcontext
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from coordinator.config import Config
from coordinator.databases import location_text
from coordinator.errors import ConfigError, CoordinatorError
from coordinator.logs import of_run
from coordinator.notify import Notifier, notified
from coordinator.runs import Runs, Served
from coordinator.web import watched

from .console import RunProgress, configure_logging, loss_text, out, tell_error
from .options import TASK_HELP, Connection, VerboseOption, connected, metrics_address
from .signals import stopping

_log = logging.getLogger(__name__)
_FAULT = "the run has ended for a fault of this program"


class LogFormat(StrEnum):
    """What is said on the way."""

    TEXT = "text"
    JSON = "json"


@connected
def command(
    connection: Connection,
    config: Annotated[
        list[Path] | None,
        typer.Option(
            "--config",
            help="TOML file; see docs/configuration.md. Several: a run each, in one service.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help=f"Take model and settings from it. {TASK_HELP}", show_default=False)
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Accepted updates until the run ends; 0: never.", show_default=False)
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="An SQLite file, or a postgresql:// URL \\[default: NAME.sqlite].", show_default=False),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT",
            help="Serve /metrics, /healthz and /readyz there \\[default HOST: 127.0.0.1].",
            show_default=False,
        ),
    ] = None,
    log_format: Annotated[
        LogFormat, typer.Option(help="json: one object a line on standard error, and nothing else is said.")
    ] = LogFormat.TEXT,
    verbose: VerboseOption = False,
) -> None:
    """Coordinate a run: publish the initialization, hand out work, fold in what devices learn.

    Ends when the run's rounds are done. Ctrl-C stops it cleanly; started again it goes on from the same version.

    Example: [bold]tinyreptile serve --broker localhost:1883 --run kitchen --task sine --rounds 5000[/]
    """
    from simulator.tasks import task_settings

    files: list[Path | None] = [*config] if config else [None]
    configure_logging(verbose, as_json=log_format is LogFormat.JSON, runs=len(files))
    address = metrics_address(metrics) if metrics is not None else None
    if len(files) > 1 and (connection.run or store):
        raise ConfigError("--run and --store are of one run; of several, each file says its own")
    settings = [
        replace(connection, config=file).settings(
            defaults=task_settings(task) if task else None,
            tables={"run": {"rounds": rounds, "store": store}},
        )
        for file in files
    ]
    voice = _Records() if log_format is LogFormat.JSON else _Display(settings)
    runs = Runs(settings, on_status=voice.status, on_error=voice.failed)
    asyncio.run(_serve(runs, voice, address))
    for served in runs.served:
        if served.status is not None:
            voice.ended(served, served.status)
    if any(served.error for served in runs.served):
        raise typer.Exit(1)


async def _serve(runs: Runs, voice: _Display | _Records, address: tuple[str, int] | None) -> None:
    async with AsyncExitStack() as stack:
        if address is not None:
            await stack.enter_async_context(watched(runs, *address))
        await stack.enter_async_context(notified(runs, Notifier()))
        stack.enter_context(voice.progress)
        runs.begin()
        stack.enter_context(stopping(runs.stop))
        for served in runs.served:
            if served.coordinator is not None and not runs.failure:
                voice.begun(served, served.coordinator.run_state.version)
        await runs.run()


class _Display:
    """Tells a person at a terminal of the runs."""

    def __init__(self, configs: list[Config]) -> None:
        self.progress = RunProgress({config.run.name: config.run.rounds for config in configs})
        self._several = len(configs) > 1

    def begun(self, served: Served, version: int) -> None:
        out.print(
            f"Run [bold]{served.config.run.name}[/] {_where(served.config, version)}", highlight=False, soft_wrap=True
        )

    def status(self, status: dict[str, Any]) -> None:
        self.progress.show(status)

    def failed(self, served: Served, error: Exception) -> None:
        if not isinstance(error, CoordinatorError):
            _log.critical(_FAULT, exc_info=error)
        else:
            tell_error(CoordinatorError(f"run {served.config.run.name}: {error}") if self._several else error)

    def ended(self, served: Served, status: dict[str, Any]) -> None:
        out.print(summary(served.config, status))
        if status["state"] != "finished":
            out.print(f"Stopped at version {status['version']}; the same command goes on from there.", highlight=False)


class _Records:
    """Tells a log collector of the runs: records only."""

    progress = nullcontext()

    def __init__(self) -> None:
        _log.setLevel(logging.INFO)

    def begun(self, served: Served, version: int) -> None:
        with of_run(served.config.run.name):
            _log.info("begun %s", _where(served.config, version))

    def status(self, status: dict[str, Any]) -> None:
        """Its numbers are among the metrics."""

    def failed(self, served: Served, error: Exception) -> None:
        if not isinstance(error, CoordinatorError):
            _log.critical(_FAULT, exc_info=error)
        else:
            _log.error("%s", error)

    def ended(self, served: Served, status: dict[str, Any]) -> None:
        with of_run(served.config.run.name):
            _log.info("%s at version %d after %d updates", status["state"], status["version"], status["updates"])


def _where(config: Config, version: int) -> str:
    store = location_text(config.store_location())
    return f"at version {version}, store {store}, broker {config.broker.host}:{config.broker.port}"


def summary(config: Config, status: dict[str, Any]) -> Table:
    """A table of what a run came to."""
    table = Table(title=f"Run {config.run.name}: {status['state']}", show_header=False)
    table.add_row("version", str(status["version"]))
    table.add_row("updates accepted", str(status["updates"]))
    table.add_row("updates refused", ", ".join(f"{v} {k}" for k, v in status["refusals"].items()) or "0")
    if "loss" in status:
        table.add_row("training loss, last 200 updates", f"{status['loss']:.4f}")
    table.add_row("unseen devices", loss_text(status["evaluation"]))
    table.add_row(
        "round trip p50 / p99", f"{status['round_trip_p50'] * 1000:.0f} / {status['round_trip_p99'] * 1000:.0f} ms"
    )
    return table
