"""What the commands share on the terminal: the two consoles, logs, mistakes, and the progress of runs."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.status import Status

from coordinator.accounting import DELTA, epsilon_of
from coordinator.errors import ConfigError, CoordinatorError
from coordinator.logs import JsonFormatter, RunFilter, SenderFilter, TextFormatter
from coordinator.output import Tolerant, Unblocked

if TYPE_CHECKING:
    from coordinator.config import BrokerConfig

_log = logging.getLogger(__name__)

WIDTH = 160  # where there is no terminal: a table's rows are lines for grep and awk


class Printer(Console):
    """A console whose reader may go.

    Attributes:
        goes_on: whether what the program does is worth doing though nothing can be shown, be it at either console.
        waits: whether it may be held up by a reader who does not read.
    """

    goes_on: ClassVar[bool] = False
    waits: ClassVar[bool] = True

    @property
    def file(self) -> Any:
        """What it writes to."""
        file = super().file
        if not self.waits:
            return Unblocked(file)
        return Tolerant(file) if self.goes_on or self.stderr else file

    @file.setter
    def file(self, file: Any) -> None:
        self._file = file

    @property
    def spinner(self) -> str:
        """The name of one that the terminal can show."""
        return "line" if self.options.ascii_only else "dots"

    def status(self, status: RenderableType, **options: Any) -> Status:
        """As rich's, with a spinner that the terminal can show."""
        return super().status(status, **{"spinner": self.spinner} | options)


def _console(stream: TextIO) -> Printer:
    wide = not stream.isatty() and not os.environ.get("COLUMNS")
    return Printer(stderr=stream is sys.stderr, width=WIDTH if wide else None)


out = _console(sys.stdout)
err = _console(sys.stderr)

_STATES = {
    "offline": "offline: its coordinator is gone",
    "silent": "offline: nothing comes from its coordinator",
}
LINE_SECONDS = 5.0  # between two lines of progress where there is no terminal


def configure_logging(verbose: bool, *, as_json: bool = False, runs: int = 1) -> None:
    """Warnings to standard error, with ``verbose`` everything of ours.

    They are text, after the run's name where there are several ``runs``, or JSON objects, one a line.
    """
    handler = logging.StreamHandler(Unblocked(sys.stderr)) if as_json else RichHandler(console=err, show_path=False)
    handler.addFilter(RunFilter())
    handler.addFilter(SenderFilter())
    handler.addFilter(_is_of_use)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter() if runs > 1 else logging.Formatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    if verbose:
        for name in ("coordinator", "simulator", "command_line"):
            logging.getLogger(name).setLevel(logging.INFO)


def _is_of_use(record: logging.LogRecord) -> bool:
    """Not what aiomqtt and paho log of an answer to what was cancelled, by Ctrl-C say, or of a connection's end."""
    return not str(record.msg).startswith(("Unexpected message ID", "failed to receive on socket"))


def tell_error(error: Exception) -> None:
    """A mistake of the user on standard error, where the logs go: a sentence, or a JSON object if they are such."""
    if any(isinstance(handler.formatter, JsonFormatter) for handler in logging.root.handlers):
        _log.error("%s", error)
    else:
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)


def need(what: str, extra: str, *packages: str) -> None:
    """Raise `ConfigError` if ``packages``, which ``extra`` installs and ``what`` takes, are not all there."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"{what} takes {' and '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not installed: "
            f"pip install 'tinyreptile[{extra}]'"
        )


def without_numba(extra: str) -> None:
    """Warn of what simulated devices cost where numba, which ``extra`` installs, is missing."""
    if find_spec("numba") is None:
        text = "numba is not installed, and training takes over a hundred times the processor time without it"
        err.print(f"{text}: pip install 'tinyreptile[{extra}]'", highlight=False, markup=False, soft_wrap=True)


def state_text(status: dict[str, Any]) -> str:
    """The state in a run's status message: what hinders a run that goes on, what another has ended for."""
    problem = str(status.get("problem", ""))
    if goes_on(status) and (problem or status.get("paused")):
        return problem or "paused"
    if status["state"] == "failed":
        return f"failed: {problem}"
    return _STATES.get(status["state"], str(status["state"]))


def goes_on(status: dict[str, Any]) -> bool:
    """Whether a coordinator serves the run now: then its rate and the work in flight are those of now."""
    return bool(status["state"] == "running")


def last_known(status: dict[str, Any], count: str) -> str:
    """A run's ``count`` in its status; that of a coordinator that was cut off was made when it connected."""
    return f"{status[count]}{' or more' if status['state'] == 'offline' else ''}"


