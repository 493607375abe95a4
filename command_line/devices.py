"""`tinyreptile devices`: the devices of a run, as its coordinator knows them."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from coordinator.config import Config
from coordinator.operator import ask

from .console import out
from .options import connected

group = typer.Typer(
    name="devices",
    help="The devices of a run, as its coordinator knows them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
IdsArgument = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of devices.")]


@group.command("list")
@connected
def list_devices(settings: Config) -> None:
    """List all devices that ever joined, with what came of their work.

    Example: [bold]tinyreptile devices list --run kitchen[/]
    """
    rows = asyncio.run(ask(settings, "devices"))
    table = Table(title=f"{len(rows)} devices of run {settings.run.name}")
    for column in ("id", "state", "role", "accepted", "refused", "expired", "last heard of", "note"):
        table.add_column(column)
    for row in rows:
        counts = (str(row.get(name, 0)) for name in ("accepted", "refused", "expired"))
        quarantine = f"in quarantine: {row['quarantine']}" if "quarantine" in row else ""
        note = quarantine or row.get("error", "")
        table.add_row(row["device"], row["state"], row.get("role", ""), *counts, _when(row), escape(note))
    out.print(table)


@group.command()
@connected
def show(ids: IdsArgument, settings: Config) -> None:
    """Show all that is known of devices.

    Example: [bold]tinyreptile devices show kitchen-3 --run kitchen[/]
    """
    for row in asyncio.run(ask(settings, "devices", {"ids": ids})):
        table = Table(title=row.pop("device"), show_header=False)
        row["seen"] = _when(row)
        for name, value in row.items():
            table.add_row(name, escape(str(value)))
        out.print(table)


@group.command()
@connected
def forget(ids: IdsArgument, settings: Config) -> None:
    """Forget devices that will not come back, and clear what they left at the broker.

    Example: [bold]tinyreptile devices forget kitchen-3 --run kitchen[/]
    """
    asyncio.run(ask(settings, "forget", {"ids": ids}))
    out.print(f"{len(ids)} forgotten", highlight=False)


@group.command()
@connected
def quarantine(
    ids: IdsArgument,
    settings: Config,
    reason: Annotated[str, typer.Option(help="Why; it is shown with the device.")] = "an operator's decision",
) -> None:
    """Give devices no more work, and take none of it, until they are released.

    Example: [bold]tinyreptile devices quarantine kitchen-3 --reason "a broken sensor" --run kitchen[/]
    """
    asyncio.run(ask(settings, "quarantine", {"ids": ids, "reason": reason}))
    out.print(f"{len(ids)} in quarantine", highlight=False)


@group.command()
@connected
def release(ids: IdsArgument, settings: Config) -> None:
    """Let devices learn again that were in quarantine.

    Example: [bold]tinyreptile devices release kitchen-3 --run kitchen[/]
    """
    asyncio.run(ask(settings, "release", {"ids": ids}))
    out.print(f"{len(ids)} released", highlight=False)


def _when(row: dict[str, Any]) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["seen"])) if "seen" in row else ""
