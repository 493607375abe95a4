"""`tinyreptile provision`: the credentials of a fleet and the files of its broker, made or added to."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from coordinator.errors import BrokerError
from tinyreptile.messages import EVALUATE, TRAIN

from .console import configure_logging, err, out

if TYPE_CHECKING:
    from deployment.fleet import Fleet


class Role(StrEnum):
    """What a device does in its run."""

    TRAIN = TRAIN
    EVALUATE = EVALUATE


FolderArgument = Annotated[Path, typer.Argument(help="The fleet's folder.")]


def command(
    folder: FolderArgument,
    devices: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Devices that the run gets.")] = None,
    run: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The devices' run; left out where the fleet has one.", show_default=False),
    ] = None,
    role: Annotated[
        Role | None,
        typer.Option(
            help="What the new devices do: train, or evaluate, held out \\[default: train].", show_default=False
        ),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or address of the broker; once for each, the first for the clients.", show_default=False
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Its port for devices \\[default: 8883].", show_default=False)
    ] = None,
    roles_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="Its port for everybody else \\[default: the one after --port].",
            show_default=False,
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Where the broker listens; all: on every interface \\[default: the first --host].",
            show_default=False,
        ),
    ] = None,
    passwords: Annotated[bool, typer.Option("--passwords", help="Passwords in place of certificates.")] = False,
    dynamic_security: Annotated[
        bool,
        typer.Option("--dynamic-security", help="Rights in Mosquitto's plugin, which takes changes while it runs."),
    ] = False,
    plugin: Annotated[
        Path | None, typer.Option(help="Where the broker has that plugin \\[default: found].", show_default=False)
    ] = None,
    broker_user: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="System user that Mosquitto runs as \\[default: you].", show_default=False),
    ] = None,
    broker_folder: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Where the folder broker will lie on the broker's machine \\[default: where it is].",
            show_default=False,
        ),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long new certificates are valid.")] = 1095,
    renew: Annotated[
        int | None,
        typer.Option(metavar="DAYS", min=0, help="Make certificates anew that end within so many days."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Also into a folder of another user's, or with other things in it.")
    ] = False,
) -> None:
    """Make the credentials of a fleet and its broker's files, or add a run or devices to them.

    What is there stays as it is, so the same command may be given again, after an interruption for example.

    Example: [bold]tinyreptile provision fleet --host broker.example --run kitchen kitchen-1 kitchen-2[/]

    Example, held-out devices for it: [bold]tinyreptile provision fleet --role evaluate kitchen-8 kitchen-9[/]

    Example, a second run of the fleet: [bold]tinyreptile provision fleet --run garden garden-1[/]
    """
    from deployment.fleet import load
    from deployment.provision import Wish, provision, whose

    configure_logging(False)
    if not yes and sys.stdin.isatty() and (owner := whose(folder)):
        typer.confirm(f"{owner}. Put the fleet there?", abort=True)
        yes = True
    first = not (folder / "broker" / "dynamic-security.json").exists()
    wish = Wish(
        hosts=host or [],
        port=port,
        roles_port=roles_port,
        listen=listen,
        passwords=passwords,
        plugin=str(plugin) if plugin else "" if dynamic_security else None,
        broker_user=broker_user,
        broker_folder=broker_folder,
        run=run,
        devices=devices or [],
        role=role.value if role else None,
        days=days,
        renew=renew,
        anyway=yes,
    )
    with _bar() as bar:
        task = bar.add_task("credentials", total=None)
        new = provision(folder, wish, lambda done, total: bar.update(task, completed=done, total=total))
    fleet = load(folder)
    knows_all = first and fleet.plugin_state.exists()
    runs, count = ", ".join(fleet.description.runs), len(fleet.description.devices)
    out.print(f"{folder}: {count} devices of {runs}; credentials made for {len(new)}", highlight=False, soft_wrap=True)
    if fleet.description.plugin and not knows_all:
        try:
            tell_plugin(fleet)
        except BrokerError as error:
            err.print(f"The broker does not know of this yet: {error}", highlight=False, soft_wrap=True)
            err.print("When it runs, the same command tells it.", highlight=False)
    elif new:
        out.print(RELOAD, highlight=False, soft_wrap=True)
    out.print(f"Broker: mosquitto -c {fleet.broker / 'mosquitto.conf'}", highlight=False, soft_wrap=True)
    for name in fleet.description.runs:
        path = fleet.run_folder(name) / "coordinator.toml"
        out.print(f"Coordinator: tinyreptile serve --config {path}", highlight=False, soft_wrap=True)


RELOAD = "A broker that runs already reads its new files upon kill -HUP PID, or systemctl reload mosquitto."


def tell_plugin(fleet: Fleet, anew: Iterable[str] = ()) -> None:
    """Tell the dynamic-security plugin of the running broker who is in ``fleet``, and who not; raises `BrokerError`.

    The accounts of the users ``anew`` are made once more.
    """
    from deployment.dynamic_security import apply

    with _bar() as bar:
        task = bar.add_task("telling the broker", total=None)
        asyncio.run(apply(fleet, lambda done, total: bar.update(task, completed=done, total=total), anew))
    out.print("The broker knows of it.")


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        console=out,
        transient=True,
        disable=not out.is_terminal,
    )
