"""`tinyreptile runs`: the runs at a broker, and what an operator does to one while it is going on."""

from __future__ import annotations

import asyncio
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from coordinator.config import shown, value_of
from coordinator.errors import ConfigError, CoordinatorError
from coordinator.operator import ask, runs

from .console import configure_logging, goes_on, last_known, loss_text, out, state_text
from .options import Connection, connected

group = typer.Typer(
    help="See the runs at a broker, and steer one.\n\nExample: [bold]tinyreptile runs list[/]", no_args_is_help=True
)


@group.command("list")
@connected
def list_runs(connection: Connection) -> None:
    """List the runs at a broker.

    Example: [bold]tinyreptile runs list --broker localhost:1883[/]
    """
    configure_logging(False)
    settings = connection.settings()
    found = asyncio.run(runs(settings.broker))
    if not found:
        raise CoordinatorError(f"no run has ever been at {settings.broker.host}:{settings.broker.port}")
    table = Table()
    for column in ("run", "state", "version", "updates", "devices", "unseen devices"):
        table.add_column(column)
    for name, status in sorted(found.items()):
        rounds = f" of {status['rounds']}" if status["rounds"] else ""
        table.add_row(
            name,
            escape(state_text(status)),
            last_known(status, "version"),
            f"{last_known(status, 'updates')}{rounds}",
            str(status["devices"]) if goes_on(status) else "-",
            loss_text(status["evaluation"]),
        )
    out.print(table)


@group.command()
@connected
def pause(connection: Connection) -> None:
    """Hand out no more work, also after a restart, until it is resumed; what is out is still taken.

    Example: [bold]tinyreptile runs pause --run kitchen[/]
    """
    run, _ = _ask(connection, "pause")
    out.print(f"{run} is paused", highlight=False)


@group.command()
@connected
def resume(connection: Connection) -> None:
    """Hand out work again.

    Example: [bold]tinyreptile runs resume --run kitchen[/]
    """
    run, _ = _ask(connection, "resume")
    out.print(f"{run} goes on", highlight=False)


@group.command()
@connected
def drain(connection: Connection) -> None:
    """End the coordinator once the work that is out has come back; started again it goes on.

    Example: [bold]tinyreptile runs drain --run kitchen[/]
    """
    run, _ = _ask(connection, "drain")
    out.print(f"{run} ends when its work is back", highlight=False)


@group.command("set")
@connected
def set_(
    values: Annotated[list[str], typer.Argument(metavar="TABLE.KEY=VALUE...", help="As in the configuration file.")],
    connection: Connection,
) -> None:
    """Change settings of a run that is going on; they stand until they are unset, also after a restart.

    Example: [bold]tinyreptile runs set learning.alpha=0.1 learning.in_flight=50 --run kitchen[/]
    """
    changes = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{shown(text)} is not TABLE.KEY=VALUE, as learning.alpha=0.1")
        if not name:
            raise ConfigError(f"the name of a setting is missing in {shown(text)}; write TABLE.KEY=VALUE")
        changes[name] = value_of(name, value, f"setting: {name}")
    _show_settings(_ask(connection, "set", changes)[1])


@group.command()
@connected
def unset(
    names: Annotated[list[str], typer.Argument(metavar="TABLE.KEY...", help="Settings that were changed.")],
    connection: Connection,
    store: Annotated[
        str | None,
        typer.Option(help="The store of a run that nobody serves: change it there.", show_default=False),
    ] = None,
) -> None:
    """Give settings back to the configuration file.

    Example: [bold]tinyreptile runs unset learning.alpha --run kitchen[/]

    Example: [bold]tinyreptile runs unset run.rounds --store kitchen.sqlite[/]
    """
    if store is None:
        _show_settings(_ask(connection, "set", dict.fromkeys(names))[1])
        return
    from coordinator.entries import Setting
    from coordinator.store import Store

    opened = Store(store, connection.run or "default", create=False)
    try:
        absent = [name for name in names if name not in opened.settings()]
        if absent:
            raise ConfigError(f"{store}: {', '.join(absent)} was not changed while the run went on")
        opened.write([Setting(name, None) for name in names])
        left = [{"setting": name, "value": value} for name, value in sorted(opened.settings().items())]
    finally:
        opened.close()
    _show_settings(left)


@group.command("settings")
@connected
def changed_settings(connection: Connection) -> None:
    """Show the settings that were changed while the run was going on.

    Example: [bold]tinyreptile runs settings --run kitchen[/]
    """
    _show_settings(_ask(connection, "settings")[1])


