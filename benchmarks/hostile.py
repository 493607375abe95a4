"""What hostile devices do to a run, with the guards by default, with reputations, and with trusted devices: a table.

    python -m benchmarks.hostile                   # the sine task; --task presence, --task omniglot
    python -m benchmarks.hostile --quick           # one seed, shorter runs
    python -m benchmarks.hostile --only reversed --seeds 1 2

The coordinator's own `Run` with its journal and guards, without a network: fifty devices, ten at work at once, each
from the version that was on the wire then. Ten of them (--hostile) do one of the attacks of `simulator.collusion`.
Then unseen devices adapt; shown is their error over that of a run without hostile devices and without reputations, of
the same seed: the mean over the seeds, and the range.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from coordinator.config import load_config
from coordinator.deltas import unpack
from coordinator.entries import Entry
from coordinator.initialization import decode
from coordinator.rules import Weights
from coordinator.run import Run
from coordinator.store import Store
from simulator.collusion import COLLUSIONS, Attack, Known, packed
from simulator.hostile import Forged
from simulator.offline import IntegerDevice, evaluate, run_now
from simulator.tasks import TaskError, make_task
from tinyreptile import episodes, messages, reports

from .report import make_console

LINE_SECONDS = 30.0  # between two lines of progress where there is no terminal
OUT = Path("out/attacks.json")
DEVICES, HOSTILE, TRUSTED, IN_FLIGHT = 50, 10, 3, 10
BITS = 8
DIVERGED = float("inf")

# The guards of a run, by the heading of their column.
GUARDS: dict[str, dict[str, Any]] = {
    "by default": {},
    "reputation": {"reputation": True, "clip": 2.0},
    "and 3 trusted": {"reputation": True, "clip": 2.0, "trusted": [f"d{i}" for i in range(TRUSTED)]},
}


@dataclass(frozen=True)
class Study:
    """What is learned, and how long.

    Attributes:
        updates: in a whole table, and in a quick one.
        unseen: devices that adapt, at most.
    """

    updates: tuple[int, int]
    unseen: int


STUDIES = {
    "sine": Study((6000, 2000), 500),
    "presence": Study((6000, 2000), 500),
    "omniglot": Study((3000, 600), 50),
}


@dataclass(frozen=True)
class Kind:
    """One run: its task, guards and attack; ``attack`` is empty where nobody is hostile."""

    task: str
    guards: str
    attack: str
    seed: int
    updates: int
    hostile: int = HOSTILE


class Fleet:
    """A run and its devices in one thread: what the run sends, ``advance`` lets a device do."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        self._task = task = make_task(kind.task)
        learning = task.settings["learning"] | {"bits": BITS, "in_flight": IN_FLIGHT}
        guards = GUARDS[kind.guards] | {"drift": 0.0}
        run = {"name": "hostile", "model": task.model, "rounds": kind.updates, "seed": kind.seed}
        tables: dict[str, dict[str, Any]] = {"run": run, "learning": learning, "guards": guards}
        self._now = 0.0
        self._requests: deque[tuple[str, dict[str, Any]]] = deque()
        self._entries: list[Entry] = []
        self._durable: list[Any] = []
        self._versions: dict[int, Weights] = {}
        self._store = Store(str(folder / "run.sqlite"), "hostile")
        self._config = load_config(None, tables)
        self.run = Run(self._config, self._store, send=self._send, record=self._record, clock=lambda: self._now)
        self._keep_version()
        self._device = IntegerDevice(self.run.model, beta=self._config.learning.beta, bits=BITS)
        devices = min(DEVICES, task.devices or DEVICES)
        self._streams = [task.train_stream(i, kind.seed) for i in range(devices)]
        self._known = Known(self.run.model.parameters, self._config.guards.clip, standing=self._standing)
        self._attack: Attack | None = None
        self.hostile: set[int] = set()
        if kind.attack:
            self._attack = COLLUSIONS[kind.attack](self._known, kind.seed)
            self.hostile = set(Random(kind.seed).sample(range(TRUSTED, devices), kind.hostile))
            for i in self.hostile:
                self._streams[i] = self._attack.stream(self._streams[i])
        for i in range(devices):
            status = {"protocol": messages.PROTOCOL, "state": "online", "boot": "b", "role": "train"}
            self.run.take_status(f"d{i}", status)

    def _standing(self, index: int) -> float:
        return self.run.standing(f"d{index}")

    def _send(self, topic: str, message: dict[str, Any], *pieces: dict[str, Any]) -> None:
        if "version" in message:
            self._requests.append((topic.split("/")[3], message))

    def _record(self, entry: Entry, durable: Any) -> None:
        self._entries.append(entry)
        if durable is not None:
            self._durable.append(durable)

    def _keep_version(self) -> None:
        newest = self.run.newest()
        self._versions[newest.number] = decode(self.run.model, newest.data, newest.encoding)
        self._versions.pop(newest.number - 1000, None)

    def advance(self) -> None:
        """Publish, hand out work, and let the device that has waited longest send its update."""
        self._now += 0.01
        run = self.run
        if len(self._entries) > 500:
            self._store.write(self._entries)
            self._entries.clear()
        while self._durable:
            self._durable.pop(0)()
        run.expire()
        if run.publish_at() is not None:
            run.published(run.newest())
        while run.next_work():
            pass
        if self._requests:
            self._answer(*self._requests.popleft())
            self._keep_version()

    def _answer(self, device_id: str, work: dict[str, Any]) -> None:
        index = int(device_id[1:])
        hostile = self._attack if index in self.hostile else None
        self._known.progress = self.run.updates / self._config.run.rounds
        sent, gains, loss = b"", list[int](), 0.0
        delta = np.zeros(self.run.model.parameters)
        if hostile is None or hostile.learns:
            sent, gains, loss = self._learn(index, work)
            delta = unpack(self.run.model, sent, BITS, gains)
        if hostile is None:
            self._known.latest[index] = delta
        else:
            sent, gains = packed(self.run.model, hostile.forge(index, delta))
        pieces = Forged(self.run.model, sent, gains).chunks()
        for i, piece in enumerate(pieces):
            update: dict[str, Any] = {"work": work["work"], "chunks": len(pieces), "data": piece}
            if i:
                update["part"] = i
            else:
                update |= {"version": work["version"], "gains": gains, "loss": loss}
            self.run.take_update(device_id, messages.check(reports.UPDATE, update))

    def _learn(self, index: int, work: dict[str, Any]) -> tuple[bytes, list[int], float]:
        device, learner = self._device, self._device.learner
        device.load(self._versions[work["version"]], work["work"])
        loss = run_now(episodes.train(learner, self._streams[index], self._config.learning.steps))
        delta = learner.delta(BITS, None)
        data = bytearray(delta.size)
        delta.pack(0, data)
        return bytes(data), list(delta.gains), loss

    def error(self, kind: Kind) -> float:
        """Mean loss of unseen devices after adaptation."""
        count = min(STUDIES[kind.task].unseen, self._task.evaluators or DIVERGED)
        unseen = [self._task.unseen_stream(i, kind.seed) for i in range(int(count))]
        settings = {"shots": 10} | self._task.settings["evaluation"] | {"queries": 100}
        names = ("steps", "shots", "queries")
        results = evaluate(self._device, self.run.weights, unseen, **{name: settings[name] for name in names})
        return statistics.fmean(result["after"] for result in results)

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()


