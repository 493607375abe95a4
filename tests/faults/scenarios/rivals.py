"""A second coordinator for the same run: it must stand down, and say so."""

from __future__ import annotations

from ..bench import Bench, Fleet
from ..faults import kill_coordinator
from ..scenario import Scenario


async def rival_on_the_store(bench: Bench) -> None:
    """A second coordinator on the very store."""
    await _rival(bench, "a second coordinator on the same store", "is in use: another coordinator serves this run")


async def rival_at_the_broker(bench: Bench) -> None:
    """A second coordinator with a store of its own, at the same broker."""
    other = bench.folder / f"other-{sum(bench.injected.values())}.sqlite"
    await _rival(
        bench, "a second coordinator at the same broker", "another coordinator serves run faults", "--store", other
    )


async def _rival(bench: Bench, name: str, sentence: str, *options: object) -> None:
    await bench.at_work()  # else it is no rival but the next in line
    bench.injected[name] += 1
    code, printed = await bench.command(*bench.serve_arguments(*options))
    if code != 1 or sentence not in " ".join(printed.split()):
        bench.breaches.append(f"{name} did not stand down: exit code {code}, {printed.strip()[-300:]}")


class Rivals(Scenario):
    """Second coordinators, on the same store and at the same broker, while the first works, and after it was killed."""

    name = "rivals"
    rounds = (3_000, 600)
    fleets = (Fleet(16, 2, think=0.5),)
    faults = ((rival_on_the_store, (5, 1)), (rival_at_the_broker, (5, 1)), (kill_coordinator, (3, 0)))
