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

from coordinator.accounting import DELTA, epsilon_of
from coordinator.config import Config
from coordinator.errors import BrokerError, CoordinatorError
from coordinator.observer import Snapshot, look

from .console import configure_logging, loss_text, out, state_text
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
    snapshot = asyncio.run(look(settings))
    if snapshot.coordinator is None:
        raise CoordinatorError(
            f"no coordinator has said anything of run {settings.run.name}; "
            f"begin it with: tinyreptile serve --run {settings.run.name}"
        )
    if not watch:
        out.print(_view(settings, snapshot, most))
        return
    with Live(_view(settings, snapshot, most), console=out) as live:
        while True:
            try:
                live.update(_view(settings, asyncio.run(look(settings)), most))
            except BrokerError as error:  # it may come back
                live.update(escape(str(error)))
                time.sleep(1)


def _view(settings: Config, snapshot: Snapshot, most: int) -> Group:
    status: dict[str, Any] = snapshot.coordinator or {}
    table = Table(title=f"Run {settings.run.name}", show_header=False)
    rounds = f" of {status['rounds']}" if status.get("rounds") else ""
    rows = {
        "state": state_text(status) if status else None,
        "mode": status.get("mode"),
        "version": status.get("version"),
        "updates": f"{status.get('updates')}{rounds}, {status.get('rate', 0):.1f} a second",
        "in flight": status.get("in_flight"),
        "training loss": _number(status.get("loss")),
        "staleness": _number(status.get("staleness")),
        "privacy of the device that lost most": _epsilon(status.get("rho")),
        "unseen devices": loss_text(status.get("evaluation") or {}),
        "round trip p50 / p99": " / ".join(f"{status.get(f'round_trip_{p}', 0) * 1e3:.0f}" for p in ("p50", "p99"))
        + " ms",
        "refused": ", ".join(f"{v} {k}" for k, v in (status.get("refusals") or {}).items()) or "0",
    }
    for name, value in rows.items():
        table.add_row(name, escape(str(value)))
    states = Counter(f"{d['state']} {d.get('role', '')}".strip() for d in snapshot.devices.values())
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"
    devices = Table(title=f"Devices: {escape(counted)}")
    devices.add_column("id", overflow="fold")  # an id that is cut is of no use
    for column in ("state", "role", "platform", "library", "RAM for a model", "error"):
        devices.add_column(column)
    for device_id, device in sorted(snapshot.devices.items(), key=lambda item: (item[1]["state"], item[0]))[:most]:
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
    if len(snapshot.devices) > most:
        devices.caption = f"{len(snapshot.devices) - most} more; --devices shows them"
    return Group(table, devices)


def _epsilon(rho: float | None) -> str:
    if rho is None:
        return "-"
    try:
        return f"epsilon {epsilon_of(rho):.4g} at delta {DELTA:g}"
    except CoordinatorError:
        return f"rho {rho:.4g}; pip install 'tinyreptile[privacy]' for its epsilon"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
