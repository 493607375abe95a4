"""One certificate holds as many sessions as the broker lets it, so that each message is copied for all of them."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from deployment.broker import find_plugin
from deployment.errors import DeploymentError
from tinyreptile import reports

from ...sessions import Attack
from ..bench import RUN, Bench, Fleet
from ..processes import Process
from ..scenario import Scenario
from ..secured import THIEF, SecuredBench

LEAST_RATE = 0.8  # of what was before
MOST_COPIES = 2  # of each of its messages, that a device is sent
MESSAGE_BYTES = 50  # of such a packet, about
DEVICE = reports.CoordinatorTopics(RUN).device(THIEF)
ROOT = f"tinyreptile/{RUN}"
# Filters that match one topic of the device's, or all that an observer may read.
OWN = [
    *("#", "+/#", "tinyreptile/#", "tinyreptile/+/#", "+/+/#", f"{ROOT}/#", f"{ROOT}/+/#", f"{ROOT}/device/#"),
    *(f"+/{RUN}/#", f"+/{RUN}/device/#", f"{ROOT}/device/+/#", f"{ROOT}/device/{THIEF}/#"),
    *(f"{ROOT}/device/+/status", DEVICE.status),
]
ALL = [
    *(f"{ROOT}/init", f"{ROOT}/init/+"),
    *("#", f"{ROOT}/#", f"{ROOT}/device/#", f"{ROOT}/device/+/#", f"{ROOT}/device/+/status", f"{ROOT}/coordinator"),
]


class Sessions(Scenario):
    """A stolen device's certificate opens a thousand sessions that stay, then one with 14,000 shared subscriptions, and
    sends 40 messages a second; an observer's opens 2,500 and reads, with connections and without."""

    name = "sessions"
    rounds = (0, 0)  # as many as there are in these windows
    sessions = (1000, 100)
    groups = (14_000, 1000)
    readers = (2500, 0)
    seconds = (60.0, 2.0)
    calm = (20.0, 2.0)
    settle = (3.0, 1.0)
    rate = 40.0
    fleets = (Fleet(49, 2, think=1.0),)
    settings: ClassVar[dict[str, dict[str, Any]]] = {"learning": {"in_flight": 50}, "evaluation": {"every": 1000}}

    @classmethod
    def absent(cls) -> str:
        try:
            find_plugin()
        except DeploymentError as error:
            return str(error)
        return ""

    def bench(self, folder: Path, seed: int) -> Bench:
        return SecuredBench(folder, seed, self.rounds[self.quick], self.settings, self.fleets)

    async def inject(self, bench: Bench) -> None:
        assert isinstance(bench, SecuredBench)
        await bench.reached(100)
        sending = {"topic": DEVICE.status, "rate": self.rate}
        attacks: dict[str, dict[str, Any]] = {
            "a device's sessions that stay": {"sessions": self.sessions[self.quick], "filters": OWN},
            # Under MQTT 5 each group is sent a copy of its own.
            "a device's shared subscriptions": {
                "groups": self.groups[self.quick],
                "filters": [DEVICE.status],
                "version": 5,
                "keep": True,
            },
        }
        for what, fields in attacks.items():
            ratio = await self._attack(bench, THIEF, what, **fields, **sending)
            if not self.quick and ratio < LEAST_RATE:  # a single short window says what else the machine was at
                bench.breaches.append(f"the rate of the others fell to {ratio:.2f} with {what}")
        names = set(re.findall(rf" as (\S+) \(.*u'{THIEF}'\)", bench.broker.log.read_text()))
        if names != {THIEF}:
            bench.breaches.append(f"one device had sessions under {len(names)} client ids")
        for keep in (False, True) if self.readers[self.quick] else ():
            what = f"an observer's sessions {'with connections' if keep else 'that stay'}"
            await self._attack(bench, "observer", what, sessions=self.readers[self.quick], filters=ALL, keep=keep)
        if bench.coordinator.starts > 1:
            bench.breaches.append("the coordinator died")

    async def _attack(self, bench: SecuredBench, name: str, what: str, **fields: Any) -> float:
        """The rate of the others while ``name`` attacks, over that before."""
        way = bench.credentials(name)
        attack = Attack(
            *(way.host, way.port, str(way.tls_ca), str(way.tls_cert), str(way.tls_key)),
            seconds=self.seconds[self.quick] + self.settle[self.quick],
            **fields,
        )
        before = await self._rate(bench, self.calm[self.quick])
        self.tell(f"{what}, {_accepted(bench)} updates")
        process = Process(
            [sys.executable, "-m", "tests.sessions", json.dumps(asdict(attack))],
            bench.folder / f"{what.replace(' ', '-')}.log",
        )
        bench.extras.append(process)
        opening = _accepted(bench), asyncio.get_running_loop().time()
        await process.start()
        while process.running and "opened" not in process.log.read_text():
            await asyncio.sleep(0.1)
        took = asyncio.get_running_loop().time() - opening[1]
        while_opening = (_accepted(bench) - opening[0]) / took / before
        await asyncio.sleep(self.settle[self.quick])
        during = await self._rate(bench, self.seconds[self.quick]) / before
        if await process.wait():
            bench.breaches.append(f"{what}: the attack failed: {process.log.read_text().strip()[-300:]}")
            return during
        opened, sent, came = map(int, process.log.read_text().split()[1:])
        bench.injected[what] += opened
        bench.injected[f"messages beside {what}"] += sent
        if came > MOST_COPIES * MESSAGE_BYTES * sent > 0:
            bench.breaches.append(f"{what}: {came:,} bytes came of {sent:,} messages of its own")
        self.figures[f"rate / before, {what}"] = f"{during:.2f} ({while_opening:.2f} in the {took:.0f} s of opening)"
        self.tell(f"{what}: {opened} opened in {took:.0f} s, {before:.1f} updates a second, then {during:.2f} of that, "
                  f"{came:,} bytes came")  # fmt: skip
        return during

    async def _rate(self, bench: Bench, seconds: float) -> float:
        """Accepted updates a second in the next ``seconds``."""
        loop = asyncio.get_running_loop()
        begun, updates = loop.time(), _accepted(bench)
        await asyncio.sleep(seconds)
        return (_accepted(bench) - updates) / (loop.time() - begun)


def _accepted(bench: Bench) -> int:
    """Return the updates in the store: what the broker is late with counts when it has come."""
    with closing(sqlite3.connect(f"{bench.store.as_uri()}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT count(*) FROM accepted").fetchone()[0])
