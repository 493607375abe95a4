"""`tinyreptile demo`: everything at once on this machine, with a table and a picture at the end."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from coordinator.config import BrokerConfig, Config, load_config
from coordinator.errors import ConfigError
from tinyreptile.messages import CLIENT_ID

from .console import RunProgress, configure_logging, err, need, out, without_numba
from .options import (
    TASK_HELP,
    CertificateOption,
    ClientIdOption,
    Connection,
    DataOption,
    DeviceClientIdOption,
    KeyOption,
    PasswordOption,
    TlsOption,
    UserOption,
    device_client_id,
)
from .signals import stopping

# What suits a demonstration: enough updates for a good picture in about a minute and a half, few of them stale.
ROUNDS = {"sine": 20_000, "presence": 8_000, "omniglot": 3_000, "keywords": 2_000}
OTHER_ROUNDS = 3_000
SETTINGS: dict[str, Any] = {"mode": "asynchronous", "in_flight": 12, "bits": 8}
EVALUATIONS = 20
RUN = "demo"
PICTURES = (".png", ".svg", ".pdf")


def command(
    task: Annotated[str, typer.Option(help=TASK_HELP)] = "sine",
    devices: Annotated[
        int, typer.Option("--devices", "-n", min=2, max=1000, help="Devices, one of them MicroPython.")
    ] = 50,
    evaluators: Annotated[int, typer.Option(min=4, max=100, help="Unseen devices for evaluation.")] = 10,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Updates to take \\[default: 20000 for sine].", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Makes the fleet and the first initialization.")] = 1,
    picture: Annotated[
        Path | None, typer.Option(help="Where the picture goes \\[default: out/demo-TASK.png].", show_default=False)
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(
            "--broker", metavar="HOST[:PORT]", help="The MQTT broker \\[default: one of its own].", show_default=False
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="NAME", help=f"The run's name \\[default: {RUN}].", show_default=False),
    ] = None,
    user: UserOption = None,
    password_file: PasswordOption = None,
    tls_ca: TlsOption = None,
    tls_cert: CertificateOption = None,
    tls_key: KeyOption = None,
    client_id: ClientIdOption = None,
    device_client_ids: DeviceClientIdOption = CLIENT_ID,
    data: DataOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more about what happens.")] = False,
) -> None:
    """Watch a fleet learn: broker, coordinator, simulated devices and one real MicroPython device, then a picture.

    Example: [bold]tinyreptile demo --task presence --data ../shared/data[/]
    """
    from simulator.demo import run_demo
    from simulator.tasks import task_settings

    configure_logging(verbose)
    path = _picture_path(picture, Path("out") / f"demo-{task}.png")
    without_numba("swarm")
    settings = task_settings(task)
    settings["learning"] = settings.get("learning", {}) | SETTINGS
    wanted = rounds or ROUNDS.get(task, OTHER_ROUNDS)
    settings["run"] |= {"rounds": wanted, "seed": seed, "name": run or RUN}
    settings["evaluation"] = settings.get("evaluation", {}) | {"every": max(1, wanted // EVALUATIONS)}
    names = device_client_id(device_client_ids)
    if any((user, password_file, tls_ca, tls_cert, tls_key, client_id)) and not broker:
        raise ConfigError(
            "--user, --password-file, --tls-... and --client-id belong to a broker of yours: name it with --broker"
        )
    given = (
        Connection(None, broker, run, user, password_file, tls_ca, tls_cert, tls_key, client_id).settings().broker
        if broker
        else None
    )

    def make_config(at: BrokerConfig, folder: Path) -> Config:
        broker_table = at.model_dump()
        return load_config(
            None, {**settings, "broker": broker_table, "run": settings["run"] | {"store": folder / "demo.sqlite"}}
        )

    async def go() -> Any:
        stop = asyncio.Event()
        with stopping(partial(_stop, stop)), RunProgress({settings["run"]["name"]: wanted}) as progress:
            return await run_demo(
                make_config,
                task_name=task,
                data=data,
                broker=given,
                devices=devices,
                evaluators=evaluators,
                seed=seed,
                client_id=names,
                on_start=lambda text: out.print(text, highlight=False),
                on_compiling=partial(progress.show_compiling, settings["run"]["name"]),
                on_status=progress.show,
                stop=stop,
            )

    result = asyncio.run(go())
    if result.status["state"] != "finished":
        err.print(f"Stopped after {result.status['updates']} updates.", highlight=False)
        raise typer.Exit(130)
    with out.status(f"measuring what {evaluators} unseen devices make of it"):
        table = _table(result)
    out.print(table)
    if path is not None:
        from simulator.pictures import draw

        try:
            with out.status("drawing the picture"):
                draw(result, path)
        except OSError as error:
            raise ConfigError(f"the picture can't be written to {path}: {error.strerror or error}") from None
        out.print(f"Picture: {path}", highlight=False)


def _stop(stop: asyncio.Event) -> None:
    if not stop.is_set():
        err.print("Stopping.", highlight=False)
    stop.set()


def _picture_path(wanted: Path | None, default: Path) -> Path | None:
    """Where the picture goes, or None where it can't be drawn and nobody asked for it; raises `ConfigError`."""
    path = wanted or default
    try:
        need("a picture", "swarm", "matplotlib")
    except ConfigError as error:
        if wanted is not None:
            raise
        err.print(f"No picture will be drawn: {error}", highlight=False, markup=False, soft_wrap=True)
        return None
    if path.suffix not in PICTURES:
        raise ConfigError(f"--picture: {path} does not end in {', '.join(PICTURES[:-1])} or {PICTURES[-1]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        with path.open("ab"):
            pass
        if not there:
            path.unlink()
    except OSError as error:
        raise ConfigError(f"--picture: {path} can't be written: {error.strerror or error}") from None
    return path


def _table(result: Any) -> Table:
    evaluation = result.config.evaluation
    table = Table(
        title=f"{result.evaluators} unseen devices, {evaluation.shots} samples each, {evaluation.steps} steps"
    )
    table.add_column("initialization")
    columns = [("loss before", "before"), ("loss after", "after")]
    if "balanced_accuracy_after" in result.learned:
        columns += [
            ("accuracy before", "balanced_accuracy_before"),
            ("accuracy after", "balanced_accuracy_after"),
        ]
    for name, _ in columns:
        table.add_column(name, justify="right")
    for name, summary in (("random", result.start), ("learned by the fleet", result.learned)):
        cells = [f"{summary[key]:.1%}" if "accuracy" in key else f"{summary[key]:.3f}" for _, key in columns]
        table.add_row(name, *cells)
    status = result.status
    board = (
        "no MicroPython on this machine"
        if result.micropython is None
        else f"{result.micropython} of them from real MicroPython"
    )
    table.caption = (
        f"{result.took_part} of {result.devices} devices took part: {status['updates']} updates accepted ({board}), "
        f"{sum(status['refusals'].values())} refused, "
        f"round trip p50 {status['round_trip_p50'] * 1e3:.0f} ms, p99 {status['round_trip_p99'] * 1e3:.0f} ms, "
        f"{result.broker}"
    )
    if len(columns) > 2:
        table.caption += "; accuracies are balanced: the mean over the classes"
    return table
