"""`tinyreptile demo`: everything at once on this machine, with a table and a picture at the end."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from coordinator.config import BrokerConfig, Config, load_config
from coordinator.errors import ConfigError

from .console import RunProgress, configure_logging, err, out
from .options import (
    TASK_HELP,
    BrokerOption,
    CertificateOption,
    Connection,
    DataOption,
    KeyOption,
    PasswordOption,
    RunOption,
    TlsOption,
    UserOption,
)

# What suits a demonstration: enough updates for a good picture in about a minute and a half, few of them stale.
ROUNDS = {"sine": 20_000, "presence": 8_000, "omniglot": 3_000, "keywords": 2_000}
OTHER_ROUNDS = 3_000
SETTINGS: dict[str, Any] = {"mode": "asynchronous", "in_flight": 12, "publish_interval": 0.02, "bits": 8}
EVALUATIONS = 20


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
    broker: BrokerOption = None,
    run: RunOption = None,
    user: UserOption = None,
    password_file: PasswordOption = None,
    tls_ca: TlsOption = None,
    tls_cert: CertificateOption = None,
    tls_key: KeyOption = None,
    data: DataOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more about what happens.")] = False,
) -> None:
    """Watch a fleet learn: broker, coordinator, simulated devices and one real MicroPython device, then a picture.

    Example: [bold]tinyreptile demo --task presence --data ../shared/data[/]
    """
    from simulator.demo import run_demo
    from simulator.tasks import task_settings

    configure_logging(verbose)
    settings = task_settings(task)
    settings["learning"] = settings.get("learning", {}) | SETTINGS
    wanted = rounds or ROUNDS.get(task, OTHER_ROUNDS)
    settings["run"] |= {"rounds": wanted, "seed": seed, "name": run or "demo"}
    settings["evaluation"] = settings.get("evaluation", {}) | {"every": max(1, wanted // EVALUATIONS)}
    if any((user, password_file, tls_ca, tls_cert, tls_key)) and not broker:
        raise ConfigError("--user, --password-file and --tls-... belong to a broker of yours: name it with --broker")
    given = (
        Connection(None, broker, run, user, password_file, tls_ca, tls_cert, tls_key).settings().broker
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
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        with RunProgress({settings["run"]["name"]: wanted}) as progress:
            result = await run_demo(
                make_config,
                task_name=task,
                data=data,
                broker=given,
                devices=devices,
                evaluators=evaluators,
                seed=seed,
                on_start=lambda text: out.print(text, highlight=False),
                on_status=progress.show,
                stop=stop,
            )
        if result.status["state"] == "finished":
            from simulator.pictures import draw

            path = picture or Path("out") / f"demo-{task}.png"
            draw(result, path)
            out.print(_table(result))
            out.print(f"Picture: {path}", highlight=False)
        return result

    result = asyncio.run(go())
    if result.status["state"] != "finished":
        err.print(f"Stopped after {result.status['updates']} updates.", highlight=False)
        raise typer.Exit(130)


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
        "none on this machine" if result.micropython is None else f"{result.micropython} of them from real MicroPython"
    )
    table.caption = (
        f"{status['updates']} updates accepted ({board}), {sum(status['refusals'].values())} refused, "
        f"round trip p50 {status['round_trip_p50'] * 1e3:.0f} ms, p99 {status['round_trip_p99'] * 1e3:.0f} ms, "
        f"{result.broker}"
    )
    if len(columns) > 2:
        table.caption += "; accuracies are balanced: the mean over the classes"
    return table
