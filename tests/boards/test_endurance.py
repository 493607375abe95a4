"""Thousands of rounds in the memory of a board: nothing runs out, nothing grows."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import pytest

from boards.library import library
from coordinator.service import Coordinator
from simulator.tasks.sine import Sine

from ..environment import Mosquitto
from ..fleet import run_config
from .files import compiled, written
from .runners import RUNNERS, Runner, Unix

ROUNDS = int(os.environ.get("TINYREPTILE_ENDURANCE", "10000"))
LEARNER_ROUNDS = ROUNDS // 10
HEAP = "96wK"

# A stream that says what memory is free when work begins: every tenth time, without what waits to be collected, of
# which each round leaves a quarter of the heap. Between these times the collector runs when memory does run out.
NOTING = """
import gc
from tinyreptile.streams.sine import SineStream
class Noting(SineStream):
    begun = 0
    def begin(self, part):
        self.begun += 1
        if self.begun % 10 == 0:
            gc.collect()
            print("free", gc.mem_free())
        super().begin(part)
"""

# Rounds as a client has them: an initialization comes in, k steps, a delta goes out in pieces.
LEARNER = """
import gc
from tinyreptile.learner import Learner
from tinyreptile.model import Model
from tinyreptile.streams.sine import SineStream
learner = Learner(Model([["input", 1], ["dense", 32, "relu"], ["dense", 32, "relu"], ["dense", 1], ["squared_error"]]))
stream = SineStream(1)
piece = memoryview(bytearray(1024))
for i in range(0, len(learner.wire), 2):
    learner.wire[i] = i * 37 & 255
def learn(round):
    learner.receive()
    learner.load()
    learner.seed(round)
    learner.set_rate(0.005)
    for _ in range(STEPS):
        try:
            stream.sample(learner.x, learner.y).send(None)
        except StopIteration:
            pass
        learner.step(learner.x, learner.y)
    delta = learner.delta(8)
    for at in range(0, delta.size, 1024):
        delta.pack(at, piece[: min(1024, delta.size - at)])
free = []
for round in range(ROUNDS):
    learn(round)
    if round % (ROUNDS // 10) == ROUNDS // 10 - 1:
        gc.collect()
        free.append(gc.mem_free())
print(free)
"""


@pytest.mark.timeout(900)
async def test_ten_thousand_rounds_over_a_broker(broker: Mosquitto, tmp_path: Path) -> None:
    runner = RUNNERS["unix"]
    assert isinstance(runner, Unix)
    config = run_config(
        broker,
        tmp_path,
        run={"model": Sine.model, "rounds": ROUNDS},
        learning={"steps": 8, "mode": "serial"},
        evaluation={"every": 0},
    )
    device = {"id": "board", "run": config.run.name, "host": broker.host, "port": broker.port}
    folder = written(compiled(library(runner.chip), runner.chip), tmp_path / "files")
    (folder / "config.json").write_text(json.dumps({**device, "stream": {"kind": "noting.Noting", "seed": 1}}))
    (folder / "noting.py").write_text(NOTING)
    with runner.start("from tinyreptile.device import main\nmain('config.json')", folder, HEAP) as process:
        try:
            await asyncio.wait_for(Coordinator(config).run(), 800)
        finally:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=20)
    found = re.search(r"board: (\d+) accepted, 0 refused, 0 expired", output)
    assert found, output
    assert int(found.group(1)) >= ROUNDS - 1  # the run may end before its last acknowledgement is heard
    free = [int(number) for number in re.findall(r"^free (\d+)$", output, re.MULTILINE)]
    assert len(free) >= ROUNDS // 10 - 1
    tenth = len(free) // 10
    assert min(free[-tenth:]) > min(free[tenth : 2 * tenth]) - 1024


@pytest.mark.timeout(900)
@pytest.mark.parametrize("runner", ["cortex-m0", "cortex-m4", "rp2040"], indirect=True)
def test_a_thousand_rounds_on_an_emulated_board(runner: Runner) -> None:
    steps = "1" if runner.name == "rp2040" else "8"  # with 8 it takes seven minutes there
    code = LEARNER.replace("ROUNDS", str(LEARNER_ROUNDS)).replace("STEPS", steps)
    free = json.loads(runner.run(code, library(runner.chip), 800).splitlines()[-1])
    assert max(free) - min(free) < 256  # the collector takes some numbers on the stack for addresses
