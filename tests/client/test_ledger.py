"""What a private device and its coordinator account for is never less than what left the device."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from simulator.children import end_with_parent
from simulator.micropython import micropython_device
from tests.commands import COMMAND
from tests.environment import Mosquitto, need_program
from tests.fleet import SMALL, broker_config, decoded, eventually, listening, new_run

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


@pytest.mark.parametrize(
    ("victims", "disk"),
    [
        pytest.param(VICTIMS[victims], DISKS[disk], id=f"{victims}, {disk}")
        for victims in VICTIMS
        for disk in DISKS
        if victims != "coordinator" or disk == "process"
    ],
)
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


@pytest.mark.parametrize("seed", [1])
async def test_processes_that_are_killed_leave_nothing_uncounted(seed: int, broker: Mosquitto, tmp_path: Path) -> None:
    chance = random.Random(seed)
    run = new_run()
    settings = {
        "id": "board",
        "run": run,
        "host": broker.host,
        "port": broker.port,
        "stream": {"kind": "sine", "seed": 3, "fresh": True},
        "privacy": {"clip": 0.05, "noise": 2.0},
    }
    lines = ["[run]", f"name = {json.dumps(run)}", f"model = {json.dumps(SMALL)}", "rounds = 0"]
    lines += ["[broker]", f"port = {broker.port}", "[learning]", "steps = 4", "bits = 16", "[evaluation]", "every = 0"]
    (tmp_path / "run.toml").write_text("\n".join(lines) + "\n")
    updates = f"tinyreptile/{run}/device/board/update"

    async def serve() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *COMMAND,
            *("serve", "--config", str(tmp_path / "run.toml")),
            cwd=tmp_path,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            preexec_fn=end_with_parent(),
        )

    def check() -> tuple[int, int, int]:
        """(different updates that were seen, those on the device's ledger, those that the coordinator accounts for)."""
        seen = len({decoded(message).get("data", b"") for message in received} - {b""})
        ledger = tmp_path / "privacy-board.json"
        made = json.loads(ledger.read_text())["updates"] if ledger.exists() else 0
        accounted = 0
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(tmp_path / f"{run}.sqlite")) as database:
            accounted = (database.execute("SELECT private FROM device").fetchone() or (0,))[0]
        assert seen <= made
        assert seen <= accounted
        return seen, made, accounted

    coordinator = await serve()
    try:
        async with listening(broker_config(broker), updates) as received:
            for kill in range(8):
                async with micropython_device(need_program("micropython"), tmp_path, settings) as device:
                    before = len(received)
                    await eventually(lambda before=before: len(received) > before + 5, "it learns")
                    await asyncio.sleep(chance.random() / 5)
                    if kill % 3 != 1:
                        device.kill()
                    if kill % 3 != 0:
                        coordinator.kill()
                        await coordinator.wait()
                        check()
                        coordinator = await serve()
                    check()
            await asyncio.sleep(0.5)
            seen, made, accounted = check()
        assert seen > 40
        assert made <= seen + 8, "no more than one for each death"
        assert accounted <= made + 1
    finally:
        with suppress(ProcessLookupError):
            coordinator.kill()
        await coordinator.wait()


async def test_processes_that_count_on_one_ledger_count_all(tmp_path: Path) -> None:
    program = (
        "import sys; from tinyreptile.privacy import Privacy; p = Privacy(0.5, 2.0, path=sys.argv[1])\n"
        "for _ in range(25): p._alone(p._count)"
    )
    ledger = tmp_path / "ledger.json"
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(ledger)) for _ in range(3)]
    assert [await process.wait() for process in processes] == [0, 0, 0]
    assert json.loads(ledger.read_text())["updates"] == 75
