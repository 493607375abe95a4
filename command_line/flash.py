"""`tinyreptile flash`: from a bare board to a member of the fleet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from boards.errors import BoardError
from boards.keys import read_key

from .console import err, out
from .options import CredentialsOption, PortOption, TimeoutOption, check_ids

if TYPE_CHECKING:
    from boards.board import Board

_BEGIN_SECONDS = 60


def command(
    config: Annotated[Path, typer.Argument(help="The board's configuration, JSON; see docs/boards.md.")],
    port: PortOption = None,
    board_id: Annotated[
        str | None,
        typer.Option("--id", help="The board's id, in place of the file's.", show_default=False, callback=check_ids),
    ] = None,
    fleet: CredentialsOption = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file", help="Key that updates over MQTT are signed with; made if absent.", show_default=False
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option(help="Seconds to watch whether it joins; 0: do not wait.", min=0)
    ] = _BEGIN_SECONDS,
    timeout: TimeoutOption = 20,
) -> None:
    """Put the library and a configuration on the board that is plugged in, and start it.

    The board needs MicroPython 1.24 or later. Flashing again writes only what has changed.

    Example: [bold]tinyreptile flash kitchen.json --id kitchen-3 --key-file fleet.key[/]
    """
    from boards.board import Board, find_port
    from boards.flash import settings

    key = read_key(key_file, create=True) if key_file else None
    chosen, files = settings(config, board_id, key, fleet)
    with Board(find_port(port), timeout) as board:
        board.stop()
        try:
            _bring_up_to_date(board, chosen, files)
        except BaseException:  # Ctrl-C, too: nobody else would start it again
            if board.restart():
                told = "the board was restarted with what it had; flashing it again goes on from here"
            else:
                told = "the board may stand still: its reset button starts it; flashing it again goes on from here"
            err.print(told, highlight=False, soft_wrap=True)
            raise
        board.restart()
        if wait:
            _watch_it_join(board, chosen["id"], wait)


def _bring_up_to_date(board: Board, config: dict[str, Any], files: dict[str, Path]) -> None:
    """Put on the board, which is stopped, what it has not yet."""
    from boards.flash import install, plan

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
        made = plan(about, config, files, lambda name: bar.update(task, description=f"compiling {name}"))
        written = install(
            board,
            made,
            lambda name, done, total: bar.update(task, description=name, completed=done, total=total),
        )
    told = f"{written:,} bytes written and verified" if written else "nothing to write, all of it is there"
    out.print(f"{told}; it starts as {config['id']}", highlight=False, soft_wrap=True)


def _watch_it_join(board: Board, board_id: str, seconds: float) -> None:
    """Show what the board says until it has joined as ``board_id``; raises `BoardError` if it does not."""
    rejected = False  # the configuration, for the last good one
    said = "nothing"
    for line in board.follow(seconds):
        if not line:
            continue
        out.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
        said = line
        if line.startswith("error: "):
            rejected = line.endswith("if there is one")
            if not rejected:
                raise BoardError(f"the board can't join: {line.removeprefix('error: ')}")
        name, joined, _ = line.partition(": joined run ")
        if joined:
            if rejected or name != board_id:
                raise BoardError(f"the board did not take this configuration, it goes on as {name}")
            return
    raise BoardError(
        f"it has not joined within {seconds:g} s; the last that it said: {said}. "
        "tinyreptile device monitor goes on watching it"
    )
