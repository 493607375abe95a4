"""`tinyreptile reproduce`: the offline study, its tables and pictures."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shlex
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from coordinator.documents import DocumentError, parse_value

from .console import LINE_SECONDS, configure_logging, err, need, out, without_numba
from .options import DataOption, VerboseOption

if TYPE_CHECKING:
    from simulator.study.job import Job
    from simulator.study.store import Store
    from simulator.study.summary import Outcome
    from simulator.study.workers import Event, Failed

SHOWN = ("variant", "before", "after adaptation", "gradients", "bytes sent", "RAM, bytes")  # columns that fit 80 signs


def command(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TASK]...", help="sine, omniglot, keywords, presence, or all \\[default: all]."),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Seeds 1 to this \\[default: 5, or 2 with --quick].", show_default=False),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Serial rounds; others get as many updates \\[default: the task's].", show_default=False
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds, rough figures: all in ten minutes.")] = False,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Runs at the same time \\[default: the cores].", show_default=False),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of results \\[default: out/reproduce, or -quick].", show_default=False),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A variant to run; repeat for more \\[default: all].", show_default=False)
    ] = None,
    algorithm: Annotated[
        list[str] | None,
        typer.Option(help="An algorithm of yours to compare, as package.module.Class.", show_default=False),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE,...",
            help="A setting to try with these values, as device.beta=0.01,0.02; repeat for every combination.",
            show_default=False,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Of a Dask scheduler whose workers run it.", show_default=False),
    ] = None,
    data: DataOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run anew what is there already.")] = False,
    docs: Annotated[bool, typer.Option("--docs", help="Write docs/results.md and docs/results/, too.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Compare the algorithms on unseen devices: every variant with every seed, then tables and pictures.

    What has been run is kept, and not run again: after Ctrl-C the same command goes on.

    Example: [bold]tinyreptile reproduce sine presence --quick --seeds 3[/]
    """
    from simulator.study import StudyError
    from simulator.study.experiments import EXPERIMENTS, own, plan
    from simulator.study.store import Store

    configure_logging(verbose)
    need("the study's report", "study", "matplotlib", "scipy")
    without_numba("study")
    names = dict.fromkeys(name for given in tasks or ["all"] for name in (EXPERIMENTS if given == "all" else [given]))
    extra = own(algorithm or [])
    plan_of = functools.partial(
        plan, seeds=range(1, (seeds or (2 if quick else 5)) + 1), updates=rounds, quick=quick, extra=extra
    )
    sweep = dict(map(_values, settings or []))
    planned = plan_of(names, only=only, sweep=sweep)
    if docs and not Path("docs").is_dir():
        raise StudyError("--docs writes into the folder docs of the project, and there is none here")
    store = Store(folder or Path("out") / ("reproduce-quick" if quick else "reproduce"))
    missing = planned if fresh else [job for job in planned if store.result(job) is None]
    if not only and not scheduler and importlib.util.find_spec("torch") is None:
        twins = [job for job in missing if job.settings["device"]["format"] == "float32"]
        if twins:
            text = (
                f"PyTorch is missing, and {len(twins)} runs with it are left out; pip install torch==2.13.0 brings it."
            )
            out.print(text, highlight=False, soft_wrap=True)
            planned = [job for job in planned if job not in twins]
            missing = [job for job in missing if job not in twins]
    try:
        failed = _run(missing, len(planned), store, data, jobs or os.cpu_count() or 1, scheduler, fresh)
    except KeyboardInterrupt:
        done = sum(store.result(job) is not None for job in planned)
        err.print(
            f"Stopped: {done} of {len(planned)} runs are in {store.runs}; the same command "
            f"{'without --fresh ' if fresh else ''}goes on from there.",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(130) from None
    _show(planned, store)
    # The files have everything that fits, what this command was not about, too.
    everything = plan_of(dict.fromkeys([*EXPERIMENTS, *names])) + (planned if sweep else [])
    options = [("--seeds", seeds), ("--rounds", rounds), *(("--algorithm", name) for name in algorithm or [])]
    options += [("--set", setting) for setting in settings or []]
    line = [*(["--quick"] if quick else []), *(f"{k}={v}" for k, v in options if v is not None)]
    _write(everything, store, docs, line)
    if failed:
        _tell(failed, verbose)
        raise typer.Exit(1)


def _values(setting: str) -> tuple[str, list[int | float | str]]:
    """The name and the values of "name=value,value"."""
    name, equals, values = setting.partition("=")
    if not name or not equals or not all(values.split(",")):
        raise typer.BadParameter(f"{setting!r} is not of the form NAME=VALUE,VALUE", param_hint="--set")
    return name, [_value(value) for value in values.split(",")]


def _value(text: str) -> int | float | str:
    with contextlib.suppress(DocumentError):
        value = parse_value(text)
        if type(value) in (int, float):
            return value  # type: ignore[no-any-return]
    return text


def _run(
    missing: list[Job], planned: int, store: Store, data: Path | None, jobs: int, scheduler: str | None, fresh: bool
) -> list[Failed]:
    """Run what is ``missing``, ``fresh`` without what there is of it; returns what failed."""
    from simulator.study.cluster import cluster
    from simulator.study.job import check, saved_state
    from simulator.study.workers import Workers
    from tinyreptile.cpython_compile import compile_kernels

    if not missing:
        out.print(f"All {planned} runs are in {store.runs}.", highlight=False)
        return []
    # Whatever can be wrong shows before anything runs, or is removed.
    check(missing, data)
    if not fresh:
        for job in missing:
            saved_state(job, store.checkpoint(job))
    ends = cluster(missing, scheduler, data) if scheduler else None
    store.prepare()
    if fresh:
        store.forget(missing)
    if len(missing) < planned:
        out.print(f"{planned - len(missing)} of {planned} runs are in {store.runs} already.", highlight=False)
    if ends:
        return _follow(ends, missing, store)
    for weights in sorted({job.settings["device"]["format"] for job in missing}):
        compile_kernels(weights, functools.partial(out.print, highlight=False))  # which workers then load
    with Workers(missing, jobs, data, store.runs) as workers:
        return _follow(workers, missing, store)


def _follow(events: Iterable[Event], jobs: list[Job], store: Store) -> list[Failed]:
    """Store results as they come, and show how far it all is."""
    from simulator.study.workers import Finished
    from simulator.study.workers import Progress as Rounds

    total = sum(job.rounds for job in jobs)
    rounds = dict.fromkeys((job.name for job in jobs), 0)
    finished: set[str] = set()
    failed: list[Failed] = []
    printed = time.monotonic()
    bar = Progress(
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=out,
        transient=True,
        disable=not out.is_terminal,
    )
    with bar:
        line = bar.add_task(f"0/{len(jobs)} runs", total=total)
        for event in events:
            name = event.job.name
            if isinstance(event, Rounds):
                rounds[name] = event.rounds
            else:
                rounds[name] = event.job.rounds
                finished.add(name)
                if isinstance(event, Finished):
                    store.add(event.job, event.result)
                else:
                    failed.append(event)
            done = sum(rounds.values())
            running = ", ".join(job for job, n in rounds.items() if n and job not in finished)
            text = f"{len(finished)}/{len(jobs)} runs" + (f", {len(failed)} failed" if failed else "")
            bar.update(line, completed=done, description=f"{text}  {running}")
            if not out.is_terminal and time.monotonic() - printed > LINE_SECONDS:
                printed = time.monotonic()
                out.print(f"{done / total:.0%}, {text}: {running}", soft_wrap=True, highlight=False)
    return failed


def _tell(failed: list[Failed], verbose: bool) -> None:
    """What failed and why, each reason once."""
    reasons: dict[str, list[Failed]] = {}
    for failure in failed:
        reasons.setdefault(failure.reason, []).append(failure)
    for reason, failures in reasons.items():
        names = ", ".join(sorted(failure.job.name for failure in failures))
        err.print(f"[bold red]failed:[/] {escape(names)}: {escape(reason)}", soft_wrap=True, highlight=False)
        if verbose:
            err.print(failures[0].details, markup=False, highlight=False)
    err.print("The same command tries these again; --verbose shows where they failed.", highlight=False)


def _show(planned: list[Job], store: Store) -> None:
    """Tables on the terminal."""
    from simulator.study.claims import claims
    from simulator.study.summary import gather

    for task, of_task in gather((job, result) for job in planned if (result := store.result(job))).items():
        out.print(_results(task, of_task))
        rows = claims(of_task)
        if rows:
            table = Table("claim", "measured", "target", "met", title=f"{task}: what was to be shown")
            for claim in rows:
                table.add_row(claim.what, claim.value, claim.target, {True: "yes", False: "no", None: ""}[claim.met])
            out.print(table)


def _write(everything: list[Job], store: Store, docs: bool, options: list[str]) -> None:
    """The files, which name the command that makes all of them, with ``options``."""
    from simulator.study.experiments import EXPERIMENTS
    from simulator.study.report import write_all, write_page
    from simulator.study.summary import gather

    found = [(job, result) for job in everything if (result := store.fitting(job))]
    outcomes = gather(found)
    if not outcomes:
        return
    missing: dict[str, list[str]] = {}
    for task, of_task in outcomes.items():
        titles = {job.settings["variant"]: job.title for job in everything if job.settings["task"] == task}
        missing[task] = [title for name, title in titles.items() if name not in of_task]
    tasks = list(outcomes)
    if set(EXPERIMENTS) <= set(tasks):
        tasks = ["all", *(task for task in tasks if task not in EXPERIMENTS)]
    line = shlex.join(["tinyreptile", "reproduce", *tasks, *options])
    for path in write_all(outcomes, missing, store.out, line):
        out.print(str(path), highlight=False, soft_wrap=True)
    if docs:
        page = write_page(outcomes, missing, Path("docs/results.md"), Path("docs/results"), line)
        out.print(str(page), highlight=False)


def _results(task: str, of_task: dict[str, Outcome]) -> Table:
    from simulator.study.report import COLUMNS

    table = Table(title=f"{task}: {next(iter(of_task.values())).metric} on unseen devices")
    for column in SHOWN:
        table.add_column(column, justify="left" if column == "variant" else "right", overflow="fold")
    for outcome in of_task.values():
        table.add_row(*(escape(COLUMNS[column](outcome).replace("*", "")) for column in SHOWN))
    return table
