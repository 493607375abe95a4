from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import BrokerConfig, Config, load_config
from coordinator.errors import BrokerError
from coordinator.observer import watch
from coordinator.service import Coordinator
from simulator.conditions import Conditions
from simulator.processes import SwarmProcesses
from simulator.swarm import Counts, Swarm, SwarmSpec
from simulator.tasks import TaskError, make_task, task_settings
from tinyreptile.streams import TRAIN
from tinyreptile.streams.rows import RowsStream

from ..environment import Mosquitto, free_port


def config(broker: Mosquitto, path: Path, run: str, rounds: int = 60, **learning: Any) -> Config:
    tables = {
        "run": {"name": run, "rounds": rounds, "store": path / "run.sqlite"},
        "broker": {"host": broker.host, "port": broker.port},
        "learning": {"steps": 4, "deadline": 30, **learning},
        "evaluation": {"every": 0},
    }
    return load_config(None, tables, task_settings("sine"))


def spec(config: Config, devices: int = 6, **options: Any) -> SwarmSpec:
    return SwarmSpec(run=config.run.name, broker=config.broker, task="sine", devices=devices, **options)


async def run_with(swarm: Swarm, config: Config) -> tuple[dict[str, Any], Counts]:
    stop = asyncio.Event()
    life = asyncio.create_task(swarm.run(stop))
    try:
        status = await Coordinator(config).run()
        async with asyncio.timeout(10):
            while swarm.counts().accepted < status["updates"]:
                await asyncio.sleep(0.01)
        counts = swarm.counts()
    finally:
        stop.set()
        await life
    return status, counts


@pytest.mark.parametrize(("devices", "evaluators", "processes"), [(10, 3, 4), (1, 0, 3), (1000, 10, 7)])
def test_a_split_fleet_has_every_device_once(devices: int, evaluators: int, processes: int) -> None:
    whole = SwarmSpec(run="r", broker=BrokerConfig(), task="sine", devices=devices, evaluators=evaluators)
    parts = whole.split(processes)
    assert [i for p in parts for i in range(p.first, p.first + p.devices)] == list(range(devices))
    unseen = [i for p in parts for i in range(p.first_evaluator, p.first_evaluator + p.evaluators)]
    assert unseen == list(range(evaluators))


@pytest.mark.parametrize("conditions", [Conditions(), Conditions(think=0.02), Conditions(latency=0.02)])
@pytest.mark.usefixtures("compiled")
async def test_a_swarm_and_its_coordinator_count_the_same(
    broker: Mosquitto, tmp_path: Path, conditions: Conditions
) -> None:
    settings = config(broker, tmp_path, f"count-{conditions.think > 0:d}{conditions.latency > 0:d}")
    status, counts = await run_with(Swarm(spec(settings, conditions=conditions)), settings)
    assert (status["state"], status["updates"], counts.accepted) == ("finished", 60, 60)


@pytest.mark.usefixtures("compiled")
async def test_thinking_takes_its_time(broker: Mosquitto, tmp_path: Path) -> None:
    settings = config(broker, tmp_path, "think", rounds=4, mode="serial")
    status, _ = await run_with(Swarm(spec(settings, devices=1, conditions=Conditions(think=0.3))), settings)
    assert status["round_trip_p50"] > 0.05  # log-normal: no sample of it comes near so little


@pytest.mark.usefixtures("compiled")
async def test_a_late_network_delays_what_the_broker_sends(broker: Mosquitto, tmp_path: Path) -> None:
    settings = config(broker, tmp_path, "late", rounds=4, mode="serial")
    status, _ = await run_with(Swarm(spec(settings, devices=1, conditions=Conditions(latency=0.1))), settings)
    assert status["round_trip_p50"] > 0.1


@pytest.mark.usefixtures("compiled")
async def test_a_run_ends_though_devices_drop_out(broker: Mosquitto, tmp_path: Path) -> None:
    settings = config(broker, tmp_path, "drop", rounds=80, deadline=5)
    conditions = Conditions(drop_out=0.3, away=0.2)
    status, counts = await run_with(Swarm(spec(settings, devices=10, conditions=conditions)), settings)
    assert status["updates"] == counts.accepted == 80
    assert counts.reconnections > 0


