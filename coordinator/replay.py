"""The state as its journal says: a checkpoint with the later deltas folded in, each as it was decided then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from tinyreptile.model import Model

from .deltas import unpack
from .entries import Accepted, Checkpoint
from .errors import StoreError
from .rules import MetaUpdate, Weights, discount, schedule
from .store import Store


@dataclass
class State:
    """Float weights after ``updates`` accepted updates; ``meta`` holds those of a batch that is not whole."""

    weights: Weights
    version: int
    updates: int
    meta: MetaUpdate

    def fold(self, model: Model, row: Accepted) -> None:
        """Take the next update of the journal."""
        delta = unpack(model, row.delta or b"", row.bits, row.gains, row.kept)
        self.meta.fold(self.weights, delta, row.decision())
        self.updates += 1
        self.version += row.moved


def replay(store: Store, model: Model, meta: MetaUpdate, version: int | None = None) -> State | None:
    """The state at ``version``, or the last one; None in a new store.

    ``meta`` takes what is left of a batch; its own settings play no part, for the journal holds what was decided.
    Raises `StoreError` if that version is older than what can be gone back over, or newer than the last.
    """
    checkpoint = store.checkpoint(version)
    if checkpoint is None:
        if version is None:
            return None
        raise _out_of_reach(store, version)
    state = _state(checkpoint, meta)
    for row in _rows_until(store, state, version):
        if row.delta is None:
            raise _out_of_reach(store, version)
        state.fold(model, row)
    if version is not None and state.version != version:
        raise _out_of_reach(store, version)
    return state


def check(store: Store, model: Model) -> int:
    """Replay all deltas that the store has between its checkpoints; how many that were.

    Raises `StoreError` where the weights of a checkpoint don't come out as they were kept, to the last bit.
    """
    if damage := store.damage():
        raise StoreError(f"the store {store.location} is damaged: {damage}")
    gone_back = {event.version for event in store.events() if event.kind == "rollback"}
    checked = 0
    for (first, _), (version, _) in pairwise(store.checkpoint_versions()):
        start, end = store.checkpoint(first), store.checkpoint(version)
        if start is None or end is None or version in gone_back:
            continue
        state = _state(start, MetaUpdate(schedule("constant", 1, 1), discount("constant")))
        rows = list(_rows_until(store, state, version))
        if any(row.delta is None for row in rows):
            continue  # an evaluated version from before the history
        for row in rows:
            state.fold(model, row)
        if state.version != version or state.weights.tobytes() != end.weights.tobytes():
            raise StoreError(f"the store {store.location} is damaged: version {version} is not what led to it")
        checked += len(rows)
    return checked


def _state(checkpoint: Checkpoint, meta: MetaUpdate) -> State:
    return State(checkpoint.weights, checkpoint.version, checkpoint.updates, meta)


def _rows_until(store: Store, state: State, version: int | None) -> Iterator[Accepted]:
    """The updates after ``state``, to that which makes ``version``."""
    reached = state.version
    if reached == version:
        return
    for row in store.accepted_since(state.updates):
        yield row
        reached += row.moved
        if reached == version:
            return


def _out_of_reach(store: Store, version: int | None) -> StoreError:
    if version is None:
        return StoreError(f"the store {store.location} is damaged: a delta is missing since its last checkpoint")
    versions = ", ".join(str(version) for version, _ in store.checkpoint_versions())
    return StoreError(f"version {version} can't be had any more, or not yet; checkpoints are at {versions}")
