"""The whole client over a real broker, on MicroPythons that have sockets, in the memory of a board."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from boards.library import library
from coordinator.service import Coordinator
from simulator.tasks.sine import Sine

from ..environment import Mosquitto
from ..fleet import run_config
from .files import compiled, written
from .runners import RUNNERS, Unix

ONLINE = [name for name, runner in RUNNERS.items() if runner.network]
# The heap in which the sine network's client must live: imports, connection, model and rounds. Words of 64 bits take
# twice the room of a board's.
HEAPS = {"unix": "192K", "i386": "96K", "armhf": "96K"}
ROUNDS = 60


@pytest.mark.timeout(300)
@pytest.mark.parametrize("runner", ONLINE, indirect=True)
async def test_the_client_lives_in_a_boards_memory(runner: Unix, broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(
        broker,
        tmp_path,
        run={"model": Sine.model, "rounds": ROUNDS},
        learning={"steps": 32, "beta": 0.005, "bits": 8, "mode": "serial"},
        evaluation={"every": 0},
    )
    device = {"id": "board", "run": config.run.name, "host": broker.host, "port": broker.port}
    settings: dict[str, Any] = {**device, "stream": {"kind": "sine", "seed": 1}}
    folder = written(compiled(library(runner.chip), runner.chip), tmp_path / "files")
    (folder / "config.json").write_text(json.dumps(settings))
    with runner.start(
        "from tinyreptile.device import main\nmain('config.json')", folder, HEAPS[runner.name]
    ) as process:
        try:
            await asyncio.wait_for(Coordinator(config).run(), 240)
        finally:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=20)
    assert f"{ROUNDS} accepted, 0 refused, 0 expired" in output
