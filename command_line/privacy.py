"""`tinyreptile privacy`: noise, updates and epsilon of private updates, each from the others."""

from __future__ import annotations

import math
from typing import Annotated

import typer
from rich.table import Table

from coordinator.accounting import DELTA, epsilon_of, noise_for, rho_of, updates_for
from coordinator.errors import ConfigError

from .console import out


def command(
    epsilon: Annotated[
        float | None, typer.Option(min=1e-3, max=1e4, help="What may be lost.", show_default=False)
    ] = None,
    delta: Annotated[float, typer.Option(min=1e-15, max=0.5, help="Chance that it is more.")] = DELTA,
    noise: Annotated[
        float | None,
        typer.Option(min=1e-3, max=1e6, help="Its standard deviation, in units of the bound.", show_default=False),
    ] = None,
    updates: Annotated[
        int | None, typer.Option(min=1, max=2**31 - 1, help="How many one device sends.", show_default=False)
    ] = None,
) -> None:
    """Tell the noise, the number of updates or the epsilon of private updates from the other two.

    Example: [bold]tinyreptile privacy --epsilon 8 --updates 200[/]
    """
    complete = noise is not None and updates is not None
    if epsilon is not None and not complete:
        if updates is not None:
            noise = math.ceil(1000 * noise_for(epsilon, delta, updates)) / 1000
        elif noise is not None:
            updates = updates_for(epsilon, delta, noise)
    if noise is None or updates is None or (complete and epsilon is not None):
        raise ConfigError("give two of --epsilon, --noise and --updates, and the third is told")
    table = Table(title="Private updates of one device", show_header=False)
    table.add_row("noise, in units of the bound", f"{noise:g}")
    table.add_row("updates", str(updates))
    table.add_row("epsilon", f"{epsilon_of(updates * rho_of(noise), delta):.4g}")
    table.add_row("delta", f"{delta:g}")
    out.print(table)
