"""The kernels as plain Python on MicroPython: the benchmark of viper's gain runs, and both come to the same bits."""

from __future__ import annotations

import pytest

from benchmarks import micropython

from ..environment import need_program


@pytest.mark.timeout(300)
def test_viper_and_bytecode_come_to_the_same_weights() -> None:
    need_program("micropython")
    result = micropython.run(True, lambda done, text: None)
    assert [figure.ok for figure in result.figures if figure.target == "equal"] == [True]
