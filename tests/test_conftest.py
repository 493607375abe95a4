"""What compiling costs the tests: those that step a learner wait for it, outside their time limit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .environment import ROOT

# Stands for compiling on a busy machine, which takes minutes.
SLOW = """
import time
from pathlib import Path

from tinyreptile import cpython_compile


def compile_kernels(weights, log=None):
    time.sleep(3)
    with Path({path!r}).open("a") as record:
        record.write(weights + " ")


cpython_compile.compile_kernels = compile_kernels
"""


def run(tmp_path: Path, test: str) -> str:
    """What was compiled for ``test``, which passes with a limit of five seconds."""
    record = tmp_path / "compiled"
    record.touch()
    (tmp_path / "slow_compiling.py").write_text(SLOW.format(path=str(record)))
    command = [sys.executable, "-m", "pytest", "-p", "slow_compiling", "-p", "no:cacheprovider", "--timeout", "5", test]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "TINYREPTILE_NUMBA": "0"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return record.read_text()


def test_compiling_takes_nothing_of_the_limit_of_the_test_that_waits_for_it(tmp_path: Path) -> None:
    test = "tests/portable/test_batches.py::test_a_batch_learner_without_room_says_so"
    assert run(tmp_path, test) == "int16 int8 "


def test_a_test_that_steps_no_learner_waits_for_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, "tests/portable/test_messages.py::test_the_largest_chunk_fits_the_longest_message") == ""