async def test_no_device_connects_before_the_kernels_are_compiled(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    gate = asyncio.Event()

    async def compiled(weights: str, log: Any) -> None:
        asked.append(weights)
        await gate.wait()

    monkeypatch.setattr("simulator.swarm.compiled", compiled)
    settings = config(broker, tmp_path, "compiling")
    swarm = Swarm(spec(settings, 3, weights="int8"))
    stop = asyncio.Event()
    life = asyncio.create_task(swarm.run(stop))
    await asyncio.sleep(0.5)
    assert (asked, swarm.ready, swarm.counts().online) == (["int8"], False, 0)
    gate.set()
    async with asyncio.timeout(20):
        while swarm.counts().online < 3:
            await asyncio.sleep(0.01)
    assert swarm.ready
    stop.set()
    await life


async def test_a_swarm_is_stopped_while_it_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.swarm.compiled", lambda weights, log: asyncio.sleep(3600))
    stop = asyncio.Event()
    life = asyncio.create_task(Swarm(SwarmSpec("r", BrokerConfig(port=free_port()), "sine", 1)).run(stop))
    await asyncio.sleep(0.1)
    stop.set()
    await asyncio.wait_for(life, 10)


@pytest.mark.usefixtures("compiled")
async def test_a_swarm_over_two_processes_adds_up(broker: Mosquitto, tmp_path: Path) -> None:
    settings = config(broker, tmp_path, "processes")
    processes = SwarmProcesses(spec(settings, evaluators=2), 2)
    processes.start()
    try:
        async with asyncio.timeout(40):
            while not processes.ready:
                await asyncio.sleep(0.05)
        assert processes.compiling is None
        status = await Coordinator(settings).run()
        async with asyncio.timeout(10):
            while processes.counts().accepted < status["updates"]:
                await asyncio.sleep(0.05)
    finally:
        counts = await processes.stop()
    assert (status["updates"], counts.accepted) == (60, 60)
    assert not processes.running


@pytest.mark.usefixtures("compiled")
async def test_a_swarm_ends_when_no_device_can_take_part(broker: Mosquitto, tmp_path: Path) -> None:
    settings = config(broker, tmp_path, "small", rounds=0)
    coordinator = Coordinator(settings)
    running = asyncio.create_task(coordinator.run())
    swarm = Swarm(spec(settings, devices=2, ram=100))
    stop = asyncio.Event()
    life = asyncio.create_task(swarm.run(stop))
    async with asyncio.timeout(20):
        while swarm.counts().unfit < 2:
            await asyncio.sleep(0.01)
    stop.set()
    coordinator.stop()
    await life
    await running
    assert swarm.problem == "device sine-0: the model needs 5376 bytes of RAM, the device has 100"


async def test_watching_without_a_broker_says_so() -> None:
    with pytest.raises(BrokerError, match="no broker answers"):
        await watch("r", BrokerConfig(port=free_port()), lambda status, retained: None)


def test_more_devices_than_a_task_has_data_for_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.tasks.sine.Sine.devices", 5)
    with pytest.raises(TaskError, match="has data for 5 training devices, not 6"):
        Swarm(SwarmSpec(run="r", broker=BrokerConfig(), task="sine", devices=6))


def test_devices_of_a_class_have_the_tasks_name_in_their_ids() -> None:
    task = "simulator.tasks.sine.Sine"
    swarm = Swarm(SwarmSpec(run="r", broker=BrokerConfig(), task=task, devices=1, evaluators=1))
    assert [client.id for client in swarm._clients] == ["sine-0", "sine-unseen-0"]


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(TaskError, match=r"a task is one of sine, presence, omniglot, keywords, .* not 'cosine'"):
        make_task("cosine")


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_same_seed_makes_the_same_samples(seed: int) -> None:
    x, y = memoryview(bytearray(2)).cast("h"), __import__("array").array("h", [0])
    drawn = []
    for _ in range(2):
        stream = make_task("sine").train_stream(3, seed)
        stream.begin(TRAIN)
        samples = []
        for _ in range(10):
            await stream.sample(x, y)
            samples.append((x[0], y[0]))
        drawn.append(samples)
    assert drawn[0] == drawn[1]


async def test_rows_for_micropython_are_the_streams_own_samples(tmp_path: Path) -> None:
    from array import array

    from simulator.tasks import Task
    from simulator.tasks.sine import Sine

    task = Sine()
    options = Task.micropython_stream(task, 2, 1, tmp_path)
    assert options.pop("kind") == "rows"
    rows = RowsStream(**options)
    stream = task.train_stream(2, 1)
    stream.begin(TRAIN)
    rows.begin(TRAIN)
    x, y = [memoryview(array("h", [0])) for _ in range(2)], [array("h", [0]) for _ in range(2)]
    for _ in range(100):
        await rows.sample(x[0], y[0])
        await stream.sample(x[1], y[1])
        assert (x[0][0], y[0][0]) == (x[1][0], y[1][0])
    rows.close()


@pytest.mark.usefixtures("compiled")
async def test_devices_of_a_swarm_do_not_each_look_through_the_memory_of_all(broker: Mosquitto, tmp_path: Path) -> None:
    settings = config(broker, tmp_path, "garbage")
    gc.disable()
    try:
        before = gc.get_stats()[2]["collections"]
        await run_with(Swarm(spec(settings, 10)), settings)
        assert gc.get_stats()[2]["collections"] == before
    finally:
        gc.enable()
