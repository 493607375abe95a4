"""`tinyreptile flash`: from a bare board to a member of the fleet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from boards.errors import BoardError
from boards.keys import read_key

from .console import out
from .options import PortOption

if TYPE_CHECKING:
    from boards.board import Board

_BEGIN_SECONDS = 60


def command(
    config: Annotated[Path, typer.Argument(help="The board's configuration, JSON; see docs/boards.md.")],
    port: PortOption = None,
    board_id: Annotated[
        str | None, typer.Option("--id", help="The board's id, in place of the file's.", show_default=False)
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file", help="Key that updates over MQTT are signed with; made if absent.", show_default=False
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option(help="Seconds to watch whether it joins; 0: do not wait.", min=0)
    ] = _BEGIN_SECONDS,
) -> None:
    """Put the library and a configuration on the board that is plugged in, and start it.

    The board needs MicroPython 1.24 or later. Flashing again writes only what has changed.

    Example: [bold]tinyreptile flash kitchen.json --id kitchen-3 --key-file fleet.key[/]
    """
    from boards.board import Board, find_port
    from boards.flash import install, plan, settings

    key = read_key(key_file, create=True) if key_file else None
    chosen, files = settings(config, board_id, key)
    with Board(find_port(port)) as board:
        board.stop()
        about = board.about()
        version = ".".join(map(str, about.version))
        out.print(
            f"{about.machine} at {board.port}: MicroPython {version}, {about.chip}, "
            f"{about.flash // 1024:,} KB of flash free, {about.heap // 1024:,} KB of heap",
            highlight=False,
            soft_wrap=True,
        )
        with Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), DownloadColumn(), console=out, transient=True
        ) as bar:
            task = bar.add_task("compiling", total=None)
            made = plan(about, chosen, files, lambda name: bar.update(task, description=f"compiling {name}"))
            written = install(
                board,
                made,
                lambda name, done, total: bar.update(task, description=name, completed=done, total=total),
            )
        told = f"{written:,} bytes written and verified" if written else "nothing to write, all of it is there"
        out.print(f"{told}; it starts as {chosen['id']}", highlight=False, soft_wrap=True)
        board.restart()
        if wait:
            _watch_it_join(board, wait)


def _watch_it_join(board: Board, seconds: float) -> None:
    """Show what the board says until it has joined; raises `BoardError` if it does not."""
    for line in board.follow(seconds):
        if line:
            out.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
        if "joined run" in line:
            return
        if line.startswith("error: ") and not line.endswith("if there is one"):
            raise BoardError("the board can't use its configuration; see above")
    raise BoardError(
        f"it has not joined within {seconds:g} s; does it reach the broker, and is there a coordinator? "
        "tinyreptile device monitor goes on watching it"
    )
