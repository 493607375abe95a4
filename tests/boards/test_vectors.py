"""The golden vectors on every MicroPython: equal bits from each instruction set."""

from __future__ import annotations

import pytest

from boards.library import library

from ..environment import ROOT
from .runners import Runner

VECTORS = ROOT / "tests" / "vectors"


@pytest.mark.timeout(2000)
def test_the_golden_bits(runner: Runner) -> None:
    every = 8 if runner.name == "rp2040" else 1
    files = {**library(runner.chip), "check.py": VECTORS / "check.py", "vectors.jsonl": VECTORS / "vectors.jsonl"}
    printed = runner.run(f"import check\ncheck.main('vectors.jsonl', {every})", files, seconds=1800)
    assert printed.splitlines()[-1].startswith("ok, "), printed
