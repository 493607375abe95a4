"""Measure learners on emulated boards and print a table; it goes to out/boards.json and out/boards.md, too.

An RP2040 whose cycles are counted (rp2040py), and a Cortex-M4 whose instructions are (QEMU). A round is put together of
its parts: an initialization is loaded, so many samples are learned from, the delta is packed. Samples and
initializations are a task's own. Beside learning, TLS handshakes of the RP2040.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from boards.library import library
from coordinator.initialization import encode, random_weights
from simulator.offline import take
from simulator.study.experiments import EXPERIMENTS
from simulator.tasks import TaskError, make_task
from tests.boards.runners import RUNNERS
from tinyreptile.geometry import layers, multiplications
from tinyreptile.model import Model
from tinyreptile.unpacking import packed_size

from ..report import make_console
from . import handshake

DEVICE = Path(__file__).parent / "device"
OUT = Path("out/boards.json")
HANDSHAKE = "handshake"  # its part of what is measured
SAMPLES = 4


@dataclass(frozen=True)
class Board:
    """A runner, what its clock counts, how many such a tick is, and the clock's rate for a port that has one."""

    runner: str
    title: str
    unit: str
    ticks: int
    megahertz: int


BOARDS = (
    Board("rp2040", "RP2040", "cycles", 1, 125),
    # QEMU, told that an instruction takes a nanosecond, gives the SysTick of this machine 25 MHz.
    Board("cortex-m4", "Cortex-M4", "instructions", 40, 0),
)
TASKS = ("sine", "presence", "keywords")
WAYS = ("TinyReptile, int16", "TinyReptile, int8", "Reptile, int16", "Reptile, int8", "plain floats")


def describe(task_name: str, way: str, board: Board, folder: Path) -> dict[str, Any] | None:
    """What the device is told, its files in ``folder``; None for what is not measured."""
    task = make_task(task_name)
    experiment = EXPERIMENTS[task_name]
    steps = experiment.learning["steps"]
    batch = experiment.variants["reptile"].learning
    algorithm, _, weights = way.partition(", ")
    plain = way == "plain floats"
    if plain and len(task.model[0]) > 2:
        return None  # a convolution in floats takes minutes a sample
    model = Model(task.model, weights or "int16")
    initial = random_weights(model, seed=1)
    (folder / "initialization.bin").write_bytes(bytes(encode(model, initial, model.weights)))
    stream = task.train_stream(1, 1)
    x, y = memoryview(array("h", bytes(2 * model.inputs))), array("h", bytes(2 * model.target_cells()))
    stream.begin("train")
    packed = b""
    for _ in range(SAMPLES):
        take(stream, x, y)
        packed += bytes(x) + y.tobytes()
    (folder / "samples.bin").write_bytes(packed)
    large = model.parameters > 5000
    stored = algorithm == "Reptile"
    description = {
        "model": task.model,
        "weights": model.weights,
        "initialization": "initialization.bin",
        "samples": "samples.bin",
        "beta": experiment.device["beta"],
        "bits": experiment.device["bits"],
        "stored": steps if stored else 0,
        "batch": (2 if large else batch["batch"]) if stored else 0,  # more would not fit, stored
        "count": 1 if large else SAMPLES,
        "megahertz": board.megahertz,
    }
    (folder / "case.json").write_text(json.dumps(description))
    return description | {"plain": plain, "steps": steps, "gradients": steps * (batch["epochs"] if stored else 1)}


