"""What the commands share on the terminal: the two consoles, logs, mistakes, and the progress of runs."""

from __future__ import annotations

import logging
import os
import sys
import time
from types import TracebackType
from typing import Any, ClassVar, Self, TextIO

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from coordinator.logs import JsonFormatter, RunFilter, TextFormatter

_log = logging.getLogger(__name__)

WIDTH = 160  # where there is no terminal: a table's rows are lines for grep and awk


class _Console(Console):
    """A console whose reader may go.

    Attributes:
        goes_on: whether what the program does is worth doing with nobody looking on, be it at either console.
    """

    goes_on: ClassVar[bool] = False

    def on_broken_pipe(self) -> None:
        try:
            super().on_broken_pipe()
        except SystemExit:
            if not self.goes_on:
                raise


def _console(stream: TextIO) -> _Console:
    wide = not stream.isatty() and "COLUMNS" not in os.environ
    return _Console(stderr=stream is sys.stderr, width=WIDTH if wide else None)


out = _console(sys.stdout)
err = _console(sys.stderr)

LINE_SECONDS = 5.0  # between two lines of progress where there is no terminal


def configure_logging(verbose: bool, *, as_json: bool = False, runs: int = 1) -> None:
    """Warnings to standard error, with ``verbose`` everything of ours.

    They are text, after the run's name where there are several ``runs``, or JSON objects, one a line.
    """
    handler = logging.StreamHandler() if as_json else RichHandler(console=err, show_path=False)
    handler.addFilter(RunFilter())
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter() if runs > 1 else logging.Formatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    if verbose:
        for name in ("coordinator", "simulator", "command_line"):
            logging.getLogger(name).setLevel(logging.INFO)


def tell_error(error: Exception) -> None:
    """A mistake of the user on standard error, where the logs go: a sentence, or a JSON object if they are such."""
    if any(isinstance(handler.formatter, JsonFormatter) for handler in logging.root.handlers):
        _log.error("%s", error)
    else:
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)


def state_text(status: dict[str, Any]) -> str:
    """The state in a run's status message, in a word: a run that goes on may be paused."""
    return "paused" if status.get("paused") and status["state"] == "running" else str(status["state"])


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
    """The progress of runs, a bar for each on a terminal, or a line every few seconds elsewhere; a context manager.

    ``rounds`` are those of each run, by its name; 0: it never ends.
    """

    def __init__(self, rounds: dict[str, int]) -> None:
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
        self._names = {run: f"{run}: " if len(rounds) > 1 else "" for run in rounds}
        self._tasks = {
            run: self._bar.add_task(f"{self._names[run]}waiting for devices", total=count or None)
            for run, count in rounds.items()
        }
        self._printed = dict.fromkeys(rounds, 0.0)

    def __enter__(self) -> Self:
        _Console.goes_on = True
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
        run = status["run"]
        name = self._names[run]
        self._bar.update(self._tasks[run], completed=status["updates"], description=name + text)
        if not out.is_terminal and time.monotonic() - self._printed[run] > LINE_SECONDS:
            self._printed[run] = time.monotonic()
            of = f"/{self._rounds[run]}" if self._rounds[run] else ""
            out.print(f"{name}{status['updates']}{of} updates: {text}", soft_wrap=True, highlight=False)
