"""What the broker retains vanishes, wills come late, and a file is missing when a connection comes about again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ..bench import Bench
from ..faults import PASSWORD, Fault, clear_topics, hide_password, kill_coordinator, late_wills
from ..scenario import Scenario


class Forgotten(Scenario):
    """Retained messages are cleared and late wills delivered while sessions live; some of it with a new coordinator."""

    name = "retained"
    brief = False
    rounds = (6_000, 1_000)
    faults: ClassVar[Sequence[tuple[Fault, tuple[int, int]]]] = (
        *((clear_topics, (10, 2)), (late_wills, (10, 2))),
        *((hide_password, (10, 2)), (kill_coordinator, (5, 1))),
    )

    def bench(self, folder: Path, seed: int) -> Bench:
        (folder / PASSWORD).write_text("secret\n")
        account = {"user": "coordinator", "password_file": str(folder / PASSWORD)}
        return Bench(folder, seed, self.rounds[self.quick], {"broker": account}, self.fleets)
