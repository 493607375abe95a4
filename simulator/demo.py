"""The demonstration: broker, coordinator, a fleet with a real MicroPython device among it, and unseen devices."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from coordinator.config import BrokerConfig, Config
from coordinator.evaluation import EvaluationRound
from coordinator.initialization import random_weights
from coordinator.rules import Weights
from coordinator.service import Coordinator
from tinyreptile.model import Model

from .broker import embedded_broker
from .micropython import find_micropython, lost, micropython_device
from .offline import IntegerDevice, evaluate
from .processes import SwarmProcesses
from .swarm import Counts, SwarmSpec
from .tasks import Task, make_task

MICROPYTHON_ID = "micropython-0"

Loss = Callable[[], Coroutine[Any, Any, str]]  # returns once a part is gone, with what became of it


class DemoError(Exception):
    """A part of the demonstration is gone."""


@dataclass(frozen=True)
class DemoResult:
    """What a demonstration came to.

    Attributes:
        devices: that learned, or should have; ``took_part``: those of which an update was accepted.
        history: the evaluations during the run.
        micropython: updates accepted from the MicroPython device, None if there was none.
    """

    task: Task
    config: Config
    broker: str
    weights: Weights
    status: dict[str, Any]
    history: list[dict[str, Any]]
    counts: Counts
    devices: int
    took_part: int
    micropython: int | None
    evaluators: int

    @cached_property
    def start(self) -> dict[str, Any]:
        """Evaluate the random start: the fields of `coordinator.evaluation.EvaluationRound.summary`."""
        model = Model(self.config.run.model, self.config.run.weights)
        return self._summary(random_weights(model, self.config.run.seed))

    @cached_property
    def learned(self) -> dict[str, Any]:
        """Evaluate what the fleet learned, on the same unseen devices with the same samples as `start`."""
        return self._summary(self.weights)

    def _summary(self, weights: Weights) -> dict[str, Any]:
        """What the unseen devices make of ``weights``: an evaluation round without the network."""
        settings = self.config.evaluation
        unseen = [self.task.unseen_stream(index, self.config.run.seed) for index in range(self.evaluators)]
        counts = {"steps": settings.steps, "shots": settings.shots, "queries": settings.queries}
        results = evaluate(evaluation_device(self.config), weights, unseen, **counts)
        return EvaluationRound(0, 0, results=results).summary()


async def run_demo(
    make_config: Callable[[BrokerConfig, Path], Config],
    *,
    task_name: str,
    data: Path | None,
    broker: BrokerConfig | None,
    devices: int,
    evaluators: int,
    seed: int,
    client_id: str,
    on_start: Callable[[str], None],
    on_compiling: Callable[[tuple[int, int] | None], None],
    on_status: Callable[[dict[str, Any]], None],
    stop: asyncio.Event,
) -> DemoResult:
    """Run it to its end, or until ``stop``; ``broker`` None: one of its own.

    ``client_id`` is that of its devices, as in a configuration. ``make_config`` makes the coordinator's configuration
    for a broker and a folder for the store. ``on_start`` is called with a sentence for each part that has started,
    ``on_compiling`` now and then, before devices connect, with `SwarmProcesses.compiling`. Raises `DemoError` if
    devices or the broker are gone before the end.
    """
    task = make_task(task_name, data)
    if task.devices is not None:
        devices = min(devices, task.devices)
    if task.evaluators is not None:
        evaluators = min(evaluators, task.evaluators)
    simulated = devices
    losses: list[Loss] = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tinyreptile-")))
        broker_name = "the given broker"
        if broker is None:
            embedded = await stack.enter_async_context(embedded_broker())
            broker = BrokerConfig(host=embedded.host, port=embedded.port)
            broker_name = embedded.name
            losses.append(embedded.lost)
        on_start(f"Broker: {broker_name} on {broker.host}:{broker.port}")
        config = make_config(broker, folder)
        listening = asyncio.Event()

        def heard(status: dict[str, Any]) -> None:
            listening.set()
            on_status(status)

        coordinator = Coordinator(config, on_status=heard)
        micropython = find_micropython() if broker.tls_ca is None else None
        if micropython is not None:
            # What the library takes, and the model.
            heap = max(96, 64 + -(-coordinator.run_state.model.ram() // 1024))
            on_start(f"MicroPython device: a process of its own, viper kernels, {heap} KiB of heap")
            simulated -= 1
            settings = {
                "id": MICROPYTHON_ID,
                "run": config.run.name,
                "host": broker.host,
                "port": broker.port,
                "user": broker.user or "",
                "password": broker.password() or "",
                "client_id": client_id,
                "weights": config.run.weights,
                "stream": task.micropython_stream(simulated, seed, folder),
            }
            process = await stack.enter_async_context(micropython_device(micropython, folder, settings, f"{heap}wK"))
            devices_known = coordinator.run_state.registry.devices

            def away() -> bool:
                device = devices_known.get(MICROPYTHON_ID)
                return device is not None and device.state != "online"

            losses.append(partial(lost, process, folder, MICROPYTHON_ID, away))
        spec = SwarmSpec(
            run=config.run.name,
            broker=broker,
            task=task_name,
            devices=simulated,
            evaluators=evaluators,
            seed=seed,
            client_id=client_id,
            data=data,
            weights=config.run.weights,
        )
        swarm = SwarmProcesses(spec)
        losses.append(partial(_lost_devices, swarm))
        on_start(f"Fleet: {simulated} simulated devices, {evaluators} unseen ones for evaluation")
        status, counts = await _serve(coordinator, listening, swarm, losses, on_compiling, stop)
    run = coordinator.run_state
    took_part = sum(device.accepted > 0 for device in run.registry.devices.values())
    board = run.registry.devices.get(MICROPYTHON_ID)
    return DemoResult(
        task=task,
        config=config,
        broker=broker_name,
        weights=run.weights,
        status=status,
        history=run.evaluations.summaries,
        counts=counts,
        devices=devices,
        took_part=took_part,
        micropython=board.accepted if board and micropython else None,
        evaluators=evaluators,
    )


async def _serve(
    coordinator: Coordinator,
    listening: asyncio.Event,
    swarm: SwarmProcesses,
    losses: Sequence[Loss],
    on_compiling: Callable[[tuple[int, int] | None], None],
    stop: asyncio.Event,
) -> tuple[dict[str, Any], Counts]:
    """Serve with the fleet to the end; raises `DemoError` with the first of ``losses`` that comes true."""
    swarm.start(hold=True)
    stopping = asyncio.create_task(_stop_when(stop, coordinator))
    ready = asyncio.create_task(_compiled(swarm, on_compiling))
    watching = [asyncio.create_task(loss()) for loss in losses]
    tasks: list[asyncio.Task[Any]] = [stopping, ready, *watching]
    try:
        # Nobody serves before the fleet can work: the MicroPython device would do all the work meanwhile.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        serving = asyncio.create_task(coordinator.run())
        heard = asyncio.create_task(listening.wait())
        tasks += [serving, heard]
        # The fleet connects when the coordinator listens: iotcore would leave out of its statuses all but 100.
        await asyncio.wait([serving, heard, *watching], return_when=asyncio.FIRST_COMPLETED)
        if heard.done() and not stop.is_set():
            swarm.connect()
        await asyncio.wait([serving, *watching], return_when=asyncio.FIRST_COMPLETED)
        coordinator.stop()
        status = await serving
        for watch in watching:
            if watch.done():
                raise DemoError(f"{watch.result()}; the demonstration ends after {status['updates']} updates")
        await asyncio.sleep(1.0)  # the last acknowledgements reach the devices
    finally:
        for task in tasks:
            task.cancel()
        counts = await swarm.stop()
    return status, counts


async def _stop_when(stop: asyncio.Event, coordinator: Coordinator) -> None:
    await stop.wait()
    coordinator.stop()


async def _compiled(swarm: SwarmProcesses, on_compiling: Callable[[tuple[int, int] | None], None]) -> None:
    """Return once the kernels are compiled, with word of it to ``on_compiling`` meanwhile."""
    while not swarm.ready:
        on_compiling(swarm.compiling)
        await asyncio.sleep(0.1)


async def _lost_devices(swarm: SwarmProcesses) -> str:
    """Return, once a part of the fleet is gone, what became of it."""
    while (what := swarm.lost) is None:  # noqa: ASYNC110 - a process has no event to wait for
        await asyncio.sleep(0.5)
    return what


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
