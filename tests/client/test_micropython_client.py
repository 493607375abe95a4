"""The same files on MicroPython: real processes take part in a real run, with the heap of a small board."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from coordinator.config import Config
from coordinator.service import Coordinator
from simulator.micropython import micropython_device
from tests.environment import Mosquitto, need_program
from tests.fleet import decoded, eventually, finish, listening, run_config, task

HEAP = "96wK"  # w: as many words as 96 KiB have on a board of 32 bits


def config_for(broker: Mosquitto, folder: Path, **run: Any) -> Config:
    return run_config(
        broker,
        folder,
        run={"model": [["input", 1], ["dense", 32, "relu"], ["dense", 32, "relu"], ["dense", 1], ["squared_error"]]}
        | run,
        learning={"steps": 16, "deadline": 10},
        evaluation={"every": 10},
    )


@asynccontextmanager
async def device(config: Config, folder: Path, name: str, role: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A MicroPython process that takes part in the run of ``config``; what it said is shown if the test fails."""
    settings = {
        "id": name,
        "run": config.run.name,
        "role": role,
        "host": config.broker.host,
        "port": config.broker.port,
        "stream": {"kind": "sine", "seed": 3, "fresh": role == "train"},
    }
    async with micropython_device(need_program("micropython"), folder, settings, heap=HEAP) as process:
        try:
            yield process
        finally:
            print((folder / f"{name}.log").read_text())


async def test_micropython_trains_and_evaluates_to_the_end_of_a_run(broker: Mosquitto, tmp_path: Path) -> None:
    config = config_for(broker, tmp_path, rounds=30)
    coordinator = Coordinator(config)
    topics = coordinator.run_state.topics
    async with (
        listening(config.broker, topics.device("trains").work, topics.all_updates) as heard,
        device(config, tmp_path, "trains", "train") as trains,
        device(config, tmp_path, "evaluates", "evaluate") as evaluates,
    ):
        status = await finish(coordinator)
        assert trains.returncode is None
        assert evaluates.returncode is None
    assert status["updates"] == coordinator.run_state.registry.devices["trains"].accepted == 30
    assert status["refusals"] == {}
    words = [decoded(message) for message in heard]
    assert sum("from" in word for word in words) >= 25, "differences are what it is sent"
    assert not any("whole" in word for word in words), "and it makes of them what it should"
    assert [e["devices"] for e in coordinator.run_state.evaluations.summaries] == [1] * len(
        coordinator.run_state.evaluations.summaries
    )
    assert status["evaluation"]["version"] == 30
    hello = coordinator.run_state.registry.devices["trains"]
    assert re.fullmatch(r"micropython 1\.\d+\.\d+, linux \[.+\] version", hello.platform), "what the board calls itself"
    assert 8192 < hello.ram < 2 * 96 * 1024


async def test_micropython_comes_back_after_the_broker_restarted(
    start_broker: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    broker = start_broker()
    config = config_for(broker, tmp_path, rounds=100)
    coordinator = Coordinator(config)
    async with (
        device(config, tmp_path, "trains", "train") as trains,
        device(config, tmp_path, "evaluates", "evaluate"),
        task(finish(coordinator, 90)) as run,
    ):
        await eventually(lambda: coordinator.run_state.updates >= 20, "the run is under way")
        await asyncio.to_thread(broker.stop)
        assert not run.done()
        await asyncio.to_thread(broker.start)
        status = await run
        assert trains.returncode is None
    assert status["updates"] == 100
    assert status["evaluation"]["version"] == 100
