"""What the commands share on the terminal: the two consoles, and a run's progress."""

from __future__ import annotations

import logging
import os
import sys
import time
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

WIDTH = 160  # where there is no terminal: a table's rows are lines for grep and awk


def _console(stream: TextIO) -> Console:
    wide = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(stderr=stream is sys.stderr, width=WIDTH if wide else None)


out = _console(sys.stdout)
err = _console(sys.stderr)

LINE_SECONDS = 5.0  # between two lines of progress where there is no terminal


def configure_logging(verbose: bool) -> None:
    """Warnings to standard error, with ``verbose`` everything of ours."""
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=err, show_path=False)]
    )
    if verbose:
        for name in ("coordinator", "simulator", "command_line"):
            logging.getLogger(name).setLevel(logging.INFO)


def loss_text(evaluation: dict[str, Any]) -> str:
    """An evaluation's summary in a few words."""
    if not evaluation:
        return "no evaluation yet"
    text = f"unseen loss {evaluation['before']:.3f} → {evaluation['after']:.3f}"
    if "balanced_accuracy_after" in evaluation:
        before, after = evaluation["balanced_accuracy_before"], evaluation["balanced_accuracy_after"]
        text += f", balanced accuracy {before:.1%} → {after:.1%}"
    return text


class RunProgress:
    """A run's progress as a bar on a terminal, or as a line every few seconds elsewhere; a context manager."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=out,
            transient=True,
        )
        self._task = self._bar.add_task("waiting for devices", total=rounds or None)
        self._printed = 0.0

    def __enter__(self) -> Self:
        if out.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if out.is_terminal:
            self._bar.stop()

    def show(self, status: dict[str, Any], note: str = "") -> None:
        """Show a run's status message."""
        if not status["devices"] and not status["in_flight"]:
            text = "waiting for devices"
        else:
            text = (
                f"{status['rate']:.0f} updates/s, {status['in_flight']} in flight, {status['devices']} devices, "
                f"{loss_text(status['evaluation'])}"
            )
        if status["unfit"]:
            text += f", {status['unfit']} unfit for the model (tinyreptile status says why)"
        text += note
        self._bar.update(self._task, completed=status["updates"], description=text)
        if not out.is_terminal and time.monotonic() - self._printed > LINE_SECONDS:
            self._printed = time.monotonic()
            of = f"/{self._rounds}" if self._rounds else ""
            out.print(f"{status['updates']}{of} updates: {text}", soft_wrap=True, highlight=False)