@group.command()
@connected
def versions(connection: Connection) -> None:
    """Show the checkpoints: these versions can be gone back to, and all that lie between the latest of them.

    Example: [bold]tinyreptile runs versions --run kitchen[/]
    """
    _show(_ask(connection, "versions")[1], "version", "updates")


@group.command()
@connected
def rollback(
    version: Annotated[int, typer.Argument(metavar="VERSION", min=0, help="An earlier version.")],
    connection: Connection,
) -> None:
    """Go back to an earlier version: its weights become a new version, which all devices learn from next.

    Example: [bold]tinyreptile runs rollback 1200 --run kitchen[/]
    """
    _, rows = _ask(connection, "rollback", {"version": version})
    out.print(f"version {rows[0]['version']} has the weights of version {version}", highlight=False)


@group.command()
@connected
def events(connection: Connection) -> None:
    """Show what operators and guards did to the run.

    Example: [bold]tinyreptile runs events --run kitchen[/]
    """
    _, rows = _ask(connection, "events")
    for row in rows:
        row["at"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["at"]))
    _show(rows, "at", "version", "kind", "text")


@group.command()
def backup(
    store: Annotated[str, typer.Argument(help="The SQLite file of a run.")],
    copy: Annotated[str, typer.Argument(help="A new file.")],
) -> None:
    """Copy a run's store, also while its coordinator is writing to it.

    Example: [bold]tinyreptile runs backup kitchen.sqlite kitchen-monday.sqlite[/]
    """
    from coordinator.databases import copy_sqlite, file_of

    with out.status(f"copying {escape(store)}"):
        copy_sqlite(file_of(store), file_of(copy))
    out.print(f"{copy}: {Path(copy).stat().st_size:,} bytes", highlight=False)


@group.command()
def restore(
    copy: Annotated[str, typer.Argument(help="What runs backup has made.")],
    store: Annotated[str, typer.Argument(help="The run's SQLite file; its coordinator must not run.")],
) -> None:
    """Put a back-up in the place of a run's store; what was there is kept beside it.

    Example: [bold]tinyreptile runs restore kitchen-monday.sqlite kitchen.sqlite[/]
    """
    from coordinator.databases import file_of, restore_sqlite

    with out.status(f"copying {escape(copy)}"):
        kept = restore_sqlite(file_of(copy), file_of(store))
    out.print(f"{store} is what {copy} was" + (f"; the store before is {kept}" if kept else ""), highlight=False)


@group.command()
def check(
    store: Annotated[str, typer.Argument(help="An SQLite file or a postgresql:// URL; its coordinator must not run.")],
    run: Annotated[str, typer.Option(help="The run's name, in PostgreSQL.")] = "default",
) -> None:
    """Check a store: replay its deltas, and hold the result against its checkpoints, bit for bit.

    An SQLite file is only read: what is replayed is a copy of it in the folder for temporary files.

    Example: [bold]tinyreptile runs check kitchen-monday.sqlite[/]
    """
    from coordinator import replay
    from coordinator.databases import file_of, snapshot
    from coordinator.store import Store

    with nullcontext(store) if "://" in store else snapshot(file_of(store)) as place:
        opened = Store(str(place), run, create=False, shown="" if "://" in store else store)
        try:
            properties = opened.properties()
            with out.status("replaying"):
                count = replay.check(opened, replay.model_of(opened))
            versions = opened.checkpoint_versions()
        finally:
            opened.close()
    out.print(
        f"run {properties['run']}: {len(versions)} checkpoints to version {versions[-1][0]}; {count} updates replayed "
        "between them, each with equal bits",
        highlight=False,
    )


def _ask(
    connection: Connection, command: str, arguments: dict[str, Any] | None = None
) -> tuple[str, list[dict[str, Any]]]:
    """(the run's name, the rows with which its coordinator answers)."""
    configure_logging(False)
    settings = connection.settings()
    return settings.run.name, asyncio.run(ask(settings, command, arguments))


def _show_settings(rows: list[dict[str, Any]]) -> None:
    if rows:
        _show(rows, "setting", "value", "configured")
    else:
        out.print("all settings are as configured")


def _show(rows: list[dict[str, Any]], *columns: str) -> None:
    table = Table()
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(escape(str(row.get(column, ""))) for column in columns))
    out.print(table)
