"""`tinyreptile revoke`: devices that are lost, stolen or not trusted any more are shut out."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import configure_logging, out
from .provision import RELOAD, FolderArgument, tell_plugin

FORGET = "Then have the coordinator clear what they have left at the broker, and ask them for nothing more:"


def command(
    folder: FolderArgument,
    devices: Annotated[list[str], typer.Argument(metavar="ID...", help="The devices.")],
) -> None:
    """Shut devices out of a fleet for ever: their certificates and passwords are void, their ids are used up.

    The broker has to read its files again. From then on even a device that is connected can do nothing any more.

    Example: [bold]tinyreptile revoke fleet kitchen-2[/]
    """
    from deployment.fleet import load
    from deployment.provision import revoke

    configure_logging(False)
    revoke(folder, devices)
    fleet = load(folder)
    out.print(f"revoked: {', '.join(devices)}", highlight=False, soft_wrap=True)
    if fleet.description.plugin:
        tell_plugin(fleet)
    if not (fleet.description.plugin and fleet.description.passwords):
        out.print(RELOAD, highlight=False, soft_wrap=True)
    out.print(FORGET, highlight=False, soft_wrap=True)
    for run in fleet.description.runs:
        names = [name for name in dict.fromkeys(devices) if fleet.description.revoked[name].run == run]
        config = fleet.run_folder(run) / "operator.toml"
        for verb in ("quarantine", "forget") if names else ():
            command = f"tinyreptile devices {verb} {' '.join(names)} --config {config}"
            out.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)
