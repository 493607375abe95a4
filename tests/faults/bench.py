"""One run on the bench: broker, coordinator and fleet as processes, with a network between them that can be broken.

coordinator -- proxy --+
                       +-- Mosquitto
devices ------ proxy --+
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator.config import BrokerConfig, Config, RunConfig
from coordinator.errors import CoordinatorError
from coordinator.operator import ask

from ..commands import COMMAND
from ..environment import CLIENT, find_program, free_port
from .broker import Broker
from .processes import Process, Service
from .proxy import HOST, Proxy
from .witness import Witness

RUN = "faults"
COMMAND_SECONDS = 120.0
END_SECONDS = 60.0  # after a run's end, until all of its devices have ended, too
TAIL = 500  # updates after the last fault, at least
_COUNTS = re.compile(r"(\w+)\s*│\s*(\d+)")


@dataclass(frozen=True)
class Fleet:
    """Simulated devices in one process: ``think`` seconds a piece of training takes; ``direct``: past the proxy."""

    devices: int = 16
    evaluators: int = 2
    think: float = 0.0
    drop_out: float = 0.0
    direct: bool = False


@dataclass
class Swarm:
    """A fleet that runs; ``prefix`` begins its devices' ids."""

    prefix: str
    fleet: Fleet
    process: Process

    def counts(self) -> dict[str, int]:
        """What its devices count, as it says at its end; empty if it did not get there."""
        text = self.process.log.read_text()
        return {name: int(count) for name, count in _COUNTS.findall(text[text.rfind("Swarm of run") :])}

    def counted(self) -> int | None:
        """Updates that its devices heard were accepted; None if it ended without saying so."""
        return self.counts().get("accepted")


