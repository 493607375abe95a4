"""`tinyreptile data`: which data sets there are, where they are, and how to get them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from .console import err, out

group = typer.Typer(
    help="The data sets of the tasks: list them, fetch them from where their authors publish them, "
    "and look at their bands.\n\n"
    "Example: [bold]tinyreptile data list[/]",
    no_args_is_help=True,
)

_KNOWN = {
    True: "These are the very arrays that the figures in docs/tasks.md were made with.",
    False: "These are other arrays than those that the figures in docs/tasks.md were made with: expect other figures.",
    None: "No figures in docs/tasks.md were made with this data set.",
}

FolderOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of data sets \\[default: the one TINYREPTILE_DATA names, else ~/.cache/tinyreptile].",
        show_default=False,
    ),
]


@group.command(name="list")
def list_data_sets(folder: FolderOption = None) -> None:
    """Show every data set, whose it is, and where it is on this machine.

    Example: [bold]tinyreptile data list --folder ../shared/data[/]
    """
    from simulator.data import DATA_SETS, DataError, find

    table = Table()
    for title in ("data set", "what", "size", "licence", "here"):
        table.add_column(
            title, justify="right" if title == "size" else "left", overflow="fold", no_wrap=title == "data set"
        )
    for data_set in DATA_SETS.values():
        try:
            here = str(find(data_set.name, folder).parent)
        except DataError:
            sizes = [archive.size for archive in data_set.archives if archive.size]
            here = f"absent, {_size(sum(sizes))} to fetch" if sizes else "absent"
        table.add_row(data_set.name, data_set.what, _size(data_set.size), data_set.licence, escape(here))
    out.print(table)
    out.print(
        "Get one with: tinyreptile data fetch NAME. Or name the folder where you have it with --data DIR "
        "or TINYREPTILE_DATA.",
        highlight=False,
        soft_wrap=True,
    )


@group.command()
def fetch(
    name: Annotated[str, typer.Argument(help="The data set, as tinyreptile data list names it.")],
    full: Annotated[bool, typer.Option("--full", help="All of Speech Commands, not only its test set.")] = False,
    folder: FolderOption = None,
) -> None:
    """Download a data set from where its authors publish it, and make the file that the tasks read.

    Ctrl-C stops it, and the same command goes on from there. The archives stay in the subfolder archives; delete them
    when you like.

    Example: [bold]tinyreptile data fetch omniglot28[/]
    """
    from simulator.data import DATA_SETS, DataError
    from simulator.data import fetch as fetch_data_set

    if full:
        larger = DATA_SETS[name].full if name in DATA_SETS else None
        if larger is None:
            raise DataError(f"--full goes with speech_commands_8k, not with {name!r}")
        name = larger
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=out,
        disable=not out.is_terminal,
    )
    tasks = {}

    def show(what: str, have: int, total: int | None) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what)
        bar.update(tasks[what], completed=have, total=total)

    try:
        with bar:
            fetched = fetch_data_set(name, folder, show)
    except KeyboardInterrupt:
        err.print("Stopped; the same command goes on from here.", highlight=False)
        raise typer.Exit(130) from None
    place = escape(str(fetched.path))
    out.print(f"{name}{'' if fetched.new else ' is here already'}: {place}", highlight=False, soft_wrap=True)
    out.print(_KNOWN[fetched.as_known], highlight=False, soft_wrap=True)


@group.command()
def bands(
    name: Annotated[str, typer.Argument(help="A data set of spoken words.")] = "speech_commands_8k",
    folder: FolderOption = None,
) -> None:
    """Print what a stream "microphone" takes to go with a data set's training clips.

    They are each band's mean and standard deviation, in 1/1024, for the stream's object in a board's configuration.
    Those of speech_commands_8k are its defaults.

    Example: [bold]tinyreptile data bands speech_commands_full_8k[/]
    """
    from simulator.tasks.keywords import band_statistics

    typer.echo(json.dumps(band_statistics(name, folder)))


def _size(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count / 1e6:.1f} MB"
