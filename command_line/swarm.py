"""`tinyreptile swarm`: simulated devices, each the very client that runs on a board."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.table import Table

from coordinator.errors import ConfigError, CoordinatorError
from coordinator.observer import watch

from .console import RunProgress, configure_logging, out
from .options import (
    TASK_HELP,
    Connection,
    CredentialsOption,
    DataOption,
    VerboseOption,
    connected,
)


@connected
def command(
    connection: Connection,
    devices: Annotated[int, typer.Option("--devices", "-n", min=0, max=100_000, help="Training devices.")] = 50,
    evaluators: Annotated[int, typer.Option(min=0, max=10_000, help="Held-out devices for evaluation.")] = 10,
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
    if fleet and connection.config is None:  # what the observer may see is what is watched here
        connection = replace(connection, config=load(fleet).observer(connection.run))
    settings = connection.settings()
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
        fleet=fleet,
        privacy=_privacy(privacy_clip, privacy_noise),
        conditions=Conditions(think=think, latency=latency, drop_out=drop_out),
    )
    swarm = SwarmProcesses(spec, processes)
    problem = asyncio.run(_run(swarm, spec, stay))
    if problem:
        raise CoordinatorError(problem)


def _privacy(clip: float | None, noise: float | None) -> tuple[float, float] | None:
    from tinyreptile.privacy import check

    if clip is None and noise is None:
        return None
    if clip is None or noise is None:
        raise ConfigError("--privacy-clip and --privacy-noise go together")
    try:
        check(clip, noise)
    except ValueError as error:
        raise ConfigError(f"--privacy-clip, --privacy-noise: {error}") from None
    return clip, noise


async def _run(swarm: Any, spec: Any, stay: bool) -> str | None:
    """Watch the run and the devices until there is nothing left to do; returns what stood in the way, if anything."""
    from simulator.swarm import Swarm

    Swarm(spec)  # a mistake in the task or the names shows before any process starts
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    last: dict[str, Any] = {}
    finished_before = False
    with RunProgress({spec.run: 0}) as progress:

        def show(status: dict[str, Any], retained: bool) -> None:
            first = not last
            last.update(status)
            if status["state"] == "finished" and not stay:
                if first and retained:
                    nonlocal finished_before
                    finished_before = True
                stop.set()

        watching = asyncio.create_task(watch(spec.run, spec.broker, show))
        await asyncio.sleep(0)
        swarm.start()
        try:
            while not stop.is_set() and swarm.running:
                if watching.done():
                    watching.result()
                counts = swarm.counts()
                if counts.unfit == spec.devices + spec.evaluators:
                    break
                note = f"; here {counts.online} online, {counts.accepted} accepted"
                if not counts.accepted:
                    note += " (the first time, compiling takes a minute)"
                if "devices" in last:
                    progress.show(last | {"run": spec.run}, note)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await stop.wait()
        finally:
            watching.cancel()
            counts = await swarm.stop()
    table = Table(title=f"Swarm of run {spec.run}", show_header=False)
    for name, value in vars(counts).items():
        if name != "online":
            table.add_row(name, str(value))
    out.print(table)
    problem: str | None = swarm.problem
    if finished_before:
        problem = (
            f"run {spec.run} has finished already, with {last['updates']} updates; "
            "serve it again with more --rounds, or wait for that with --stay"
        )
    return problem
