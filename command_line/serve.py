"""`tinyreptile serve`: the coordinator of a run."""

from __future__ import annotations

import asyncio
import errno
import signal
from typing import Annotated, Any

import aiomqtt
import typer
from rich.table import Table

from coordinator.config import Config
from coordinator.databases import location_text
from coordinator.service import Coordinator

from .console import RunProgress, configure_logging, loss_text, out
from .options import (
    TASK_HELP,
    Connection,
    VerboseOption,
    connected,
)


@connected
def command(
    connection: Connection,
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
    verbose: VerboseOption = False,
) -> None:
    """Coordinate a run: publish the initialization, hand out work, fold in what devices learn.

    Ends when the run's rounds are done. Ctrl-C stops it cleanly; started again it goes on from the same version.

    Example: [bold]tinyreptile serve --broker localhost:1883 --run kitchen --task sine --rounds 5000[/]
    """
    from simulator.tasks import task_settings

    configure_logging(verbose)
    settings = connection.settings(
        defaults=task_settings(task) if task else None,
        tables={"run": {"rounds": rounds, "store": store}},
    )
    status = asyncio.run(_serve(settings))
    out.print(summary(settings, status))
    if status["state"] != "finished":
        out.print(f"Stopped at version {status['version']}; the same command goes on from there.", highlight=False)


async def _serve(config: Config) -> dict[str, Any]:
    with RunProgress(config.run.rounds) as progress:
        coordinator = Coordinator(config, on_status=progress.show)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_tell)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, coordinator.stop)
        out.print(
            f"Run [bold]{config.run.name}[/] at version {coordinator.run_state.version}, "
            f"store {location_text(config.store_location())}, broker {config.broker.host}:{config.broker.port}",
            highlight=False,
            soft_wrap=True,
        )
        return await coordinator.run()


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Pass over what aiomqtt leaves behind of a connection that was lost, which the service tells; tell all else."""
    error = context.get("exception")
    of_a_closed_socket = isinstance(error, OSError) and error.errno == errno.EBADF
    if not (of_a_closed_socket or isinstance(error, aiomqtt.MqttError)):
        loop.default_exception_handler(context)


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
