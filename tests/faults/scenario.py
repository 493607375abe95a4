"""A scenario: a run and its fleet, faults at moments that a seed gives, and what must hold afterwards."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from .bench import Bench, Fleet
from .faults import Fault
from .guarantees import broken

Tell = Callable[[str], None]
FIRST, LAST = 0.02, 0.95  # shares of the run between which faults come
LIMIT = 3600.0  # seconds that a run may take: far more than any does; what hangs is told


@dataclass
class Outcome:
    """What came of a scenario.

    Attributes:
        injected: faults by name.
        broken: what was promised and did not hold.
        figures: what was measured, by name.
        samples: what it was measured from, where that is much.
        absent: what the machine lacks for it; then nothing was tried.
    """

    scenario: str
    seed: int
    seconds: float = 0.0
    updates: int = 0
    injected: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    absent: str = ""


class Scenario:
    """A run under faults; a subclass says which, or overrides `inject`.

    Attributes:
        rounds: accepted updates of the run, more if its faults take longer: of the whole, and of the quick version.
        faults: each with how often it comes: in the whole, and in the quick version.
        brief: whether it is played in the quick version of all; else another scenario stands for it there.
    """

    name: ClassVar[str]
    rounds: ClassVar[tuple[int, int]]
    faults: ClassVar[Sequence[tuple[Fault, tuple[int, int]]]] = ()
    fleets: ClassVar[tuple[Fleet, ...]] = (Fleet(),)
    settings: ClassVar[dict[str, dict[str, Any]]] = {}
    limit: ClassVar[float] = LIMIT
    brief: ClassVar[bool] = True

    def __init__(self, *, quick: bool, tell: Tell) -> None:
        self.quick = quick
        self.tell = tell
        self.figures: dict[str, Any] = {}
        self.samples: dict[str, list[float]] = {}

    @classmethod
    def absent(cls) -> str:
        """What the machine lacks for it; empty if nothing."""
        return ""

    def bench(self, folder: Path, seed: int) -> Bench:
        """The bench that it takes place on."""
        return Bench(folder, seed, self.rounds[self.quick], self.settings, self.fleets)

    def moments(self, chance: random.Random, rounds: int) -> list[tuple[int, Fault]]:
        """When which fault comes: after so many accepted updates, in order."""
        wanted = [fault for fault, counts in self.faults for _ in range(counts[self.quick])]
        times = [round(chance.uniform(FIRST, LAST) * rounds) for _ in wanted]
        return sorted(zip(times, wanted, strict=True), key=lambda pair: pair[0])

    async def inject(self, bench: Bench) -> None:
        """All faults, each at its moment."""
        moments = self.moments(bench.chance, bench.rounds)
        for number, (moment, fault) in enumerate(moments, 1):
            if not await bench.reached(moment):
                raise EndedEarlyError(f"the run ended when {len(moments) - number + 1} faults were still to come")
            self.tell(f"{moment} updates, fault {number} of {len(moments)}: {fault.__name__.replace('_', ' ')}")
            await fault(bench)

    async def after(self, bench: Bench) -> list[str]:
        """Further promises that were broken, once the run has ended."""
        return []


class EndedEarlyError(Exception):
    """The run was over before all faults were injected, which proves less than it should."""


async def play(scenario: Scenario, folder: Path, seed: int) -> Outcome:
    """Play ``scenario`` in the empty ``folder`` and look at what is left."""
    outcome = Outcome(scenario.name, seed)
    begun = time.monotonic()
    bench = scenario.bench(folder, seed)
    try:
        await bench.start()
        await scenario.inject(bench)
        scenario.tell("waiting for the run's end")
        await bench.end(scenario.limit)
        scenario.tell("looking at what is left")
        outcome.broken += await broken(bench)
        outcome.broken += [*await scenario.after(bench), *bench.breaches]
    except TimeoutError:
        outcome.broken.append("the run or its fleet did not end by itself")
    except EndedEarlyError as error:
        outcome.broken.append(str(error))
    finally:
        await bench.stop()
    outcome.updates = len(bench.witness.acknowledged)
    outcome.injected = dict(bench.injected + _small_faults(bench))
    starts = f"{bench.coordinator.starts}, {bench.coordinator.gave_up} given up"
    outcome.figures = {"starts of the coordinator": starts, **scenario.figures}
    outcome.samples = scenario.samples
    outcome.seconds = time.monotonic() - begun
    return outcome


def _small_faults(bench: Bench) -> Counter[str]:
    """What the network did to single packets."""
    done = bench.coordinators_line.done + bench.devices_line.done
    return Counter({f"packet {name}": count for name, count in done.items()})
