"""`tinyreptile revoke`: devices that are lost, stolen or not trusted any more are shut out, roles get new keys."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import configure_logging, out
from .provision import RELOAD, FolderArgument, tell_plugin

FORGET = "Then have the coordinator clear what they have left at the broker, and ask them for nothing more:"


RESTART = "Then restart the broker, systemctl restart mosquitto: a session that is open would keep its rights."


def command(
    folder: FolderArgument,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Devices, or roles such as observer@RUN.")],
) -> None:
    """Shut devices out of a fleet for ever: their certificates and passwords are void, their ids are used up.

    The broker has to read its files again. From then on even a device that is connected can do nothing any more.

    A role's credentials are void, too, and it gets new ones.

    Example: [bold]tinyreptile revoke fleet kitchen-2[/]

    Example, an observer's: [bold]tinyreptile revoke fleet observer@kitchen[/]
    """
    from deployment.fleet import load
    from deployment.provision import revoke

    configure_logging(False)
    revoke(folder, names)
    fleet = load(folder)
    devices = [name for name in dict.fromkeys(names) if name in fleet.description.revoked]
    roles = [name for name in dict.fromkeys(names) if name not in fleet.description.revoked]
    out.print(f"revoked: {', '.join(names)}", highlight=False, soft_wrap=True)
    if fleet.description.plugin:
        tell_plugin(fleet, roles)
    for name in roles:
        role, _, run = name.partition("@")
        where = fleet.run_folder(run) / f"{role}.*"
        out.print(f"new credentials of {name}: {where}", highlight=False, markup=False, soft_wrap=True)
    if roles and not fleet.description.passwords:
        out.print(RESTART, highlight=False, soft_wrap=True)
    elif not (fleet.description.plugin and fleet.description.passwords):
        out.print(RELOAD, highlight=False, soft_wrap=True)
    if devices:
        out.print(FORGET, highlight=False, soft_wrap=True)
    for run in fleet.description.runs:
        forgotten = [name for name in devices if fleet.description.revoked[name].run == run]
        config = fleet.run_folder(run) / "operator.toml"
        for verb in ("quarantine", "forget") if forgotten else ():
            command = f"tinyreptile devices {verb} {' '.join(forgotten)} --config {config}"
            out.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)
