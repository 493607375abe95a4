"""A TLS handshake on an emulated RP2040, with the certificates that a fleet is provisioned with."""

from __future__ import annotations

import pytest

from benchmarks.boards.__main__ import DEVICE
from benchmarks.boards.handshake import MEGAHERTZ, WAYS, measure

from .runners import Runner


@pytest.mark.timeout(1900)
@pytest.mark.parametrize("runner", ["rp2040"], indirect=True)
def test_a_handshake_leaves_most_of_a_connections_time(runner: Runner) -> None:
    (way,) = (way for way in WAYS.values() if way.shows)
    cycles = measure(way, DEVICE)["handshake"]
    assert 0.5 < cycles / MEGAHERTZ / 1e6 < 2.5  # of the 10 s that a connection has without TLS
