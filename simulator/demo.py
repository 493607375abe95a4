"""The demonstration: broker, coordinator, a fleet with a real MicroPython device among it, and unseen devices."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.config import BrokerConfig, Config
from coordinator.evaluation import EvaluationRound
from coordinator.initialization import random_weights
from coordinator.rules import Weights
from coordinator.service import Coordinator
from tinyreptile.model import Model

from .broker import embedded_broker
from .micropython import find_micropython, micropython_device
from .offline import IntegerDevice, evaluate
from .processes import SwarmProcesses
from .swarm import Counts, SwarmSpec
from .tasks import Task, make_task

MICROPYTHON_ID = "micropython-0"


@dataclass(frozen=True)
class DemoResult:
    """What a demonstration came to.

    Attributes:
        start: evaluation of the random start on the same unseen devices with the same samples; ``learned``: of what the
            fleet learned. Both have the fields of `coordinator.evaluation.EvaluationRound.summary`.
        history: the evaluations during the run.
        micropython: updates accepted from the MicroPython device, None if there was none.
    """

    task: Task
    config: Config
    broker: str
    weights: Weights
    status: dict[str, Any]
    start: dict[str, Any]
    learned: dict[str, Any]
    history: list[dict[str, Any]]
    counts: Counts
    micropython: int | None
    evaluators: int


async def run_demo(
    make_config: Callable[[BrokerConfig, Path], Config],
    *,
    task_name: str,
    data: Path | None,
    broker: BrokerConfig | None,
    devices: int,
    evaluators: int,
    seed: int,
    on_start: Callable[[str], None],
    on_status: Callable[[dict[str, Any]], None],
    stop: asyncio.Event,
) -> DemoResult:
    """Run it to its end, or until ``stop``; ``broker`` None: one of its own.

    ``make_config`` makes the coordinator's configuration for a broker and a folder for the store. ``on_start`` is
    called with a sentence for each part that has started.
    """
    task = make_task(task_name, data)
    if task.devices is not None:
        devices = min(devices, task.devices)
    if task.evaluators is not None:
        evaluators = min(evaluators, task.evaluators)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tinyreptile-")))
        broker_name = "the given broker"
        if broker is None:
            embedded = await stack.enter_async_context(embedded_broker())
            broker = BrokerConfig(host=embedded.host, port=embedded.port)
            broker_name = embedded.name
        on_start(f"Broker: {broker_name} on {broker.host}:{broker.port}")
        config = make_config(broker, folder)
        coordinator = Coordinator(config, on_status=on_status)
        micropython = find_micropython() if broker.tls_ca is None else None
        if micropython is not None:
            # What the library takes, and the model.
            heap = max(96, 64 + -(-coordinator.run_state.model.ram() // 1024))
            on_start(f"MicroPython device: a process of its own, viper kernels, {heap} KiB of heap")
            devices -= 1
            settings = {
                "id": MICROPYTHON_ID,
                "run": config.run.name,
                "host": broker.host,
                "port": broker.port,
                "user": broker.user or "",
                "password": broker.password() or "",
                "weights": config.run.weights,
                "stream": task.micropython_stream(devices, seed, folder),
            }
            await stack.enter_async_context(micropython_device(micropython, folder, settings, f"{heap}wK"))
        spec = SwarmSpec(
            run=config.run.name,
            broker=broker,
            task=task_name,
            devices=devices,
            evaluators=evaluators,
            seed=seed,
            data=data,
        )
        swarm = SwarmProcesses(spec)
        on_start(f"Fleet: {devices} simulated devices, {evaluators} unseen ones for evaluation")
        swarm.start()
        stopping = asyncio.create_task(_stop_when(stop, coordinator))
        try:
            status = await coordinator.run()
            await asyncio.sleep(1.0)  # the last acknowledgements reach the devices
        finally:
            stopping.cancel()
            counts = await swarm.stop()
    run = coordinator.run_state
    model = run.model
    board = run.registry.devices.get(MICROPYTHON_ID)
    start = random_weights(model.tensors, model.parameters, config.run.seed)
    return DemoResult(
        task=task,
        config=config,
        broker=broker_name,
        weights=run.weights,
        status=status,
        start=summary(config, task, start, evaluators, seed),
        learned=summary(config, task, run.weights, evaluators, seed),
        history=run.evaluations.summaries,
        counts=counts,
        micropython=board.accepted if board and micropython else None,
        evaluators=evaluators,
    )


async def _stop_when(stop: asyncio.Event, coordinator: Coordinator) -> None:
    await stop.wait()
    coordinator.stop()


def evaluation_device(config: Config) -> IntegerDevice:
    """A device as those of the run, with the learning rate of its evaluations."""
    learning = config.learning
    return IntegerDevice(
        Model(config.run.model, config.run.weights),
        beta=config.evaluation.beta or learning.beta,
        bits=learning.bits,
        top=learning.top,
        encoding=learning.encoding,
    )


def summary(config: Config, task: Task, weights: Weights, devices: int, seed: int) -> dict[str, Any]:
    """What the unseen devices 0 to ``devices`` - 1 make of ``weights``: an evaluation round without the network."""
    settings = config.evaluation
    device = evaluation_device(config)
    unseen = [task.unseen_stream(index, seed) for index in range(devices)]
    results = evaluate(device, weights, unseen, steps=settings.steps, shots=settings.shots, queries=settings.queries)
    return EvaluationRound(0, 0, results=results).summary()
