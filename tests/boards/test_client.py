"""The whole client over a real broker, on MicroPythons that have sockets, in the memory of a board."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from boards.library import library
from coordinator.service import Coordinator
from simulator.tasks.omniglot import Omniglot
from simulator.tasks.sine import Sine

from ..environment import Mosquitto
from ..fleet import run_config
from .files import compiled, written
from .runners import RUNNERS, Unix

ONLINE = [name for name, runner in RUNNERS.items() if runner.network]
# A stream with the shape of the study's largest network.
NOISE = """
from tinyreptile.streams import Stream

class Noise(Stream):
    inputs = 784
    outputs = 5
    async def sample(self, x, y):
        for i in range(len(x)):
            x[i] = i
        y[0] = 3
"""


@dataclass
class Life:
    """A device's: its network, its stream, and the heap that must do on each runner, in KB."""

    model: list[Any]
    stream: dict[str, Any]
    steps: int
    rounds: int
    heaps: dict[str, int]
    options: dict[str, Any] = field(default_factory=dict)


# What must do for imports, connection, model and rounds. Words of 64 bits take up to twice the room of a board's.
LIVES = {
    "sine": Life(Sine.model, {"kind": "sine", "seed": 1}, 32, 60, {"unix": 126, "i386": 88, "armhf": 88}),
    "private": Life(
        Sine.model,
        {"kind": "sine", "seed": 1},
        32,
        60,
        {"unix": 138, "i386": 98, "armhf": 98},
        {"privacy": {"clip": 0.5, "noise": 1.0}},
    ),
    "omniglot": Life(Omniglot.model, {"kind": "noise.Noise"}, 4, 6, {"unix": 236, "i386": 192, "armhf": 192}),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)
@pytest.mark.parametrize("runner", ONLINE, indirect=True)
async def test_the_client_lives_in_a_boards_memory(runner: Unix, life: Life, broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(
        broker,
        tmp_path,
        run={"model": life.model, "rounds": life.rounds},
        learning={"steps": life.steps, "beta": 0.005, "bits": 8, "mode": "serial"},
        evaluation={"every": 0},
    )
    device = {"id": "board", "run": config.run.name, "host": broker.host, "port": broker.port}
    folder = written(compiled(library(runner.chip), runner.chip), tmp_path / "files")
    (folder / "noise.py").write_text(NOISE)
    (folder / "config.json").write_text(json.dumps({**device, "stream": life.stream, **life.options}))
    code = "from tinyreptile.device import main\nmain('config.json')"
    with runner.start(code, folder, f"{life.heaps[runner.name]}K") as process:
        try:
            await asyncio.wait_for(Coordinator(config).run(), 240)
        finally:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=20)
    found = re.search(r"(\d+) accepted, 0 refused, 0 expired", output)
    assert found, output
    assert int(found.group(1)) >= life.rounds - 1  # the run may end before its last acknowledgement is read
