"""The command's entry: its subcommands, and how a mistake of the user is told."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from tinyreptile import __version__

from .console import tell_error

# Each is a module here, with a `command` or a `group` of them; only the one that is called is loaded.
COMMANDS = (
    *("demo", "serve", "swarm", "status", "export", "reproduce", "privacy", "flash", "provision", "revoke"),
    *("data", "device", "devices", "runs"),
)
_OPTIONS: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": "rich"}


class _Commands(TyperGroup):
    """The subcommands, each loaded when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{cmd_name}", __package__)
        parent = typer.Typer(**_OPTIONS)
        if hasattr(module, "group"):
            parent.add_typer(module.group, name=cmd_name)
        else:
            parent.command(cmd_name)(module.command)
        parent.callback()(lambda: None)  # so that it is a group, of one
        return typer.main.get_group(parent).commands[cmd_name]


app = typer.Typer(
    name="tinyreptile",
    cls=_Commands,
    help="A fleet of microcontrollers learns, over MQTT, an initialization that each device adapts to its own data.",
    no_args_is_help=True,
    **_OPTIONS,
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


def run() -> None:
    """Run the command; a mistake of the user ends in one sentence and exit code 1."""
    try:
        app()
    except Exception as error:
        if not isinstance(error, _mistakes()):
            raise
        tell_error(error)
        sys.exit(1)


def _mistakes() -> tuple[type[Exception], ...]:
    """Errors whose text is meant for the user."""
    from boards.errors import BoardError
    from coordinator.errors import CoordinatorError
    from simulator.algorithms import AlgorithmError
    from simulator.data import DataError
    from simulator.study import StudyError
    from simulator.tasks import TaskError
    from tinyreptile.device import ConfigError
    from tinyreptile.messages import MessageError

    return (
        *(CoordinatorError, TaskError, DataError, AlgorithmError, StudyError),
        *(BoardError, ConfigError, MessageError),
    )
