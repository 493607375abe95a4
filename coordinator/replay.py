"""The state as its journal says: a checkpoint with the later deltas folded in, each as it was decided then."""

from __future__ import annotations

from dataclasses import dataclass

from tinyreptile.model import Model

from .deltas import unpack
from .errors import StoreError
from .rules import MetaUpdate, Weights
from .store import Store


@dataclass
class State:
    """Float weights after ``updates`` accepted updates; ``meta`` holds those of a batch that is not whole."""

    weights: Weights
    version: int
    updates: int
    meta: MetaUpdate


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
    state = State(checkpoint.weights, checkpoint.version, checkpoint.updates, meta)
    if state.version == version:
        return state
    for row in store.accepted_since(checkpoint.updates):
        if row.delta is None:
            raise _out_of_reach(store, version)
        delta = unpack(model, row.delta, row.bits, row.gains, row.kept)
        meta.fold(state.weights, delta, row.decision())
        state.updates += 1
        state.version += row.moved
        if state.version == version:
            return state
    if version is not None:
        raise _out_of_reach(store, version)
    return state


def _out_of_reach(store: Store, version: int | None) -> StoreError:
    if version is None:
        return StoreError(f"the store {store.location} is damaged: a delta is missing since its last checkpoint")
    versions = ", ".join(str(version) for version, _ in store.checkpoint_versions())
    return StoreError(f"version {version} can't be had any more, or not yet; checkpoints are at {versions}")