def study(kind: Kind) -> float:
    """The error of the run ``kind``; infinite if its devices could not learn any more."""
    logging.disable(logging.WARNING)  # who is distrusted
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), kind)
        try:
            while fleet.run.updates < kind.updates:
                fleet.advance()
            return fleet.error(kind)
        except episodes.Diverged:
            return DIVERGED
        finally:
            fleet.close()


def ratio(errors: dict[Kind, float], kinds: list[Kind]) -> str:
    """What ``kinds``, one a seed, come to, over the clean runs of the same seeds."""
    ratios = [errors[kind] / errors[clean(kind)] for kind in kinds]
    if DIVERGED in ratios:
        return f"diverged, {ratios.count(DIVERGED)} of {len(ratios)}"
    span = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{statistics.fmean(ratios):.2f}{span}"


def clean(kind: Kind) -> Kind:
    """The run that ``kind`` is compared with."""
    return Kind(kind.task, "by default", "", kind.seed, kind.updates, kind.hostile)


def measure(kinds: list[Kind], jobs: int, console: Console) -> dict[Kind, float]:
    """The errors of all ``kinds``, some at a time."""
    errors = {}
    with (
        ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool,
        Progress(console=console, transient=True) as progress,
    ):
        bar = progress.add_task("runs", total=len(kinds))
        waiting = {pool.submit(study, kind): kind for kind in kinds}
        said = time.monotonic()
        for done in as_completed(waiting):
            errors[waiting[done]] = done.result()
            progress.advance(bar)
            if not console.is_terminal and time.monotonic() > said + LINE_SECONDS:
                said = time.monotonic()
                console.print(f"{len(errors)} of {len(kinds)} runs")
    return errors


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--task", choices=STUDIES, default="sine")
    parser.add_argument("--quick", action="store_true", help="one seed, shorter runs: rough")
    parser.add_argument("--only", nargs="+", choices=COLLUSIONS, default=list(COLLUSIONS), metavar="ATTACK")
    parser.add_argument("--hostile", type=int, default=HOSTILE, metavar="N", help="devices that are")
    parser.add_argument("--seeds", nargs="+", type=int, help="by default 1 2 3, in a quick table 1")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="runs at a time")
    arguments = parser.parse_args()
    try:
        devices = min(DEVICES, make_task(arguments.task).devices or DEVICES)
    except TaskError as error:  # its data are not here
        parser.exit(1, f"error: {error}\n")
    if not 0 <= arguments.hostile <= devices - TRUSTED:
        parser.error(f"of the {devices} devices of {arguments.task} 0 to {devices - TRUSTED} can be hostile")
    seeds = arguments.seeds or ([1] if arguments.quick else [1, 2, 3])
    updates = STUDIES[arguments.task].updates[arguments.quick]
    attacks = ["", *arguments.only]
    rows = {
        (attack, guards): [Kind(arguments.task, guards, attack, seed, updates, arguments.hostile) for seed in seeds]
        for attack in attacks
        for guards in GUARDS
    }
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of the processes that follow: the attacks' matrices are small
    console = make_console()
    errors = measure([kind for kinds in rows.values() for kind in kinds], arguments.jobs, console)
    console.print(
        f"{arguments.task}, {updates:,} updates, {arguments.hostile} of {DEVICES} devices hostile, seeds {seeds}; "
        f"error without them: {statistics.fmean(errors[clean(kind)] for kind in rows['', 'by default']):.3f}"
    )
    table = Table("times that error", *GUARDS)
    for attack in attacks:
        table.add_row(attack or "nobody hostile", *(ratio(errors, rows[attack, guards]) for guards in GUARDS))
    console.print(table)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps([vars(kind) | {"error": error} for kind, error in errors.items()], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
