"""What hostile devices do to a run, without guards and with them: the sine task, a fifth of the fleet means harm.

The coordinator's own `Run` with its journal and guards, without a network: fifty devices, ten at work at once, each
from the version that was on the wire then. The hostile ones learn, and send random, scaled, flipped, constant or
replayed deltas instead, well formed (`simulator.hostile`). Then 500 unseen sines are adapted to.
"""

from __future__ import annotations

import logging
import multiprocessing
import statistics
import tempfile
from collections import deque
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.config import load_config
from coordinator.entries import Entry
from coordinator.initialization import decode
from coordinator.run import Run
from coordinator.store import Store
from simulator.hostile import ATTACKS, attackers
from simulator.offline import IntegerDevice, evaluate, run_now
from simulator.tasks.sine import Sine
from tinyreptile import episodes, messages, reports

from .report import Figure, Progress, Result

DEVICES, SHARE, IN_FLIGHT = 50, 0.2, 10
BITS, STEPS, SHOTS, QUERIES, UNSEEN = 8, 32, 10, 100, 500
SEEDS = (1, 2, 3)
TARGET = 1.3

OFF: dict[str, Any] = {"clip": 0, "refuse": 0, "repeats": False, "strikes": 0}


@dataclass(frozen=True)
class Kind:
    """Which attacks the hostile devices share among them, and whether the guards are as they are by default."""

    attacks: tuple[str, ...]
    guarded: bool


class Fleet:
    """A run and its devices in one thread: what the run sends, ``advance`` lets a device do."""

    def __init__(self, folder: Path, seed: int, rounds: int, kind: Kind) -> None:
        task = Sine()
        learning: dict[str, Any] = {
            "steps": STEPS,
            "beta": 0.005,
            "bits": BITS,
            "in_flight": IN_FLIGHT,
            "publish_interval": 0,
        }
        run = {"name": "hostile", "model": task.model, "rounds": rounds, "seed": seed}
        tables: dict[str, dict[str, Any]] = {"run": run, "learning": learning, "guards": {} if kind.guarded else OFF}
        self._now = 0.0
        self._requests: deque[tuple[str, dict[str, Any]]] = deque()
        self._entries: list[Entry] = []
        self._durable: list[Any] = []
        self._versions: dict[int, Any] = {}
        self._store = Store(str(folder / f"{seed}.sqlite"), "hostile")
        self.run = Run(
            load_config(None, tables), self._store, send=self._send, record=self._record, clock=lambda: self._now
        )
        self._device = IntegerDevice(self.run.model, beta=0.005, bits=BITS)
        self._streams = [task.train_stream(i, seed) for i in range(DEVICES)]
        self._hostile = attackers(DEVICES, SHARE if kind.attacks else 0.0, seed, kind.attacks)
        for i in range(DEVICES):
            status = {"protocol": messages.PROTOCOL, "state": "online", "boot": "b", "role": "train"}
            self.run.take_status(f"d{i}", status)

    def _send(self, topic: str, message: dict[str, Any]) -> None:
        if topic.endswith("/work"):
            self._requests.append((topic.split("/")[3], message))

    def _record(self, entry: Entry, durable: Any) -> None:
        self._entries.append(entry)
        if durable is not None:
            self._durable.append(durable)

    def advance(self) -> None:
        """Publish, hand out work, and let the device that has waited longest send its update."""
        self._now += 0.01
        run = self.run
        if len(self._entries) > 500:
            self._store.write(self._entries)
            self._entries.clear()
        for durable in self._durable:
            durable()
        self._durable.clear()
        run.expire()
        if run.publish_at() is not None:
            state = run.checkpoint()
            data = run.encoded(state)
            run.publication.begin(state.version, data)
            run.published(state, data)
            self._versions[state.version] = decode(run.model, data)
            self._versions.pop(state.version - 1000, None)
        while run.next_work():
            pass
        if self._requests:
            self._answer(*self._requests.popleft())

    def _answer(self, device_id: str, work: dict[str, Any]) -> None:
        index = int(device_id[1:])
        device, learner = self._device, self._device.learner
        device.load(self._versions[work["version"]], work["work"])
        loss = run_now(episodes.train(learner, self._streams[index], work["steps"]))
        delta = learner.delta(BITS, None)
        packed = bytearray(delta.size)
        delta.pack(0, packed)
        sent, gains = bytes(packed), list(delta.gains)
        if index in self._hostile:
            sent, gains = self._hostile[index].forge(sent, gains)
        report = {"version": work["version"], "bits": BITS, "gains": gains, "loss": loss, "samples": work["steps"]}
        size = messages.CHUNK_BYTES
        pieces = [sent[at : at + size] for at in range(0, len(sent), size)]
        for i, piece in enumerate(pieces):
            update: dict[str, Any] = {"work": work["work"], "chunks": len(pieces), "data": piece}
            if i == 0:
                update["report"] = report | {"ms": 1, "free": 0}
            self.run.take_update(device_id, i, messages.check(reports.UPDATE, update))

    def error(self, seed: int) -> float:
        """Mean squared error on unseen sines after adaptation."""
        unseen = [Sine().unseen_stream(i, seed) for i in range(UNSEEN)]
        results = evaluate(self._device, self.run.weights, unseen, steps=STEPS, shots=SHOTS, queries=QUERIES)
        return statistics.fmean(result["after"] for result in results)

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()


def study(kind: Kind, seed: int, rounds: int) -> float:
    """The error after ``rounds`` updates and adaptation."""
    logging.disable(logging.WARNING)  # each quarantine is one
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), seed, rounds, kind)
        try:
            while fleet.run.updates < rounds:
                fleet.advance()
            return fleet.error(seed)
        finally:
            fleet.close()


def run(quick: bool, progress: Progress) -> Result:
    """Measure."""
    rounds = 2000 if quick else 20_000
    seeds = SEEDS[:1] if quick else SEEDS
    all_attacks = tuple(ATTACKS)
    hostile = [all_attacks, *((attack,) for attack in all_attacks)]
    kinds = [Kind((), True), *(Kind(attacks, guarded) for attacks in hostile for guarded in (False, True))]
    errors: dict[Kind, dict[int, float]] = {kind: {} for kind in kinds}
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {pool.submit(study, kind, seed, rounds): (kind, seed) for kind in kinds for seed in seeds}
        for done, job in enumerate(as_completed(jobs), start=1):
            kind, seed = jobs[job]
            errors[kind][seed] = job.result()
            progress(done / len(jobs), f"{done} of {len(jobs)} runs of {rounds:,} rounds")
    means = {kind: statistics.fmean(found.values()) for kind, found in errors.items()}
    clean = means[kinds[0]]
    figures = [Figure(f"sine, {rounds:,} rounds, {len(seeds)} seeds: MSE of a clean run with guards", f"{clean:.3f}")]
    for attacks in hostile:
        name = "all attacks in equal parts" if attacks == all_attacks else f"{attacks[0]} deltas only"
        without, guarded = (means[Kind(attacks, on)] / clean for on in (False, True))
        text = f"{guarded:.2f} times, without guards {without:.2f}"
        where = f"{SHARE:.0%} hostile devices, {name}"
        if attacks == all_attacks:
            figures.append(Figure(where, text, f"≤ {TARGET:g}", guarded <= TARGET))
        else:
            figures.append(Figure(where, text))
    raw = {f"{'+'.join(kind.attacks) or 'clean'}, guarded {kind.guarded}": found for kind, found in errors.items()}
    return Result(figures, raw)
