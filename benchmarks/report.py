"""What a benchmark gives back, and how all of it is shown: one table, one JSON file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Progress = Callable[[float, str], None]  # (share done, 0 to 1; what is going on)


@dataclass(frozen=True)
class Figure:
    """One line of the table; ``ok`` is None where no target stands."""

    name: str
    measured: str
    target: str = ""
    ok: bool | None = None


@dataclass
class Result:
    """A benchmark's lines, and the raw numbers behind them (JSON values)."""

    figures: list[Figure] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)


class Unavailable(Exception):
    """A benchmark that can't run here; the text says what is missing and how to get it."""


def make_console() -> Console:
    """Where tables go: as wide as the terminal, and wide enough for them in a file or a pipe."""
    return Console(width=None if sys.stdout.isatty() else 160)


def show(results: dict[str, Result], console: Console) -> None:
    """Print the table."""
    table = Table("figure", "measured", "target", "ok", title="TinyReptile benchmarks")
    for result in results.values():
        for figure in result.figures:
            mark = "" if figure.ok is None else "[green]yes[/]" if figure.ok else "[red]no[/]"
            table.add_row(figure.name, figure.measured, figure.target, mark)
        table.add_section()
    console.print(table)


def write(results: dict[str, Result], path: Path) -> None:
    """Write everything to ``path``; what other benchmarks left there stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.loads(path.read_text()) if path.exists() else {}
    for name, result in results.items():
        content[name] = {"figures": [vars(figure) for figure in result.figures], "raw": result.raw}
    path.write_text(json.dumps(content, indent=1) + "\n")
