"""`tinyreptile devices`: the devices of a run, as its coordinator knows them."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from coordinator.accounting import DELTA
from coordinator.operator import ask

from .console import configure_logging, epsilon_text, out
from .options import Connection, check_ids, connected

group = typer.Typer(
    help="The devices of a run, as its coordinator knows them.\n\n"
    "Example: [bold]tinyreptile devices list --run kitchen[/]",
    no_args_is_help=True,
)
IdsArgument = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of devices.", callback=check_ids)]


@group.command("list")
@connected
def list_devices(connection: Connection) -> None:
    """List all devices that ever joined, with what came of their work.

    Example: [bold]tinyreptile devices list --run kitchen[/]
    """
    rows = _ask(connection, "devices")
    table = Table(title=f"{len(rows)} devices of the run")
    table.add_column("id", overflow="fold")  # an id that is cut is of no use
    judged = any("standing" in row for row in rows)  # the run has guards.reputation
    standing = ("standing",) if judged else ()
    for column in ("state", "role", "accepted", "refused", "expired", *standing, "last heard of", "note"):
        table.add_column(column)
    for row in rows:
        counts = [str(row.get(name, 0)) for name in ("accepted", "refused", "expired")]
        if judged:
            counts.append(f"{row['standing']:.2f}" if "standing" in row else "")
        quarantine = f"in quarantine: {row['quarantine']}" if "quarantine" in row else ""
        note = quarantine or row.get("error") or row.get("notice") or row.get("trouble", "")
        table.add_row(row["device"], row["state"], row.get("role", ""), *counts, _when(row), escape(note))
    out.print(table)


@group.command()
@connected
def show(
    ids: IdsArgument,
    connection: Connection,
    delta: Annotated[float, typer.Option(min=1e-15, max=0.5, help="That epsilon is told for.")] = DELTA,
) -> None:
    """Show all that is known of devices.

    Example: [bold]tinyreptile devices show kitchen-3 --run kitchen[/]
    """
    for row in _ask(connection, "devices", {"ids": ids}):
        table = Table(title=row.pop("device"), show_header=False)
        row["seen"] = _when(row)
        if "rho" in row:
            row["epsilon"] = epsilon_text(row["rho"], delta)
        for name, value in row.items():
            table.add_row(name, escape(str(value)))
        out.print(table)


@group.command()
@connected
def forget(ids: IdsArgument, connection: Connection) -> None:
    """Forget devices that will not come back, and clear what they left at the broker.

    Example: [bold]tinyreptile devices forget kitchen-3 --run kitchen[/]
    """
    _ask(connection, "forget", {"ids": ids})
    out.print(f"{len(ids)} forgotten", highlight=False)


@group.command()
@connected
def quarantine(
    ids: IdsArgument,
    connection: Connection,
    reason: Annotated[str, typer.Option(help="Why; it is shown with the device.")] = "an operator's decision",
) -> None:
    """Give devices no more work, and take none of it, until they are released.

    Example: [bold]tinyreptile devices quarantine kitchen-3 --reason "a broken sensor" --run kitchen[/]
    """
    _ask(connection, "quarantine", {"ids": ids, "reason": reason})
    out.print(f"{len(ids)} in quarantine", highlight=False)


@group.command()
@connected
def release(ids: IdsArgument, connection: Connection) -> None:
    """Let devices learn again that were in quarantine.

    Example: [bold]tinyreptile devices release kitchen-3 --run kitchen[/]
    """
    _ask(connection, "release", {"ids": ids})
    out.print(f"{len(ids)} released", highlight=False)


def _ask(connection: Connection, command: str, arguments: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    configure_logging(False)
    return asyncio.run(ask(connection.settings(), command, arguments))


def _when(row: dict[str, Any]) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["seen"])) if "seen" in row else ""
