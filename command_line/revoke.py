"""`tinyreptile revoke`: devices that are lost, stolen or not trusted any more are shut out."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import configure_logging, out
from .provision import RELOAD, FolderArgument, tell_plugin


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
        if fleet.description.passwords:
            return
    out.print(RELOAD, highlight=False, soft_wrap=True)
