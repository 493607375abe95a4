"""`tinyreptile swarm`: simulated devices, each the very client that runs on a board."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from coordinator.errors import ConfigError, CoordinatorError
from coordinator.observer import FIRST_SECONDS, SILENT_SECONDS, watch
from coordinator.operator import other_runs
from tinyreptile.messages import CLIENT_ID, EVALUATE, TRAIN

from .console import RunProgress, configure_logging, err, goes_on, no_run, out, without_numba
from .options import (
    TASK_HELP,
    Connection,
    CredentialsOption,
    DataOption,
    DeviceClientIdOption,
    VerboseOption,
    connected,
    device_client_id,
)
from .signals import stopping

if TYPE_CHECKING:
    from simulator.processes import SwarmProcesses
    from simulator.swarm import SwarmSpec


@connected
def command(
    connection: Connection,
    devices: Annotated[
        int | None,
        typer.Option(
            "--devices",
            "-n",
            min=0,
            max=100_000,
            help="Training devices \\[default: 50, with --credentials all that there are].",
            show_default=False,
        ),
    ] = None,
    evaluators: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=10_000,
            help="Held-out devices for evaluation \\[default: 10, with --credentials all that there are].",
            show_default=False,
        ),
    ] = None,
    task: Annotated[str, typer.Option(help=TASK_HELP)] = "sine",
    seed: Annotated[int, typer.Option(min=0, help="Makes the fleet: the same seed, the same devices.")] = 1,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Processes to spread them over.")] = 1,
    data: DataOption = None,
    fleet: CredentialsOption = None,
    prefix: Annotated[
        str | None,
        typer.Option(
            help="Of the devices' ids \\[default: the task]; --credentials has names of its own.", show_default=False
        ),
    ] = None,
    device_client_ids: DeviceClientIdOption = CLIENT_ID,
    think: Annotated[float, typer.Option(min=0, help="Mean seconds that a piece of training takes.")] = 0.0,
    latency: Annotated[float, typer.Option(min=0, help="Seconds that messages from the broker are late.")] = 0.0,
    drop_out: Annotated[
        float, typer.Option(min=0, max=1, help="Chance that a device drops out during its work.")
    ] = 0.0,
    ram: Annotated[
        int | None,
        typer.Option(min=0, help="Bytes a device has for the model \\[default: no limit].", show_default=False),
    ] = None,
    privacy_clip: Annotated[
        float | None,
        typer.Option(help="Make updates private: the largest norm of a change, in weights.", show_default=False),
    ] = None,
    privacy_noise: Annotated[
        float | None,
        typer.Option(help="Standard deviation of their noise, in units of --privacy-clip.", show_default=False),
    ] = None,
    privacy_ledgers: Annotated[
        Path, typer.Option(help="Folder where each counts them, also for the next swarm of the same devices.")
    ] = Path("privacy"),
    stay: Annotated[bool, typer.Option(help="Stay when the run has finished.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Run a swarm of simulated devices until the run has finished, or until Ctrl-C.

    Example: [bold]tinyreptile swarm -n 200 --task sine --broker localhost:1883 --run kitchen[/]
    """
    from deployment.fleet import load
    from simulator.conditions import Conditions
    from simulator.processes import SwarmProcesses
    from simulator.swarm import SwarmSpec

    configure_logging(verbose)
    folder = load(fleet) if fleet else None
    if folder and connection.config is None:  # what the observer may see is what is watched here
        connection = replace(connection, config=folder.observer(connection.run))
    settings = connection.settings()
    if devices is None:
        devices = len(folder.devices_of(settings.run.name, TRAIN)) if folder else 50
    if evaluators is None:
        evaluators = len(folder.devices_of(settings.run.name, EVALUATE)) if folder else 10
    without_numba("swarm")
    spec = SwarmSpec(
        run=settings.run.name,
        broker=settings.broker,
        task=task,
        devices=devices,
        evaluators=evaluators,
        seed=seed,
        data=data,
        ram=ram,
        prefix=prefix,
        client_id=device_client_id(device_client_ids),
        fleet=fleet,
        privacy=_privacy(privacy_clip, privacy_noise),
        ledgers=privacy_ledgers,
        weights=settings.run.weights,
        conditions=Conditions(think=think, latency=latency, drop_out=drop_out),
    )
    swarm = SwarmProcesses(spec, processes)
    problem = asyncio.run(_run(swarm, spec, stay))
    if problem:
        raise CoordinatorError(problem)


