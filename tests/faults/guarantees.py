"""What is promised whatever happens, looked at from outside: each promise that was broken comes back as a sentence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from coordinator.config import LearningConfig
from coordinator.initialization import decode, encode
from tinyreptile.model import Model

from .bench import Bench
from .replay import Array, Journal, read, replay
from .witness import Witness

_TRACES = ("Traceback", "Exception ignored", "was never retrieved", "Segmentation fault", "RuntimeWarning")


async def broken(bench: Bench) -> list[str]:
    """What does not hold after the run on ``bench`` has ended; its broker must still run."""
    journal = read(bench.store)
    found = [*journal_breaches(journal, bench.rounds), *wire_breaches(journal, bench.witness)]
    found += count_breaches(journal, {s.prefix: s.counted() for s in bench.swarms})
    weights, breaches = replay_breaches(bench.store, journal)
    found += breaches
    found += await _export_breaches(bench, weights)
    code, printed = await bench.command("runs", "check", bench.store)
    if code:
        found.append(f"tinyreptile runs check finds fault with the store: {printed.strip()}")
    found += [f"left of {process.log.stem}: {command}" for process in bench.processes() for command in process.left()]
    found += log_breaches([process.log for process in bench.processes()])
    return found


def journal_breaches(journal: Journal, rounds: int) -> Iterator[str]:
    """The store is whole, its updates are numbered without gaps, and there are as many as were to come."""
    if journal.damage != "ok":
        yield f"the store is damaged: {journal.damage}"
    places = [place for place, _, _ in journal.updates]
    if places != list(range(len(places))):
        yield "the accepted updates are not numbered 0, 1, 2, ..."
    twice = [work for work, count in Counter(work for _, work, _ in journal.updates).items() if count > 1]
    if twice:
        yield f"{len(twice)} updates are in the store more than once, the first of work {twice[0]}"
    if len(places) != rounds:
        yield f"{len(places)} updates are in the store, not the {rounds} of the run"
    per_device = Counter(device for _, _, device in journal.updates)
    wrong = [device for device, count in journal.devices.items() if count != per_device[device]]
    if wrong:
        yield f"{len(wrong)} devices are on record with another number of updates than they have, {wrong[0]} the first"


def wire_breaches(journal: Journal, witness: Witness) -> Iterator[str]:
    """Whatever was ever acknowledged is in the store, and nobody heard of anything else."""
    kept = {work: device for _, work, device in journal.updates}
    for what, acknowledged in (("acknowledged", witness.acknowledged), ("heard to be accepted", witness.heard)):
        lost = [work for work, device in acknowledged.items() if kept.get(work) != device]
        if lost:
            yield f"{len(lost)} updates were {what} and are not in the store, the first of work {lost[0]}"


def count_breaches(journal: Journal, counted: Mapping[str, int | None]) -> Iterator[str]:
    """No swarm counts more accepted updates than its devices have in the store."""
    for prefix, count in counted.items():
        kept = sum(device.startswith(f"{prefix}-") for _, _, device in journal.updates)
        if count is None:
            yield f"the swarm {prefix} ended without its table"
        elif count > kept:
            yield f"the swarm {prefix} counts {count} accepted updates, the store {kept}"


def replay_breaches(store: Path, journal: Journal) -> tuple[Array, list[str]]:
    """(the last weights, breaches): the journal, replayed, leads to the weights of every checkpoint, bit for bit."""
    found = []
    version, weights = 0, np.zeros(0)
    for version, weights in replay(store):
        kept = journal.checkpoints.get(version)
        if kept is not None and kept.tobytes() != weights.tobytes():
            found.append(f"the weights of version {version} are not what its journal leads to")
    if version not in journal.checkpoints:
        found.append(f"there is no checkpoint of the last version, {version}")
    return weights, found[:3]


async def _export_breaches(bench: Bench, weights: Array) -> list[str]:
    """What `tinyreptile export` writes is what the journal leads to."""
    path = bench.folder / "exported.npz"
    code, printed = await bench.command("export", path, *bench.observing)
    if code:
        return [f"the initialization can not be exported: {printed.strip()}"]
    with np.load(path) as arrays:
        exported = np.concatenate([arrays[name].ravel() for name in arrays.files if name not in ("model", "version")])
        model = Model(json.loads(str(arrays["model"])))
    encoding = LearningConfig().encoding  # the bench's run has the default
    if (exported != decode(model, encode(model, weights, encoding), encoding)).any():
        return ["the exported initialization is not what the journal leads to"]
    return []


def log_breaches(logs: list[Path]) -> Iterator[str]:
    """No program has died of an error of its own."""
    for log in logs:
        text = log.read_text(errors="replace")
        if trace := next((trace for trace in _TRACES if trace in text), None):
            yield f"{trace!r} in {log}"
