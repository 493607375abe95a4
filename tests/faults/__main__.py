"""Break a real coordinator, broker and fleet in every way, and print a table of what was injected and survived.

    python -m tests.faults                     all scenarios; raw results go to out/faults.json
    python -m tests.faults --quick             a few minutes, as in continuous integration
    python -m tests.faults --only broker --seed 7

The exit code is 1 if anything that is promised did not hold; then the folder with all logs is kept, and named.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .scenario import Outcome, play
from .scenarios import SCENARIOS

OUT = Path("out/faults.json")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer faults in shorter runs")
    parser.add_argument("--only", action="append", choices=SCENARIOS, help="this scenario only; may be repeated")
    parser.add_argument("--skip", action="append", choices=SCENARIOS, default=[], help="not this; may be repeated")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random [1]")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing is left behind then either
    console = Console(width=None if sys.stdout.isatty() else 120)
    outcomes = []
    usual = [name for name, kind in SCENARIOS.items() if kind.brief or not arguments.quick]
    for name in arguments.only or [name for name in usual if name not in arguments.skip]:
        outcomes.append(_play(name, arguments.seed, arguments.quick, console))
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    console.print(_table(outcomes))
    console.print(f"raw results: {OUT}")
    for outcome in outcomes:  # once more, where the end of a log shows it
        for sentence in [f"not tried: {outcome.absent}"] if outcome.absent else outcome.broken:
            console.print(f"[red]{outcome.scenario}[/] (seed {outcome.seed}): {escape(sentence)}", soft_wrap=True)
    absent = os.environ.get("CI") == "true" and any(outcome.absent for outcome in outcomes)
    return int(absent or any(outcome.broken for outcome in outcomes))


def _play(name: str, seed: int, quick: bool, console: Console) -> Outcome:
    kind = SCENARIOS[name]
    if absent := kind.absent():
        console.print(f"{name}: not tried, {absent}")
        return Outcome(name, seed, absent=absent)
    folder = Path(tempfile.mkdtemp(prefix=f"faults-{name}-"))

    begun = time.monotonic()

    def tell(text: str) -> None:
        seconds = time.monotonic() - begun
        console.print(f"{name} (seed {seed}), {seconds:.0f} s: {text}", highlight=False, soft_wrap=True)

    tell((kind.__doc__ or "").strip())
    outcome = asyncio.run(play(kind(quick=quick, tell=tell), folder, seed))
    for sentence in outcome.broken:
        console.print(f"[red]broken[/] {name} (seed {seed}): {escape(sentence)}", soft_wrap=True)
    if outcome.broken:
        console.print(f"the logs are in {folder}", soft_wrap=True)
    else:
        shutil.rmtree(folder)
    return outcome


def _table(outcomes: list[Outcome]) -> Table:
    table = Table("scenario", "injected", "updates", "measured", "outcome", title="Faults injected and survived")
    for outcome in outcomes:
        verdict = "[green]all that is promised holds[/]"
        if outcome.absent:
            verdict = f"not tried: {outcome.absent}"
        elif outcome.broken:
            verdict = f"[red]{len(outcome.broken)} promises broken[/]"
        table.add_row(
            outcome.scenario,
            "\n".join(f"{count:,} {name}" for name, count in outcome.injected.items()),
            f"{outcome.updates:,}",
            "\n".join(f"{name}: {value}" for name, value in outcome.figures.items()),
            verdict,
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
