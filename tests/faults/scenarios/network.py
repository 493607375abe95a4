"""The network breaks, falls silent, comes late, loses and repeats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ...environment import find_program
from ..bench import Bench, Fleet
from ..faults import (
    Fault,
    cut_network,
    disorder,
    hold_network,
    kill_broker,
    kill_coordinator,
    kill_forgetful_broker,
    kill_swarm,
)
from ..replay import read
from ..scenario import Scenario

BOARD = "board"
LOSSES = 0.0005  # of publications, each with its connection
REPEATED = 0.05  # of publications


class NetworkFaults(Scenario):
    """Cuts and silences, while packets are lost and handed over twice all the time."""

    name = "network"
    brief = False
    rounds = (6_000, 1_000)
    faults: ClassVar[Sequence[tuple[Fault, tuple[int, int]]]] = (
        (cut_network, (20, 2)),
        (hold_network, (10, 2)),
        (disorder, (5, 1)),
    )

    async def inject(self, bench: Bench) -> None:
        for line in (bench.coordinators_line, bench.devices_line):
            line.lose, line.duplicate = LOSSES, REPEATED
        await super().inject(bench)


class Everything(NetworkFaults):
    """Everything that can die does, on a network that breaks, loses and repeats; one device is MicroPython's."""

    name = "everything"
    brief = True
    rounds = (8_000, 1_500)
    fleets = (Fleet(8, 1), Fleet(8, 1))
    faults: ClassVar[Sequence[tuple[Fault, tuple[int, int]]]] = (
        *((kill_coordinator, (10, 1)), (kill_broker, (5, 1)), (kill_forgetful_broker, (5, 1))),
        *((kill_swarm, (5, 1)), (cut_network, (10, 1)), (hold_network, (5, 1))),
    )

    @classmethod
    def absent(cls) -> str:
        return "" if find_program("micropython") else "it takes MicroPython's unix port"

    async def inject(self, bench: Bench) -> None:
        await bench.add_board(BOARD)
        await super().inject(bench)

    async def after(self, bench: Bench) -> list[str]:
        updates = sum(device == BOARD for _, _, device in read(bench.store).updates)
        self.figures["updates of the MicroPython device"] = updates
        return [] if updates else ["the MicroPython device took no part"]
