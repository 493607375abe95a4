"""`tinyreptile device`: boards that have been flashed, by their cable or over MQTT."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from boards import remote, updates
from boards.errors import BoardError
from boards.keys import read_key
from boards.library import compiled, library, new_number
from coordinator.config import Config
from coordinator.documents import parse_json
from coordinator.errors import CoordinatorError
from coordinator.observer import AGAIN_SECONDS, Outage, look
from tinyreptile.settings import SECRETS

from .console import configure_logging, err, out, warnings_above
from .options import (
    Connection,
    PortOption,
    TimeoutOption,
    check_ids,
    connected,
)

group = typer.Typer(
    help="Look after boards: by their cable, or over MQTT.\n\n"
    "Example: [bold]tinyreptile device logs kitchen-1 --run kitchen[/]",
    no_args_is_help=True,
)
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The device's id.", callback=check_ids)]


@group.command()
def monitor(port: PortOption = None) -> None:
    """Show what the board on the cable prints, until Ctrl-C.

    Example: [bold]tinyreptile device monitor[/]
    """
    from boards.board import Board, find_port

    with Board(find_port(port)) as board:
        err.print(f"watching {board.port}; Ctrl-C ends it", highlight=False, markup=False, soft_wrap=True)
        for line in board.follow():
            if line:
                out.print(line, highlight=False, markup=False, soft_wrap=True)


@group.command()
def config(port: PortOption = None, timeout: TimeoutOption = 20) -> None:
    """Show the configuration of the board on the cable, without its secrets, and restart it.

    To change it, change your file and flash again: only what is different is written.

    Example: [bold]tinyreptile device config[/]
    """
    from boards.board import Board, find_port
    from boards.flash import CONFIG

    with Board(find_port(port), timeout) as board:
        board.stop()
        try:
            text = board.read(CONFIG)
        finally:
            board.restart()
    if text is None:
        raise BoardError("this board has no configuration: tinyreptile flash gives it one")
    try:
        given = parse_json(text.decode())
        shown = _without_secrets(given)
    except (ValueError, AttributeError):
        raise BoardError("its configuration is damaged: tinyreptile flash writes a new one") from None
    out.print_json(data=shown)


def _without_secrets(given: dict[str, Any]) -> dict[str, Any]:
    shown = {}
    for name, value in given.items():
        if isinstance(value, dict):
            value = _without_secrets(value)
        elif name in SECRETS and value:
            value = "(secret)"
        shown[name] = value
    return shown


@group.command()
@connected
def logs(
    connection: Connection,
    device_id: IdArgument,
) -> None:
    """Show the newest lines of a board's log, with the seconds since it started.

    Example: [bold]tinyreptile device logs kitchen-3 --run kitchen[/]
    """
    configure_logging(False)
    settings = connection.settings()
    for line in asyncio.run(remote.log_of(settings, device_id)):
        out.print(line, highlight=False, markup=False, soft_wrap=True)


@group.command()
@connected
def predictions(
    connection: Connection,
    device_id: IdArgument,
) -> None:
    """Show what a board predicts, until Ctrl-C; its configuration says how often it does.

    Example: [bold]tinyreptile device predictions kitchen-3 --run kitchen[/]
    """
    configure_logging(False)
    settings = connection.settings()
    status = asyncio.run(look(settings)).devices.get(device_id, {})
    told = f"listening to {device_id}, which is {status.get('state', 'not known to the run')}; Ctrl-C ends it"
    err.print(told, highlight=False, markup=False, soft_wrap=True)

    async def show() -> None:
        async for prediction in remote.predictions(settings, device_id):
            out.print(_in_words(prediction), highlight=False, soft_wrap=True)

    asyncio.run(show())


def _in_words(prediction: dict[str, Any]) -> str:
    if "label" in prediction:
        text = f"label {prediction['label']}, {prediction.get('probability', 0):.0%}"
    else:
        text = ", ".join(f"{value:.3f}" for value in prediction.get("outputs", []))
    if "loss" in prediction:
        text += f"; loss of late {prediction['loss']:.4f}"
    return f"{text}; {prediction['steps']} samples since version {prediction['version']}"


@group.command()
@connected
def reset(
    connection: Connection,
    device_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]", help="The device's id; without one, the board on the cable.", callback=check_ids
        ),
    ] = None,
    port: PortOption = None,
    timeout: TimeoutOption = 20,
) -> None:
    """Restart a board: one that is online by its id, or the one on the cable.

    Example: [bold]tinyreptile device reset kitchen-3 --run kitchen[/]
    """
    configure_logging(False)
    if device_id is None:
        from boards.board import Board, find_port

        with Board(find_port(port), timeout) as board:
            board.stop()
            board.restart()
        out.print("restarted")
        return
    settings = connection.settings()
    with out.status(f"{escape(device_id)} restarts"):
        asyncio.run(remote.restart(settings, device_id))
    out.print(f"{device_id} is online again", highlight=False)


@group.command()
@connected
def update(
    connection: Connection,
    key_file: Annotated[Path, typer.Option("--key-file", help="The key that the boards were flashed with.")],
    wait: Annotated[float, typer.Option(help="Seconds to watch the boards take it; 0: do not wait.", min=0)] = 600,
) -> None:
    """Send this version of the library to every board of a run that was flashed with a key.

    A board installs it beside the old one and restarts. If the new one does not come up, it goes back to the old.

    Example: [bold]tinyreptile device update --key-file fleet.key --run kitchen[/]
    """
    configure_logging(False)
    settings = connection.settings()
    key = read_key(key_file)
    fleet = asyncio.run(updates.boards_of(settings))
    if not fleet:
        raise BoardError(f"no board of run {settings.run.name} takes updates: flash them with --key-file")
    asyncio.run(updates.check_key(settings, key, fleet))
    number = max(new_number(), *(max(board.number, board.failed) + 1 for board in fleet.values()))
    wanted = {name for name, board in fleet.items() if board.online}
    with (
        Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), console=out, transient=True
        ) as bar,
        warnings_above(bar.live),
    ):
        for chip in sorted({board.chip for board in fleet.values()}):
            size = _publish(settings, bar, chip, number, key)
            out.print(f"version {number} for {chip}: {size:,} bytes", highlight=False)
        if not wait:
            return
        done, failed = _watch(settings, bar, number, wanted, wait)
    out.print(f"{len(done & wanted)} of {len(wanted)} boards that are online run version {number}", highlight=False)
    if len(fleet) > len(wanted):
        out.print(f"{len(fleet) - len(wanted)} offline will take it when they are back", highlight=False)
    complaints = []
    if failed:
        complaints.append(f"it did not come up, and the one before runs again, on {', '.join(sorted(failed))}")
    if late := sorted(wanted - done - failed):
        complaints.append(f"not updated within {wait:g} s: {', '.join(late)}")
    if complaints:
        raise BoardError(f"{'; '.join(complaints)}; tinyreptile device logs ID says why")


def _publish(settings: Config, bar: Progress, chip: str, number: int, key: str) -> int:
    """Publish the library for ``chip``; returns the bytes of its image."""
    task = bar.add_task(f"compiling for {chip}", total=None)
    offer = updates.make_offer(chip, number, compiled(library(chip), chip, progress=lambda name: bar.update(task)))
    bar.update(task, description=f"publishing for {chip}")

    def show(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)

    asyncio.run(updates.publish(settings, offer, key, show))
    return len(offer.image)


def _watch(settings: Config, bar: Progress, number: int, wanted: set[str], seconds: float) -> tuple[set[str], set[str]]:
    """(boards that run version ``number``, those that gave it up) once that is all ``wanted``, or after ``seconds``."""
    task = bar.add_task("boards that run it", total=len(wanted))
    end = time.monotonic() + seconds
    done: set[str] = set()
    failed: set[str] = set()
    outage = Outage()
    while True:
        try:
            fleet = asyncio.run(updates.boards_of(settings))
        except CoordinatorError as error:  # the broker may come back, and files that are being renewed
            outage.report(error)
        else:
            outage.end()
            done = {name for name, board in fleet.items() if board.number == number and board.online}
            failed = {name for name, board in fleet.items() if board.failed == number}
            bar.update(task, completed=len(done & wanted))
        if wanted <= done | failed or time.monotonic() > end:
            return done, failed
        time.sleep(AGAIN_SECONDS)
