"""The study's results as files: Markdown to read, CSV and JSON to compute with, and the pictures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import pictures
from .checkpoint import write
from .claims import Claim, claims
from .result import Point
from .summary import Outcome

Outcomes = Mapping[str, Mapping[str, Outcome]]  # by task, by variant
Missing = Mapping[str, Sequence[str]]  # titles of variants without a result, by task

_INTRODUCTION = """\
# Results

Made by `{command}`; edit the study, not this page. Versions: {versions}. Settings are our own.
What a row of the claims needs alone, `tinyreptile reproduce TASK` makes with the options in its last column.

Means over {seeds} with 95 % confidence intervals (Student's t); the mean decides whether a target is met. Unseen
devices adapt online, by one-sample steps over their support samples, whatever algorithm the initialization is from;
accuracies are balanced, means over the classes. Variants of one budget draw equally many samples from the devices'
streams; how many gradients they compute of them is a column. *Bytes sent* are those of the deltas, coded as devices
send them. *RAM* is what a training device's buffers take, stored samples included. *Multiply-accumulates* are of one
update, *time* is its processor time where this was run, other jobs beside it; both are for ratios only.
"""

# A column: its title, and what it says of an outcome.
COLUMNS: dict[str, Callable[[Outcome], str]] = {
    "variant": lambda o: o.title,
    "before": lambda o: o.before.text(_digits(o)),
    "after adaptation": lambda o: f"**{o.after.text(_digits(o))}**",
    "updates": lambda o: f"{o.count('updates'):,.0f}",
    "samples seen": lambda o: f"{o.count('samples'):,.0f}",
    "gradients": lambda o: f"{o.count('gradients'):,.0f}",
    "bytes sent": lambda o: f"{o.count('bytes_up'):,.0f}",
    "RAM, bytes": lambda o: f"{o.results[0]['ram']:,}",
    "multiply-accumulates": lambda o: f"{o.work_cost():,.0f}" if o.count("updates") else "–",
    "time, ms": lambda o: f"{1e3 * o.work_seconds():.2f}" if o.count("updates") else "–",
    "simulated seconds": lambda o: f"{o.count('seconds'):,.0f}" if o.count("seconds") else "–",
}


def write_all(outcomes: Outcomes, missing: Missing, out: Path, command: str) -> list[Path]:
    """Write results.md, .csv, .json, curves.csv and plots/ into ``out``; returns what a reader may want to open."""
    page = write_page(outcomes, missing, out / "results.md", out / "plots", command)
    write(out / "results.csv", _csv(_rows(outcomes)))
    write(out / "curves.csv", _csv(_curve_rows(outcomes)))
    write(out / "results.json", json.dumps(_summary(outcomes, command), indent=1) + "\n")
    return [page, out / "results.csv", out / "results.json", out / "plots"]


def write_page(outcomes: Outcomes, missing: Missing, page: Path, plots: Path, command: str) -> Path:
    """Write the Markdown ``page``, its pictures into the folder ``plots`` beside or below it."""
    results = [result for of_task in outcomes.values() for outcome in of_task.values() for result in outcome.results]
    seeds = sorted({len(outcome.results) for of_task in outcomes.values() for outcome in of_task.values()})
    number = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    versions = sorted({", ".join(f"{k} {v}" for k, v in result["versions"].items()) for result in results})
    text = _INTRODUCTION.format(
        command=command, versions="; ".join(versions), seeds="one seed" if seeds == [1] else f"{number} seeds"
    )
    for task, of_task in outcomes.items():
        names = pictures.draw(list(of_task.values()), plots)
        where = plots.relative_to(page.parent).as_posix()
        text += f"\n## {task if '.' in task else task.capitalize()}\n\n{claims_table(claims(of_task))}\n"
        text += f"{results_table(of_task)}\n{also_table(of_task)}"
        if missing.get(task):
            text += f"Not run: {', '.join(missing[task])}.\n\n"
        text += "".join(f"![{name.replace('-', ', ', 1)}]({where}/{name}.png)\n" for name in names)
        text += "\n" + _settings(of_task)
    write(page, text)
    return page


def claims_table(rows: Sequence[Claim]) -> str:
    """The claims as a Markdown table."""
    if not rows:
        return ""
    lines = ["| claim | measured | target | met | alone with |", "|---|---|---|---|---|"]
    for claim in rows:
        met = {True: "yes", False: "**no**", None: ""}[claim.met]
        alone = f"`{' '.join(f'--only {name}' for name in claim.variants)}`" if claim.variants else ""
        lines.append(f"| {claim.what} | {claim.value} | {claim.target} | {met} | {alone} |")
    return "\n".join(lines) + "\n"


def results_table(of_task: Mapping[str, Outcome]) -> str:
    """The variants of a task as a Markdown table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" + "|---:" * (len(COLUMNS) - 1) + "|"]
    lines += ["| " + " | ".join(cell(outcome) for cell in COLUMNS.values()) + " |" for outcome in of_task.values()]
    return "\n".join(lines) + "\n"


def also_table(of_task: Mapping[str, Outcome]) -> str:
    """What else the end looked at, as a Markdown table; empty if nothing."""
    lines = ["| variant | on | before | after one pass | after all passes |", "|---|---|---:|---:|---:|"]
    for outcome in of_task.values():
        for name in outcome.also:
            points = dict(outcome.points(name))
            moments = (0, outcome.shots(name), max(points))
            cells = (points[step].text(_digits(outcome)) for step in moments)
            lines.append(f"| {outcome.title} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" if len(lines) > 2 else ""


def _digits(outcome: Outcome) -> int:
    return 1 if outcome.metric == "accuracy" else 3


def _settings(of_task: Mapping[str, Outcome]) -> str:
    """What the first variant was run with, and what is different in the others."""
    flat = {name: _flat(outcome.results[0]["settings"]) for name, outcome in of_task.items()}
    first = next(iter(flat))
    lines = [
        f"Settings of {of_task[first].title}: " + ", ".join(f"{k} {_value(v)}" for k, v in flat[first].items()) + ".\n",
        "| variant | settings that differ |",
        "|---|---|",
    ]
    for name, settings in flat.items():
        if name != first:
            different = {k: v for k, v in settings.items() if v != flat[first].get(k)}
            text = ", ".join(f"{k} {_value(v)}" for k, v in different.items()) or "none"
            lines.append(f"| {of_task[name].title} | {text} |")
    return "\n".join(lines) + "\n"


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif name not in ("task", "variant", "seed"):
            flat[name] = value
    return flat


def _value(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _rows(outcomes: Outcomes) -> list[dict[str, Any]]:
    """One row a run."""
    return [
        {
            "task": outcome.task,
            "variant": outcome.name,
            "seed": result["settings"]["seed"],
            "algorithm": result["settings"]["algorithm"],
            "rounds": result["settings"]["rounds"],
            **_points(result["adaptation"][0], result["adaptation"][-1]),
            "rate": result["rate"],
            **result["counts"],
            "parameters": result["parameters"],
            "ram": result["ram"],
            "multiply_accumulates_a_gradient": result["multiply_accumulates"],
            "cpu_seconds": result["cpu_seconds"],
        }
        for of_task in outcomes.values()
        for outcome in of_task.values()
        for result in outcome.results
    ]


def _curve_rows(outcomes: Outcomes) -> list[dict[str, Any]]:
    """One row a checkpoint of a run."""
    return [
        {
            "task": outcome.task,
            "variant": outcome.name,
            "seed": result["settings"]["seed"],
            **{key: value for key, value in point.items() if key not in ("before", "after")},
            **_points(point["before"], point["after"]),
        }
        for of_task in outcomes.values()
        for outcome in of_task.values()
        for result in outcome.results
        for point in result["curve"]
    ]


def _points(before: Point, after: Point) -> dict[str, float | None]:
    return {
        "loss_before": before["loss"],
        "loss_after": after["loss"],
        "accuracy_before": before.get("accuracy"),
        "accuracy_after": after.get("accuracy"),
    }


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _summary(outcomes: Outcomes, command: str) -> dict[str, Any]:
    def number(estimate: Any) -> dict[str, Any]:
        return {"mean": estimate.mean, "half": None if estimate.n == 1 else estimate.half, "n": estimate.n}

    return {
        "command": command,
        "tasks": {
            task: {
                "claims": [asdict(claim) for claim in claims(of_task)],
                "variants": {
                    name: {
                        "metric": outcome.metric,
                        "before": number(outcome.before),
                        "after": number(outcome.after),
                        "settings": outcome.results[0]["settings"],
                    }
                    for name, outcome in of_task.items()
                },
            }
            for task, of_task in outcomes.items()
        },
        "runs": _rows(outcomes),
    }
