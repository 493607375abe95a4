"""A while of random damage to every decoder; `make fuzz` looks longer, and where the code branches."""

from __future__ import annotations

import pytest

from .seeds import mutated, seeds
from .targets import TARGETS

COUNT = 3000
SLOW = {"commands": 300}  # whole commands, with what they print


@pytest.mark.parametrize("target", TARGETS)
def test_no_bytes_upset_a_decoder(target: str) -> None:
    inputs = seeds(target)
    assert inputs
    for data in inputs:
        TARGETS[target](data)
    for number, data in enumerate(mutated(inputs, SLOW.get(target, COUNT), seed=1)):
        try:
            TARGETS[target](data)
        except BaseException:
            print(f"input {number}: {data[:200]!r}")
            raise
