"""Runs far longer than the study's, with a constant alpha and with one that falls to zero: whether learning lasts.

    python -m benchmarks.long_runs                          # all of them, hours; Ctrl-C and the same command goes on
    python -m benchmarks.long_runs --only sine-constant     # one of them

A run is a job of the study (`simulator.study`) with more rounds. Its result goes to out/long-runs/NAME.json, and the
curves of all results that are there to out/long-runs/long-runs.png.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from simulator.study.experiments import plan
from simulator.study.job import Job, run
from simulator.study.result import Result

from .report import make_console

OUT = Path("out/long-runs")
LOOKS = 40  # points of a curve
SEED = 1

# (task, variant, updates): sine as the study has it, and the largest network that it has.
RUNS = {"sine": ("sine", "tinyreptile", 1_000_000), "omniglot": ("omniglot", "far", 200_000)}
SCHEDULES = ("constant", "linear")
NAMES = [f"{run}-{schedule}" for run in RUNS for schedule in SCHEDULES]


def job(name: str) -> Job:
    """Return the job called ``name``, one of `NAMES`."""
    task, variant, updates = RUNS[name.rpartition("-")[0]]
    (made,) = plan(
        [task], [SEED], updates=updates, only=[variant], sweep={"learning.schedule": [name.rpartition("-")[2]]}
    )
    return replace(made, settings=made.settings | {"rounds": updates, "checkpoints": LOOKS})


def main() -> None:
    """Run what was asked for, then show all results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_runs", description=__doc__)
    parser.add_argument("--only", action="append", choices=NAMES, help="this run only; may be repeated")
    data = os.environ.get("TINYREPTILE_DATA")
    console = make_console()
    for name in parser.parse_args().only or NAMES:
        _run(name, Path(data) if data else None, console)
    results = {name: json.loads(_path(name).read_text()) for name in NAMES if _path(name).exists()}
    console.print(_table(results))
    _draw(results, OUT / "long-runs.png")
    console.print(f"curves: {OUT / 'long-runs.png'}")


def _path(name: str) -> Path:
    return OUT / f"{name}.json"


def _run(name: str, data: Path | None, console: Console) -> None:
    if _path(name).exists():
        console.print(f"{name}: {_path(name)} is there already; delete it to run it again")
        return
    wanted = job(name)
    OUT.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(name, total=wanted.rounds)

        def watch(rounds: int) -> bool:
            progress.update(bar, completed=rounds)
            return False

        result = run(wanted, data, OUT / f"{name}.npz", watch)
    _path(name).write_text(json.dumps(result) + "\n")


def _score(point: dict[str, Any]) -> float:
    """The accuracy of a look at unseen devices, or else their loss."""
    return float(point.get("accuracy", point["loss"]))


def _table(results: dict[str, Result]) -> Table:
    table = Table(
        "run", "updates", "measure", "after a tenth", "best", "at the end", "refused", title="Unseen devices, adapted"
    )
    for name, result in results.items():
        scores = [_score(dict(look["after"])) for look in result["curve"]]
        accuracy = "accuracy" in result["curve"][-1]["after"]
        best = max(scores) if accuracy else min(scores)
        shown = [f"{score:.1%}" if accuracy else f"{score:.3f}" for score in (scores[LOOKS // 10], best, scores[-1])]
        counts = result["counts"]
        measure = "accuracy" if accuracy else "loss"
        table.add_row(name, f"{counts['updates']:,}", measure, *shown, f"{counts['refused']:,}")
    return table


def _draw(results: dict[str, Result], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import EngFormatter

    shown = [name for name in RUNS if any(f"{name}-{schedule}" in results for schedule in SCHEDULES)]
    figure, panels = plt.subplots(1, len(shown), figsize=(5 * len(shown), 4), layout="constrained", squeeze=False)
    for panel, name in zip(panels[0], shown, strict=True):
        updates = RUNS[name][2]
        for schedule in SCHEDULES:
            if f"{name}-{schedule}" not in results:
                continue
            looks = results[f"{name}-{schedule}"]["curve"]
            panel.plot(
                [look["round"] for look in looks],
                [_score(dict(look["after"])) for look in looks],
                marker="o",
                markersize=3,
                label=f"alpha {'constant' if schedule == 'constant' else 'falling to 0'}",
            )
            accuracy = "accuracy" in looks[-1]["after"]
            panel.set_ylabel("accuracy after adaptation" if accuracy else "loss after adaptation")
            panel.set_yscale("linear" if accuracy else "log")
        panel.set_title(f"{name}, {updates:,} updates")
        panel.set_xlabel("updates")
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.grid(alpha=0.3)
        panel.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
