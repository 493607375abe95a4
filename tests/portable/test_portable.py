"""What stands in for MicroPython on CPython: kernels compiled by numba compute as a board does, and start quickly."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyreptile import portable
from tinyreptile.learner import Learner
from tinyreptile.model import Model

from ..environment import CLIENT, require, run_micropython
from .networks import FORMATS


def sums(a: Any, b: Any, c: Any, out: Any) -> None:
    """Everything that kernels are made of."""
    i = 0
    while i < len(a):
        x = a[i] | 0
        y = b[i] | 0
        out[0] = x + y
        out[1] = x - y
        out[2] = x * y
        out[3] = x << (c[i] & 15)
        out[4] = x >> (c[i] & 15)
        out[5] = (x ^ 0x8000) - 0x8000
        total = -1312
        total += x
        total -= y
        total = (total * 3 >> 10) + 7595
        out[6] = total
        out[7] += y & x
        out[8] = x if (x > y and y >= 0) or not x else y
        for o in range(9, 10 + 1):
            out[o] = out[o] + o * x
        i += 1


class Int32(int):
    """An integer as a board's register holds it: each operation wraps around."""

    @classmethod
    def of(cls, value: int) -> Int32:
        return cls(((value & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000)


def wrapping(name: str) -> Callable[[int, int], Int32]:
    run = getattr(int, name)
    return lambda a, b: Int32.of(run(a, b))


for name in ("add", "sub", "mul", "lshift", "rshift", "and", "or", "xor"):
    for variant in (f"__{name}__", f"__r{name}__"):
        setattr(Int32, variant, wrapping(variant))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """`sums` by numba, of a file of its own: nothing compiled before is taken from a cache."""
    require(portable.RUNNER == "numba", "needs numba")
    file = tmp_path_factory.mktemp("kernel") / "sums.py"
    file.write_text("from typing import Any\n\n\n" + inspect.getsource(sums))
    specification = importlib.util.spec_from_file_location("sums", file)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    result: Callable[..., None] = portable.micropython.viper(module.sums)
    return result


INT32 = st.integers(-(1 << 31), (1 << 31) - 1) | st.integers(-70000, 70000)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(INT32, INT32, st.integers(0, 31)), min_size=1, max_size=4))
def test_a_compiled_kernel_computes_in_int32_as_a_board_does(
    compiled: Callable[..., None], rows: list[tuple[int, int, int]]
) -> None:
    columns = list(zip(*rows, strict=True))
    plain = [Int32()] * 11
    sums(*[[Int32(value) for value in column] for column in columns], plain)
    out = np.zeros(11, np.int32)
    compiled(*[portable.view32(array("i", column)) for column in columns], out)
    assert out.tolist() == plain


def test_a_compiled_kernel_reads_its_cells_unsigned() -> None:
    require(portable.RUNNER == "numba", "needs numba")
    assert portable.view16(array("h", [-1]))[0] == 0xFFFF
    assert portable.view8(bytearray([255]))[0] == 0xFF
    assert portable.view32(array("i", [-1]))[0] == -1


SPEC: list[Any] = [
    ["input", 6, 6, 1],
    ["conv2d", 2, 3, 2, 1, "relu"],
    ["depthwise2d", 3, 1, 1],
    ["average"],
    ["dense", 2],
    ["squared_error"],
]

SECOND_PROCESS = """
import json
import sys
import time

start = time.perf_counter()
from tinyreptile import convolutions, convolutions8, kernels, kernels8, sparse, sparse8, wire, wire8
from tinyreptile.learner import Learner
from tinyreptile.model import Model

for weights in ("int16", "int8"):
    learner = Learner(Model(json.loads(sys.argv[1]), weights), encoding=weights)
    learner.step(learner.x, learner.y)
    learner.evaluate(learner.x, learner.y)
    for kept in (None, 3):
        learner.delta(8, kept).pack(0, bytearray(100))
compiled = {}
for module in (convolutions, convolutions8, kernels, kernels8, sparse, sparse8, wire, wire8):
    for name, function in vars(module).items():
        if hasattr(function, "stats") and sum(function.stats.cache_misses.values()):
            compiled[module.__name__ + "." + name] = sum(function.stats.cache_misses.values())
print(json.dumps([compiled, sum(kernels.step.stats.cache_hits.values()), time.perf_counter() - start]))
"""


@pytest.mark.usefixtures("compiled")
def test_a_second_process_takes_the_compiled_kernels_from_the_cache() -> None:
    require(portable.RUNNER == "numba", "needs numba")
    for weights in FORMATS:  # that they are there to take
        learner = Learner(Model(SPEC, weights), encoding=weights)
        learner.step(learner.x, learner.y)
        learner.evaluate(learner.x, learner.y)
        for kept in (None, 3):
            learner.delta(8, kept).pack(0, bytearray(100))
    result = subprocess.run(
        [sys.executable, "-c", SECOND_PROCESS, json.dumps(SPEC)],
        env=os.environ | {"PYTHONPATH": str(CLIENT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    compiled, hits, seconds = json.loads(result.stdout)
    assert not compiled
    assert hits == 1
    assert seconds < 10  # compiling takes half a minute


# The clock


@pytest.mark.parametrize("begin", [0, (1 << 29) + 5, (1 << 30) - 1])
def test_a_devices_clock_goes_on_where_micropythons_own_goes_round(begin: int) -> None:
    done = run_micropython(Path(__file__).with_name("clock_session.py"), begin)
    assert done.returncode == 0, done.stderr
    first, passed = map(json.loads, done.stdout.splitlines())
    assert first == [0]
    assert passed == list(range(1, 41))


def test_no_module_but_one_reads_a_clock_that_goes_round() -> None:
    for path in (CLIENT / "tinyreptile").rglob("*.py"):
        if path.name not in ("portable.py", "cpython.py"):
            text = path.read_text()
            assert not re.search(r"from time import|time\.ticks|sleep_ms", text), path