@dataclass(eq=False)
class Bench:
    """All parts of one scenario.

    Attributes:
        rounds: accepted updates of the run at least, and of all that are in the store once `end` has been called.
        behind: how many were in the store before.
        injected: faults so far, by name.
        chance: of this scenario, from its seed.
        breaches: promises that were seen broken while it went on.
        extras: further processes of a scenario, which end with the run.
        boards: devices that live on after the run, as boards do; they are stopped then.
        afterwards: what is to be undone at the end.
    """

    folder: Path
    seed: int
    rounds: int
    settings: dict[str, dict[str, Any]]
    fleets: tuple[Fleet, ...]
    behind: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    breaches: list[str] = field(default_factory=list)
    extras: list[Process] = field(default_factory=list)
    boards: list[Process] = field(default_factory=list)
    afterwards: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.witness = Witness()
        self.broker = self._broker()
        self.store = self.folder / "store" / "run.sqlite"
        self.store.parent.mkdir(exist_ok=True)
        self.coordinators_line = Proxy(
            free_port(),
            self.broker.port,
            self.chance.getrandbits(32),
            up=self.witness.from_coordinator,
            down=self.witness.to_coordinator,
        )
        self.devices_line = Proxy(
            free_port(), self.broker.port, self.chance.getrandbits(32), down=self.witness.to_device
        )
        self.config = self.folder / "run.toml"
        self.config.write_text(_toml(self._tables()))
        self.coordinator = Service([*COMMAND, *self.serve_arguments()], self.folder / "coordinator.log")
        self.swarms = [self._swarm(index, fleet) for index, fleet in enumerate(self.fleets)]

    def _broker(self) -> Broker:
        return Broker(self.folder)

    @property
    def directly(self) -> Config:
        """How the bench itself reaches the broker: as an operator."""
        return Config(run=RunConfig(name=RUN), broker=BrokerConfig(host=HOST, port=self.broker.port))

    @property
    def observing(self) -> list[object]:
        """Options of commands that read the run."""
        return ["--run", RUN, "--broker", f"{HOST}:{self.broker.port}"]

    def _coordinators_broker(self) -> dict[str, Any]:
        return {"host": HOST, "port": self.coordinators_line.port}

    def _tables(self) -> dict[str, dict[str, Any]]:
        tables: dict[str, dict[str, Any]] = {
            "run": {"name": RUN, "rounds": 0, "store": str(self.store)},  # it goes on until `end`
            "broker": {**self._coordinators_broker(), "keepalive": 5},
            "learning": {"steps": 4, "in_flight": 12, "deadline": 10.0},
            # Nothing is gone back to: what is left must be what all updates of the journal lead to.
            "evaluation": {
                "every": max(200, self.rounds // 10),
                "steps": 4,
                "shots": 4,
                "queries": 8,
                "best": False,
            },
            "guards": {"drift": 0.0},
            "journal": {"history": 0, "rows": 0},
        }
        for table, values in self.settings.items():
            tables.setdefault(table, {}).update(values)
        return tables

    def serve_arguments(self, *options: object) -> list[object]:
        """The coordinator's command."""
        return ["serve", "--task", "sine", "--config", self.config, *options]

    def _swarm(self, index: int, fleet: Fleet) -> Swarm:
        prefix = f"fleet{index}"
        command = [
            *(*COMMAND, "swarm", *self._swarm_options(prefix, fleet)),
            *("-n", fleet.devices, "--evaluators", fleet.evaluators, "--seed", self.seed + index),
            *("--think", fleet.think, "--drop-out", fleet.drop_out),
        ]
        return Swarm(prefix, fleet, Process(command, self.folder / f"{prefix}.log"))

    def _swarm_options(self, prefix: str, fleet: Fleet) -> list[object]:
        port = self.broker.port if fleet.direct else self.devices_line.port
        return ["--config", self.config, "--broker", f"{HOST}:{port}", "--prefix", prefix]

    async def _connect(self) -> None:
        await self.coordinators_line.start()
        await self.devices_line.start()

    async def start(self) -> None:
        """Start everything."""
        await asyncio.to_thread(self.broker.start)
        await self._connect()
        await self.coordinator.start()
        for swarm in self.swarms:
            await swarm.process.start()

    async def reached(self, updates: int) -> bool:
        """Wait until so many updates have been accepted; False if the run has ended before."""
        waiting = asyncio.ensure_future(self.witness.reached(updates))
        ended = asyncio.ensure_future(self.coordinator.wait())
        await asyncio.wait([waiting, ended], return_when=asyncio.FIRST_COMPLETED)
        reached = waiting.done()
        for task in (waiting, ended):
            task.cancel()
        await asyncio.gather(waiting, ended, return_exceptions=True)
        return reached

    async def at_work(self) -> None:
        """Wait until the coordinator that was started last says that it runs, and hands out work."""
        while not self.coordinator.running or min(self.witness.last.values()) < self.coordinator.started_at:
            await asyncio.sleep(0.002)

    async def end(self, seconds: float) -> None:
        """Have the run end once it has all of its updates, `TAIL` more than now at least; wait until it and its devices
        have ended by themselves.

        Raises TimeoutError.
        """
        least = self.rounds
        async with asyncio.timeout(END_SECONDS):
            await self.at_work()
            while not self.coordinator.ended:
                self.rounds = self.behind + max(least, len(self.witness.acknowledged) + TAIL)
                if await self._end_at(self.rounds):
                    break
        async with asyncio.timeout(seconds):
            await self.coordinator.wait()
        async with asyncio.timeout(END_SECONDS):
            for process in (*(swarm.process for swarm in self.swarms), *self.extras):
                await process.wait()
        for board in self.boards:
            await board.kill()

    async def _end_at(self, rounds: int) -> bool:
        """Ask for that end; whether there was an answer. After the last fault it may still be without a connection."""
        with contextlib.suppress(CoordinatorError):
            await ask(self.directly, "set", {"run.rounds": rounds})
            return True
        return False

    async def add_board(self, name: str) -> None:
        """A device ``name`` on MicroPython: the very files that are flashed."""
        stream = {"kind": "sine", "seed": self.seed}
        device = {"id": name, "run": RUN, "host": HOST, "port": self.devices_line.port, "keepalive": 5}
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(device | {"stream": stream}))
        command = [find_program("micropython"), "-X", "heapsize=2M", CLIENT / "main.py", path]
        board = Process(command, self.folder / f"{name}.log")
        board.environment["MICROPYPATH"] = f".frozen:{CLIENT}"
        self.boards.append(board)
        await board.start()

    def processes(self) -> list[Process]:
        """All but the broker."""
        return [self.coordinator, *(swarm.process for swarm in self.swarms), *self.extras, *self.boards]

    async def extra(self, name: str, module: str, *arguments: object) -> list[str]:
        """The words that ``module``, run to its end, has printed; empty if it failed, which is a breach."""
        process = Process([sys.executable, "-m", module, *arguments], self.folder / f"{name}.log")
        self.extras.append(process)
        await process.start()
        failed = await process.wait()
        printed = process.log.read_text()
        if failed:
            self.breaches.append(f"the {name} failed: {printed.strip()[-300:]}")
        return [] if failed else printed.split()

    async def command(self, *arguments: object) -> tuple[int, str]:
        """(exit code, what it printed) of a tinyreptile command; what does not end is killed."""
        process = await asyncio.create_subprocess_exec(
            *map(str, (*COMMAND, *arguments)), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        talk = asyncio.ensure_future(process.communicate())
        if not (await asyncio.wait([talk], timeout=COMMAND_SECONDS))[0]:
            process.kill()
        printed, _ = await talk
        assert process.returncode is not None
        return process.returncode, printed.decode()

    async def stop(self) -> None:
        """End whatever still runs."""
        for process in self.processes():
            process.end()
        await self.coordinators_line.stop()
        await self.devices_line.stop()
        await asyncio.to_thread(self.broker.stop)
        self.afterwards.close()


def _toml(tables: dict[str, dict[str, Any]]) -> str:
    lines = []
    for table, values in tables.items():
        lines.append(f"[{table}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    return "\n".join(lines) + "\n"
