"""The command's entry: its subcommands, and how a mistake of the user is told."""

from __future__ import annotations

import importlib
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from coordinator.errors import CoordinatorError
from tinyreptile import __version__

from .console import Printer, tell_error
from .signals import treat_as_ctrl_c
from .streams import Unwritable, settle

# Each is a module here, with a `command` or a `group` of them; only the one that is called is loaded.
COMMANDS = (
    *("demo", "serve", "swarm", "status", "export", "reproduce", "privacy", "flash", "provision", "revoke"),
    *("data", "device", "devices", "runs"),
)
_OPTIONS: dict[str, Any] = {"pretty_exceptions_enable": False, "rich_markup_mode": "rich"}


class _Group(TyperGroup):
    """Commands; one that is mistyped is answered with those that may be meant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0][:1].isalnum() and not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            meant = " or ".join(self._meant(ctx, args[0])[:3])
            ctx.fail(f"No such command '{args[0]}'." + (f" Did you mean {meant}?" if meant else ""))
        return super().resolve_command(ctx, args)

    def _meant(self, ctx: Any, name: str) -> list[str]:
        """Commands that are written much like ``name``, or so in a group that may be confused with this one."""
        root = ctx.find_root()
        groups = [group for group in COMMANDS if name in _names(root, group)]
        if ctx is not root:
            groups = get_close_matches(ctx.info_name, groups)
        own = get_close_matches(name, self.list_commands(ctx))
        return [f"{root.info_name} {group} {name}" for group in groups] + [f"{ctx.command_path} {n}" for n in own]


def _names(root: Any, group: str) -> list[str]:
    """The commands of ``group``; none if it is a command itself."""
    found = root.command.get_command(root, group)
    return list(found.list_commands(root)) if isinstance(found, TyperGroup) else []


class _Commands(_Group):
    """The subcommands, each loaded when it is asked for."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            Path.cwd()
        except FileNotFoundError:
            raise CoordinatorError("the working folder has been deleted; change to another one") from None
        found = super().resolve_command(ctx, args)
        treat_as_ctrl_c()  # it is loaded, and about to begin
        return found

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{cmd_name}", __package__)
        parent = typer.Typer(**_OPTIONS)
        if hasattr(module, "group"):
            parent.add_typer(module.group, name=cmd_name, cls=_Group)
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


def run() -> str | int | None:
    """Run the command; returns its exit code, which is 1 after a mistake of the user, told in one sentence."""
    code: str | int | None = None
    unwritable: OSError | None = None
    try:
        code = app()
    except SystemExit as end:
        code = end.code
    except Unwritable as error:
        unwritable = error
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:  # a path that was given
            error = CoordinatorError(f"{error.filename}: {error.strerror}")
        if not isinstance(error, _mistakes()):
            raise
        tell_error(error)
        code = 1
    unwritable = settle(sys.stdout) or unwritable
    if unwritable is None or Printer.goes_on:
        return code
    tell_error(CoordinatorError(f"standard output can't be written: {unwritable.strerror}"))
    return code or 1


def _mistakes() -> tuple[type[Exception], ...]:
    """Errors whose text is meant for the user."""
    from boards.errors import BoardError
    from coordinator.errors import CoordinatorError
    from simulator.algorithms import AlgorithmError
    from simulator.data import DataError
    from simulator.demo import DemoError
    from simulator.study import StudyError
    from simulator.tasks import TaskError
    from tinyreptile.device import ConfigError
    from tinyreptile.messages import MessageError

    return (
        *(CoordinatorError, TaskError, DataError, AlgorithmError, StudyError, DemoError),
        *(BoardError, ConfigError, MessageError),
    )
