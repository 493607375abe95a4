"""Kernels on CPython: compiled in one go, by one of several processes, with a cache that may fail."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tinyreptile import cpython_compile, device, portable

from ..environment import CLIENT, require

# Quantizing is two kernels that are compiled in a moment.
PACK = """
import logging, resource, sys
from pathlib import Path

logging.basicConfig(format="%(message)s")
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from tinyreptile.learner import Learner
from tinyreptile.model import Model
from tinyreptile.portable import RUNNER

learner = Learner(Model([["input", 1], ["dense", 2], ["squared_error"]]))
learner.weights[0] = 7
packed = bytearray(8)
learner.delta(16).pack(0, packed)
print(RUNNER, packed.hex())
"""
PACKED = "numba 0700000000000000\n"


def pack(limit: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Quantize in a process that may write files of ``limit`` bytes."""
    require(portable.RUNNER == "numba", "needs numba")
    return subprocess.run(
        [sys.executable, "-c", PACK, str(limit)],
        env=os.environ | {"PYTHONPATH": str(CLIENT)} | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_kernel_is_computed_where_the_cache_has_no_room(tmp_path: Path) -> None:
    done = pack(limit=500, NUMBA_CACHE_DIR=str(tmp_path))
    assert done.stdout == PACKED, done.stderr
    assert done.stderr.count("what numba compiles can't be kept (File too large in ") == 1


def test_a_kernel_is_computed_where_no_folder_can_be_written() -> None:
    locator = "UserProvidedCacheLocator"  # and none beside the sources
    done = pack(NUMBA_CACHE_DIR="/dev/null", NUMBA_CACHE_LOCATOR_CLASSES=locator)
    assert done.stdout == PACKED, done.stderr
    assert done.stderr.count("what numba compiles can't be kept (no folder can be written)") == 1


def test_a_damaged_cache_is_no_cache(tmp_path: Path) -> None:
    assert pack(NUMBA_CACHE_DIR=str(tmp_path)).stdout == PACKED
    kept = list(tmp_path.rglob("*.nb[ic]"))
    assert kept
    for file in kept:
        file.write_bytes(file.read_bytes()[:20])
    done = pack(NUMBA_CACHE_DIR=str(tmp_path))
    assert (done.stdout, done.stderr) == (PACKED, "")


COMPILED = """
import json, sys
from tinyreptile import cpython_compile
from tinyreptile.portable import RUNNER

cpython_compile.compile_kernels(sys.argv[1])
kernels = {}
for kernel in cpython_compile._kernels(sys.argv[1]):
    kernels[kernel.__name__] = [len(kernel.signatures), sum(kernel.stats.cache_misses.values())]
print(json.dumps([RUNNER, cpython_compile.progress(sys.argv[1]), kernels]))
"""


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("weights", ["int16", "int8"])
def test_whoever_compiles_after_another_takes_all_from_the_cache(weights: str) -> None:
    require(portable.RUNNER == "numba", "needs numba")
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, weights],
        env=os.environ | {"PYTHONPATH": str(CLIENT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    runner, progress, kernels = json.loads(done.stdout)
    assert (runner, progress) == ("numba", None)
    assert {name for name, (_, misses) in kernels.items() if misses} == set()
    called = {"step", "forward", "loss", "quantize", "largest_change", "sparsify", "add_noise", "shrink", "saturate"}
    assert called <= {name for name, (signatures, _) in kernels.items() if signatures}


def test_without_numba_there_is_nothing_to_compile() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, "int16"],
        env=os.environ | {"PYTHONPATH": str(CLIENT), "TINYREPTILE_NUMBA": "0"},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert json.loads(done.stdout) == ["python", None, {}]


def test_one_of_two_processes_waits_for_the_other(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    require(portable.RUNNER == "numba", "needs numba")
    folder = Path(cpython_compile.kernels_for("int16").step.stats.cache_path)
    lock = folder / "compiling-int16.lock"
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiting = subprocess.Popen(
            [sys.executable, "-c", COMPILED, "int16"],
            env=os.environ | {"PYTHONPATH": str(CLIENT)},
            stdout=subprocess.DEVNULL,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(5)
    waiting.kill()
    waiting.wait()


async def test_the_event_loop_goes_on_while_kernels_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpython_compile, "RUNNER", "numba")
    monkeypatch.setattr(cpython_compile, "_PATIENCE", 0.1)
    monkeypatch.setattr(cpython_compile, "_compiled", set())
    monkeypatch.setattr(cpython_compile, "_call_all", lambda weights: time.sleep(0.5))
    said: list[str] = []
    compiling = asyncio.gather(*(cpython_compile.compiled("int16", said.append) for _ in range(3)))
    turns = 0
    while not compiling.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert turns > 10
    assert said == ["compiling the kernels for int16 weights"]
    await cpython_compile.compiled("int16", said.append)
    assert len(said) == 1


def test_a_device_on_a_computer_compiles_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(device, "RUNNER", "numba")
    monkeypatch.setattr(cpython_compile, "compile_kernels", lambda weights, log: asked.append(weights))
    config = {"id": "d0", "host": "127.0.0.1", "weights": "int8", "stream": {"kind": "sine", "seed": 1}}
    (tmp_path / "device.json").write_text(json.dumps(config))
    made, _ = device._make(str(tmp_path / "device.json"), None, None)
    assert (asked, made.mqtt.connected) == (["int8"], False)


async def test_formats_that_are_none_are_left_to_who_checks_them() -> None:
    await cpython_compile.compiled("int4", logging.info)