def _privacy(clip: float | None, noise: float | None) -> tuple[float, float] | None:
    from tinyreptile.budget import check

    if clip is None and noise is None:
        return None
    if clip is None or noise is None:
        raise ConfigError("--privacy-clip and --privacy-noise go together")
    try:
        check(clip, noise)
    except ValueError as error:
        raise ConfigError(f"--privacy-clip, --privacy-noise: {error}") from None
    return clip, noise


async def _run(swarm: SwarmProcesses, spec: SwarmSpec, stay: bool) -> str | None:
    """Watch the run and the devices until there is nothing left to do; returns what stood in the way, if anything."""
    from simulator.swarm import Swarm

    Swarm(spec)  # a mistake in the task or the names shows before any process starts
    stop = asyncio.Event()
    last: dict[str, Any] = {}
    heard = 0.0  # when the last status came
    lost: str | None = None
    finished_before = False
    with stopping(stop.set), RunProgress({spec.run: 0}) as progress:

        def show(status: dict[str, Any], retained: bool) -> None:
            nonlocal heard
            first = not last
            heard = time.monotonic()
            if status["state"] == "offline" and status["boot"] == last.get("boot"):
                last["state"] = status["state"]  # the rest of the will is as old as the coordinator's connection
            else:
                last.clear()
                last.update(status)
            if status["state"] == "finished" and not stay:
                if first and retained:
                    nonlocal finished_before
                    finished_before = True
                stop.set()

        watching = asyncio.create_task(_watch(spec, show))
        await asyncio.sleep(0)
        swarm.start()
        try:
            while not stop.is_set() and swarm.running:
                if watching.done():
                    watching.result()
                counts = swarm.counts()
                if counts.unfit == spec.devices + spec.evaluators:
                    break
                if lost is None and (lost := swarm.lost) is not None:
                    err.print(f"[bold red]error:[/] {escape(lost)}", soft_wrap=True, highlight=False)
                note = f"; here {counts.online} online, {counts.accepted} accepted"
                silent = time.monotonic() - heard
                if not swarm.ready:
                    progress.show_compiling(spec.run, swarm.compiling)
                elif not last:
                    progress.note(spec.run, f"waiting for a coordinator{note}")
                elif goes_on(last) and silent > SILENT_SECONDS:
                    progress.note(spec.run, f"nothing from the coordinator for {silent:.0f} seconds{note}")
                else:
                    progress.show(last | {"run": spec.run}, note)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await stop.wait()
        finally:
            watching.cancel()
            counts = await swarm.stop()
            await asyncio.gather(watching, return_exceptions=True)  # whatever it has ended with is of no use any more
    table = Table(title=f"Swarm of run {spec.run}", show_header=False)
    table.add_row("took part", f"{counts.took_part} of {spec.devices + spec.evaluators} devices")
    for name, value in vars(counts).items():
        if name not in ("online", "took_part"):
            table.add_row(name, str(value))
    out.print(table)
    if finished_before:
        return (
            f"run {spec.run} has finished already, with {last['updates']} updates; "
            "serve it again with more --rounds, or wait for that with --stay"
        )
    return swarm.problem or lost


async def _watch(spec: SwarmSpec, show: Callable[[dict[str, Any], bool], None]) -> None:
    """Call ``show`` as `watch` does, for ever; say that nobody serves the run if nothing is heard of it at first.

    One session follows on the other: they may have one client id, of which a broker keeps one.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIRST_SECONDS) as limit:

            def show_all(status: dict[str, Any], retained: bool) -> None:
                limit.reschedule(None)
                show(status, retained)

            await watch(spec.run, spec.broker, show_all)
    with contextlib.suppress(CoordinatorError):
        found = await other_runs(spec.broker)
        if found is None or spec.run not in found:
            text = escape(no_run(spec.run, spec.broker, found))
            err.print(f"[bold yellow]warning:[/] {text}\nIts devices wait for it.", soft_wrap=True, highlight=False)
    await watch(spec.run, spec.broker, show)