def no_run(name: str, broker: BrokerConfig, found: Collection[str] | None) -> str:
    """Say that no coordinator has ever served run ``name`` at ``broker``, and which runs are ``found`` there.

    None: this client may not see them.
    """
    text = f"no coordinator has said anything of run {name} at {broker.host}:{broker.port}"
    if found is None:
        return f"{text}; the broker does not let this client see which other runs there are"
    if not found:
        return f"{text}, nor of any other, or the broker does not let this client read it"
    others = ", ".join(sorted(found)[:10]) + (" ..." if len(found) > 10 else "")
    meant = get_close_matches(name, found, 1)
    return f"{text}; there {'is' if len(found) == 1 else 'are'} {others}" + (f"; is {meant[0]} meant?" if meant else "")


def loss_text(evaluation: dict[str, Any]) -> str:
    """An evaluation's summary in a few words."""
    if not evaluation:
        return "no evaluation yet"
    text = f"unseen loss {evaluation['before']:.3f} → {evaluation['after']:.3f}"
    if evaluation["devices"] > 1:
        text += f" (medians {evaluation['median_before']:.3f} → {evaluation['median_after']:.3f})"
    if "balanced_accuracy_after" in evaluation:
        before, after = evaluation["balanced_accuracy_before"], evaluation["balanced_accuracy_after"]
        text += f", balanced accuracy {before:.1%} → {after:.1%}"
    return text


def epsilon_text(rho: float, delta: float = DELTA) -> str:
    """What a device has lost by its private updates, as epsilon where dp-accounting is installed."""
    try:
        return f"epsilon {epsilon_of(rho, delta):.4g} at delta {delta:g}"
    except CoordinatorError:
        return f"rho {rho:.4g}; pip install 'tinyreptile[privacy]' for its epsilon"


@contextmanager
def warnings_above(live: Live) -> Iterator[None]:
    """Have what goes to standard error shown above ``live``, which is on standard output, where both are terminals."""
    if not (out.is_terminal and err.is_terminal):
        yield
        return
    err.push_render_hook(live)
    try:
        yield
    finally:
        err.pop_render_hook()


class RunProgress:
    """The progress of runs, a bar for each on a terminal, or a line every few seconds elsewhere; a context manager.

    ``rounds`` are those of each run, by its name; 0: it never ends.
    """

    def __init__(self, rounds: dict[str, int]) -> None:
        self._rounds = rounds
        self._bar = Progress(
            SpinnerColumn(out.spinner),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=out,
            transient=True,
        )
        self._shown = ExitStack()
        self._names = {run: f"{run}: " if len(rounds) > 1 else "" for run in rounds}
        self._tasks = {
            run: self._bar.add_task(f"{self._names[run]}waiting for devices", total=count or None)
            for run, count in rounds.items()
        }
        self._printed = dict.fromkeys(rounds, 0.0)

    def __enter__(self) -> Self:
        Printer.goes_on = True
        Printer.waits = False
        if out.is_terminal:
            self._shown.enter_context(self._bar)
            self._shown.enter_context(warnings_above(self._bar.live))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.close()
        Printer.waits = True

    def show(self, status: dict[str, Any], note: str = "") -> None:
        """Show a run's status message."""
        run = status["run"]
        if not goes_on(status) or "problem" in status:
            text = state_text(status)
        elif not status["devices"] and not status["in_flight"]:
            text = "waiting for devices"
        else:
            text = (
                f"{status['rate']:.0f} updates/s, {status['in_flight']} in flight, {status['devices']} devices, "
                f"{loss_text(status['evaluation'])}"
            )
        if status["unfit"]:
            text += f", {status['unfit']} unfit for the model (tinyreptile status says why)"
        self._bar.update(self._tasks[run], completed=status["updates"])
        of = f"/{self._rounds[run]}" if self._rounds[run] else ""
        self.note(run, text + note, f"{last_known(status, 'updates')}{of} updates: ")

    def show_compiling(self, run: str, kernels: tuple[int, int] | None) -> None:
        """Show how many kernels of how many the devices of ``run`` have compiled, if they compile any."""
        if kernels:
            self.note(run, f"compiling: {kernels[0]} of {kernels[1]} kernels")

    def note(self, run: str, text: str, count: str = "") -> None:
        """Show ``text`` of a run, where there is no bar after its ``count``."""
        name = self._names[run]
        self._bar.update(self._tasks[run], description=name + text)
        if not out.is_terminal and time.monotonic() - self._printed[run] > LINE_SECONDS:
            self._printed[run] = time.monotonic()
            out.print(f"{name}{count}{text}", soft_wrap=True, highlight=False, markup=False)
