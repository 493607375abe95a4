"""The command's entry: its subcommands, and how a mistake of the user is told."""

from __future__ import annotations

import sys

import typer

from coordinator.errors import CoordinatorError
from tinyreptile import __version__

from . import (
    data,
    demo,
    device,
    devices,
    export,
    flash,
    privacy,
    provision,
    reproduce,
    revoke,
    runs,
    serve,
    status,
    swarm,
)
from .console import tell_error

app = typer.Typer(
    name="tinyreptile",
    help="A fleet of microcontrollers learns, over MQTT, an initialization that each device adapts to its own data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tinyreptile {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Options before a subcommand."""


for module in (demo, serve, swarm, status, export, reproduce, privacy, flash, provision, revoke):
    app.command(name=module.__name__.rpartition(".")[2])(module.command)
app.add_typer(data.group, name="data")
app.add_typer(device.group, name="device")
app.add_typer(devices.group, name="devices")
app.add_typer(runs.group, name="runs")


def run() -> None:
    """Run the command; a mistake of the user ends in one sentence and exit code 1."""
    from boards.errors import BoardError
    from simulator.algorithms import AlgorithmError
    from simulator.data import DataError
    from simulator.study import StudyError
    from simulator.tasks import TaskError
    from tinyreptile.device import ConfigError
    from tinyreptile.messages import MessageError

    try:
        app()
    except (
        *(CoordinatorError, TaskError, DataError, AlgorithmError, StudyError),
        *(BoardError, ConfigError, MessageError),
    ) as error:
        tell_error(error)
        sys.exit(1)
