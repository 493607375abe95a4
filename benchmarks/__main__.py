"""Run the benchmarks and print one table: figure, measured, target, ok. Raw numbers go to out/bench.json.

The exit status is 1 if a target was missed; with --quick, whose runs are too short for the targets, always 0.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from . import micropython, operation, presence, privacy, service, sine, staleness, step, traffic, wire
from .report import Figure, Result, Unavailable, make_console, show, write
from .report import Progress as Advance

OUT = Path("out/bench.json")

BENCHMARKS: dict[str, Callable[[bool, Advance], Result]] = {
    "step": step.run,
    "micropython": micropython.run,
    "service": service.run,
    "staleness": staleness.run,
    "durability": operation.durability,
    "metrics": operation.metrics,
    "sine": sine.run,
    "presence": presence.run,
    "bytes": wire.run,
    "traffic": traffic.run,
    "privacy": privacy.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: minutes become seconds, figures rough")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="this benchmark only; may be repeated")
    arguments = parser.parse_args()
    console = make_console()
    results = {name: _run(name, arguments.quick, console) for name in arguments.only or BENCHMARKS}
    show(results, console)
    write(results, OUT)
    console.print(f"raw numbers: {OUT}")
    missed = any(figure.ok is False for result in results.values() for figure in result.figures)
    return int(missed and not arguments.quick)


def _run(name: str, quick: bool, console: Console) -> Result:
    columns = (TextColumn("{task.fields[name]:12}"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", name=name, total=1.0)
        try:
            return BENCHMARKS[name](quick, lambda done, text: progress.update(task, completed=done, description=text))
        except Unavailable as reason:
            return Result([Figure(name, str(reason), "", None)])


if __name__ == "__main__":
    sys.exit(main())
