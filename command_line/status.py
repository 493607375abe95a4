"""`tinyreptile status`: a running coordinator and its devices, over MQTT."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from coordinator.errors import CoordinatorError
from coordinator.observer import AGAIN_SECONDS, Outage, look
from coordinator.operator import other_runs

from .console import configure_logging, epsilon_text, goes_on, last_known, loss_text, no_run, out, state_text
from .options import (
    Connection,
    connected,
)


@connected
def command(
    connection: Connection,
    watch: Annotated[bool, typer.Option(help="Keep showing, until Ctrl-C.")] = False,
    most: Annotated[int, typer.Option("--devices", min=0, help="Devices to list at most.")] = 20,
) -> None:
    """Show a run: its version, losses and rates, and its devices.

    Example: [bold]tinyreptile status --broker localhost:1883 --run kitchen[/]
    """
    configure_logging(False)
    settings = connection.settings()
    run = settings.run.name
    snapshot = asyncio.run(look(settings))
    if (status := snapshot.coordinator) is None:
        found = asyncio.run(other_runs(settings.broker))
        raise CoordinatorError(f"{no_run(run, settings.broker, found)}\nBegin it with: tinyreptile serve --run {run}")
    if not watch:
        out.print(_view(run, status, snapshot.devices, most))
        return
    outage = Outage()
    with Live(_view(run, status, snapshot.devices, most), console=out) as live:
        while True:
            try:
                snapshot = asyncio.run(look(settings))
                outage.end()
                if (status := snapshot.coordinator) is None:  # the broker has lost its memory
                    live.update(f"nothing is known of run {run} any more")
                else:
                    live.update(_view(run, status, snapshot.devices, most))
            except CoordinatorError as error:  # the broker may come back, and files that are being renewed
                live.update(escape(f"{error}; trying again"))
                if not out.is_terminal:  # where the view is shown at the end only
                    outage.report(error)
                time.sleep(AGAIN_SECONDS)


def _view(run: str, status: dict[str, Any], known: dict[str, dict[str, Any]], most: int) -> Group:
    table = Table(title=f"Run {run}", show_header=False)
    rounds = f" of {status['rounds']}" if status["rounds"] else ""
    now = goes_on(status)
    rows = {
        "state": state_text(status),
        "mode": status["mode"],
        "version": last_known(status, "version"),
        "updates": f"{last_known(status, 'updates')}{rounds}" + (f", {status['rate']:.1f} a second" if now else ""),
        "in flight": status["in_flight"] if now else "-",
        "training loss": _number(status.get("loss")),
        "staleness": _number(status.get("staleness")),
        "privacy of the device that lost most": "-" if status.get("rho") is None else epsilon_text(status["rho"]),
        "unseen devices": loss_text(status["evaluation"]),
        "round trip p50 / p99": f"{status['round_trip_p50'] * 1e3:.0f} / {status['round_trip_p99'] * 1e3:.0f} ms",
        "refused": ", ".join(f"{v} {k}" for k, v in status["refusals"].items()) or "0",
    }
    for name, value in rows.items():
        table.add_row(name, escape(str(value)))
    states = Counter(f"{d['state']} {d.get('role', '')}".strip() for d in known.values())
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"
    devices = Table(title=f"Devices: {escape(counted)}")
    devices.add_column("id", overflow="fold")  # an id that is cut is of no use
    for column in ("state", "role", "platform", "library", "RAM for a model", "error"):
        devices.add_column(column)
    for device_id, device in sorted(known.items(), key=lambda item: (item[1]["state"], item[0]))[:most]:
        ram = device.get("ram") or 0
        devices.add_row(
            device_id,
            escape(device["state"]),
            escape(device.get("role", "")),
            escape(device.get("platform", "")),
            escape(" ".join(str(device[name]) for name in ("library", "software") if device.get(name))),
            f"{ram:,} bytes" if ram else "not limited" if device["state"] == "online" else "",
            escape(device.get("error") or device.get("notice", "")),
        )
    if len(known) > most:
        devices.caption = f"{len(known) - most} more; --devices shows them"
    return Group(table, devices)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
