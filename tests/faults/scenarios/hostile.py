"""A fifth of the fleet means harm."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
from contextlib import closing
from typing import Any, ClassVar

from .. import hostile
from ..bench import RUN, Bench, Fleet
from ..faults import kill_coordinator
from ..processes import Process
from ..proxy import HOST
from ..scenario import Scenario

COUNT = 5
QUARANTINE_SECONDS = 60.0  # until the first of them is there, at most


def _quarantined(bench: Bench) -> list[tuple[str, str]]:
    """(device, why) of all that are in quarantine."""
    with closing(sqlite3.connect(bench.store)) as database:
        return database.execute("SELECT device, quarantine FROM device WHERE quarantine <> ''").fetchall()


class HostileDevices(Scenario):
    """A fifth of the devices sends random, huge, reversed, constant and replayed deltas, and forges what it can."""

    name = "hostile"
    rounds = (4_000, 1_200)
    fleets = (Fleet(20, 2),)
    settings: ClassVar[dict[str, dict[str, Any]]] = {"guards": {"strikes": 3}}  # else it takes a quarter of an hour
    faults = ((kill_coordinator, (3, 1)),)

    async def inject(self, bench: Bench) -> None:
        address = f"{HOST}:{bench.devices_line.port}"
        command = [sys.executable, "-m", "tests.faults.hostile", address, RUN, COUNT, bench.seed]
        devices = Process(command, bench.folder / "hostile.log")
        bench.extras.append(devices)
        bench.injected["hostile devices"] = COUNT
        await devices.start()
        await super().inject(bench)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUARANTINE_SECONDS):
                while not _quarantined(bench):
                    await asyncio.sleep(0.2)

    async def after(self, bench: Bench) -> list[str]:
        quarantined = _quarantined(bench)
        with closing(sqlite3.connect(bench.store)) as database:
            (refused,) = database.execute(
                "SELECT sum(refused) FROM device WHERE device LIKE ?", (f"{hostile.PREFIX}-%",)
            ).fetchone()
        self.figures["refused of hostile devices"] = refused
        self.figures["hostile devices in quarantine"] = len(quarantined)
        found = [f"{device} is in quarantine: {why}" for device, why in quarantined if hostile.PREFIX not in device]
        if not quarantined:
            found.append("none of the hostile devices is in quarantine")
        return found