def measure(task: str, way: str, board: Board) -> dict[str, Any] | None:
    """The figures of one row, in cycles or instructions and bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = describe(task, way, board, folder)
        if case is None:
            return None
        runner = RUNNERS[board.runner]
        runner.obtain()
        files = {**library(runner.chip), **{path.name: path for path in [*DEVICE.iterdir(), *folder.iterdir()]}}
        measured: dict[str, Any] = {}
        for call in ("plain",) if case["plain"] else ("memory", "speed"):  # each on a heap that nothing has been in
            printed = runner.run(f"import measure\nmeasure.{call}('case.json')", files, seconds=1800)
            measured |= json.loads(printed.splitlines()[-1])
    for part in ("load", "store", "forward", "sample", "delta"):
        if part in measured:
            measured[part] *= board.ticks
    model = Model(case["model"], case["weights"])
    parts = (measured.get(part, 0) for part in ("load", "delta"))
    measured["round"] = sum(parts) + case["steps"] * measured.get("store", 0) + case["gradients"] * measured["sample"]
    measured["per_visit"] = measured["sample"] / multiplications(model)
    measured["per_product"] = measured["forward"] / forward_products(model) if "forward" in measured else None
    if not case["plain"]:
        measured["received"] = model.header_bytes() + model.parameters * (1 if case["weights"] == "int8" else 2)
        measured["sent"] = packed_size(model.parameters, case["bits"])
    return measured


def forward_products(model: Model) -> int:
    """Multiply-accumulates of a forward pass, zeros counted too."""
    return sum(layer.multiplications() for layer in layers(model))


HEADS = (
    "network",
    "way",
    "RAM stated",
    "RAM bisected",
    "forward",
    "a sample",
    "a product",
    "a round",
    "bytes received",
    "bytes sent",
)


def rows(results: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The cells of one board's table."""
    cells = []
    for key, row in results.items():
        numbers = [row.get(name) for name in ("stated", "ram", "forward", "sample")]
        rest = [row.get(name) for name in ("round", "received", "sent")]
        text = [*map(_number, numbers), f"{row['per_visit']:.1f}", *map(_number, rest)]
        cells.append([*key.split(": "), *text])
    return cells


def tables(content: dict[str, dict[str, Any]]) -> dict[str, tuple[str, Sequence[str], list[list[str]]]]:
    """Title, heads and cells of the table of each part of ``content``."""
    shown: dict[str, tuple[str, Sequence[str], list[list[str]]]] = {}
    for board in BOARDS:
        if board.runner in content:
            shown[board.runner] = f"{board.title}: {board.unit}, bytes", HEADS, rows(content[board.runner])
    if HANDSHAKE in content:
        cells = handshake.rows(content[HANDSHAKE])
        shown[HANDSHAKE] = "RP2040: a TLS handshake, cycles of the client", handshake.HEADS, cells
    return shown


def markdown(content: dict[str, dict[str, Any]]) -> str:
    """All tables."""
    text = ""
    for title, heads, cells in tables(content).values():
        lines = [heads, ["---"] * 2 + ["---:"] * (len(heads) - 2), *cells]
        text += f"## {title}\n\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines) + "\n"
    return text


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def report(part: str, content: dict[str, dict[str, Any]], console: Console) -> None:
    """Print the table of ``part`` and write all that was measured."""
    title, heads, cells = tables(content)[part]
    shown = Table(*heads, title=title)
    for line in cells:
        shown.add_row(*line)
    console.print(shown)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(content, indent=1) + "\n")
    OUT.with_suffix(".md").write_text(markdown(content))


def main() -> int:
    """Measure what is asked for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boards", description=__doc__)
    parser.add_argument("--board", action="append", choices=[board.runner for board in BOARDS])
    parser.add_argument("--task", action="append", choices=TASKS)
    parser.add_argument("--way", action="append", choices=WAYS)
    parser.add_argument("--handshake", action="store_true", help="TLS handshakes, without learning")
    arguments = parser.parse_args()
    console = make_console()
    content: dict[str, dict[str, Any]] = json.loads(OUT.read_text()) if OUT.exists() else {}
    chosen = arguments.board or arguments.task or arguments.way
    for board in BOARDS:
        if (arguments.handshake and not chosen) or (arguments.board and board.runner not in arguments.board):
            continue
        results = content.setdefault(board.runner, {})
        for task in arguments.task or TASKS:
            for way in arguments.way or WAYS:
                with console.status(f"{board.title}, {task}, {way}"):
                    row = measure(task, way, board)
                if row is not None:
                    results[f"{task}: {way}"] = row
        report(board.runner, content, console)
    if arguments.handshake or not chosen:
        results = content.setdefault(HANDSHAKE, {})
        for name, certificates in handshake.WAYS.items():
            with console.status(f"TLS, {name}"):
                results[name] = handshake.measure(certificates, DEVICE)
        report(HANDSHAKE, content, console)
    console.print(f"{OUT} and {OUT.with_suffix('.md')}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TaskError as error:  # its data are not here
        sys.exit(f"error: {error}")
