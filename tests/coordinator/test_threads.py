"""An update costs the coordinator its own thread and no other: BLAS wakes one for every core, and they spin."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..environment import ROOT, require

# What numpy has BLAS do for floats; and einsum and correlate, which may.
BLAS = {"dot", "vdot", "inner", "outer", "matmul", "tensordot", "einsum", "linalg", "correlate", "convolve", "polyfit"}
# They prepare whole data sets at the start, where every core helps.
AT_THE_START = ["simulator/data/speech_commands.py", "simulator/features.py", "simulator/tasks/omniglot.py"]

ATTACKS = ["simulator/collusion.py"]  # which only a study makes


def calls_blas(source: str) -> bool:
    nodes = list(ast.walk(ast.parse(source)))
    return any(isinstance(node, ast.MatMult) for node in nodes) or any(
        isinstance(node, ast.Attribute) and node.attr in BLAS for node in nodes
    )


def test_neither_coordinator_nor_simulator_calls_blas_while_a_fleet_learns() -> None:
    files = [file for package in ("coordinator", "simulator") for file in sorted((ROOT / package).rglob("*.py"))]
    assert [str(file.relative_to(ROOT)) for file in files if calls_blas(file.read_text())] == sorted(
        AT_THE_START + ATTACKS
    )


UPDATES = """
import os
import random
import sys
from pathlib import Path

from tests.coordinator.driver import Driver
from tinyreptile.coding import Coded
from tinyreptile.learner import Learner

MODEL = [["input", 1], ["dense", 220, "relu"], ["dense", 220, "relu"], ["dense", 1], ["squared_error"]]


def other_threads():
    total = 0
    for thread in Path("/proc/self/task").iterdir():
        if int(thread.name) != os.getpid():
            fields = (thread / "stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total


driver = Driver(
    Path(sys.argv[1]),
    run={"model": MODEL, "rounds": 0},
    learning={"bits": 8, "top": float(sys.argv[3]), "mode": "asynchronous", "in_flight": 1},
    guards={"combine": sys.argv[2], "buffer": 4, "clip": 2.0, "repeats": False, "reputation": True},
)
driver.hello("d0")
driver.advance()
model = driver.run.model
learner = Learner(model)
learner.weights[::2] = random.Random(1).randbytes(model.parameters)
delta = learner.delta(8, driver.requests("d0")[-1]["task"].get("kept"))
coded = Coded(delta)
pieces = [bytearray(size) for size in coded.sizes]
for index, piece in enumerate(pieces):
    coded.pack(index, memoryview(piece))
before = other_threads()
for _ in range(200):
    work = driver.requests("d0")[-1]
    report = {"version": work["version"], "gains": delta.gains, "loss": 1.0}
    for index, piece in enumerate(pieces):
        message = {"work": work["work"], "chunks": len(pieces), "part": index, "data": bytes(piece)}
        driver.run.take_update("d0", message if index else message | report)
    driver.now += 0.1
    driver.advance()
driver.run.status("running")
assert driver.run.updates == 200, driver.run.refusals
print(other_threads() - before)
"""


@pytest.mark.parametrize(("combine", "top"), [("mean", 1.0), ("median", 1.0), ("trimmed", 0.1)])
def test_updates_of_a_large_model_wake_no_other_thread(tmp_path: Path, combine: str, top: float) -> None:
    require(Path("/proc/self/task").exists(), "needs /proc")
    done = subprocess.run(
        [sys.executable, "-c", UPDATES, str(tmp_path / "run.sqlite"), combine, str(top)],
        cwd=ROOT,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "4", "PYTHONPATH": str(ROOT / "micropython_client")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 5  # hundredths of a second
