"""What a private device and its coordinator account for is never less than what left the device."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from .lives import World, live

pytestmark = [pytest.mark.usefixtures("compiled"), pytest.mark.timeout(180)]

UPDATES = 2
VICTIMS = {"device": ["device"], "coordinator": ["coordinator"], "both": ["device", "coordinator"]}
DISKS: dict[str, dict[str, Any]] = {
    "process": {},  # is killed; what it wrote is there
    "power": {"power": True},
    "power, without renaming on to a file": {"power": True, "renames": False},
}


async def points_of(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> int:
    """How many points there are in an exchange that nothing disturbs."""
    folder.mkdir()
    world = World(folder, **options)
    await live(world, monkeypatch, UPDATES)
    assert len(world.seen) >= UPDATES
    return world.points


@pytest.mark.parametrize("disk", DISKS.values(), ids=DISKS)
@pytest.mark.parametrize("victims", VICTIMS.values(), ids=VICTIMS)
async def test_whoever_dies_at_any_point_nothing_left_uncounted(
    victims: list[str], disk: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for strike in range(1, 1 + await points_of(tmp_path / "undisturbed", monkeypatch, **disk)):
        folder = tmp_path / str(strike)
        folder.mkdir()
        world = World(folder, [strike], victims, replays=bool(strike % 2), **disk)
        await live(world, monkeypatch, UPDATES)


@pytest.mark.parametrize("seed", range(20))
async def test_whoever_dies_again_and_again_nothing_left_uncounted(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    strikes = chance.sample(range(1, 150), 8)
    disk = chance.choice(list(DISKS.values()))
    world = World(tmp_path, strikes, chance.choice(list(VICTIMS.values())), replays=chance.random() < 0.5, **disk)
    await live(world, monkeypatch, 2 * UPDATES)
