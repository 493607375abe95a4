"""The state as its journal says: a checkpoint with the later deltas folded in, each as it was decided then."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from tinyreptile.delta import DeltaError
from tinyreptile.model import Model

from .deltas import unpack
from .entries import Accepted, Checkpoint
from .errors import StoreError
from .integrity import check_rows
from .rules import MetaUpdate, Weights, discount, schedule
from .store import Store


@dataclass
class State:
    """Float weights after ``updates`` accepted updates; ``meta`` holds those of a batch that is not whole."""

    weights: Weights
    version: int
    updates: int
    meta: MetaUpdate

    def precedes(self, row: Accepted) -> bool:
        """Return whether ``row`` is the very next update: rows before it may be gone, or a version was gone back to."""
        return row.delta is not None and (row.updates, row.version + row.tau) == (self.updates, self.version)

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
    if checkpoint.weights.size != model.parameters:
        raise store.damaged(f"a checkpoint of {checkpoint.weights.size} weights, its model has {model.parameters}")
    state = _state(checkpoint, meta)
    if not _advance(store, model, state, version):
        raise _out_of_reach(store, version)
    return state


def model_of(store: Store) -> Model:
    """Return the model of the store's run; raise `StoreError` if there is none."""
    store.check_beginning()
    properties = store.properties()
    if not properties:
        raise StoreError(f"the store {store.location} holds no run yet")
    for name in ("run", "model", "weights"):
        if name not in properties:
            raise store.damaged(f"table property has no row with the name {name!r}")
    try:
        return Model(properties["model"], properties["weights"])
    except Exception as error:  # noqa: BLE001 - whatever a list that is no model comes to
        raise store.damaged(f"table property, name 'model' or 'weights': value: {error}") from None


def check(store: Store, model: Model) -> int:
    """Look at every row, and replay all deltas that the store has between its checkpoints; how many that were.

    Raises `StoreError` for a row that can't be right, and where the weights of a checkpoint don't come out as they were
    kept, to the last bit.
    """
    if damage := store.damage():
        raise store.damaged(damage)
    versions = store.checkpoint_versions()
    if not versions:
        raise StoreError(f"the store {store.location} holds no run yet")
    check_rows(store, model)
    gone_back = {event.version for event in store.events() if event.kind == "rollback"}
    first = store.first_delta()
    checked = 0
    for (begin, updates), (version, _) in pairwise(versions):
        if version in gone_back or first is None or updates < first:
            continue  # nothing led there, or it was evaluated before the history
        start, end = store.checkpoint(begin), store.checkpoint(version)
        if start is None or end is None:
            continue
        state = _state(start, MetaUpdate(schedule("constant", 1, 1), discount("constant")))
        if not _advance(store, model, state, version) or state.weights.tobytes() != end.weights.tobytes():
            raise store.damaged(f"version {version} is not what led to it")
        checked += state.updates - start.updates
    replay(store, model, MetaUpdate(schedule("constant", 1, 1), discount("constant")))
    return checked


def _state(checkpoint: Checkpoint, meta: MetaUpdate) -> State:
    return State(checkpoint.weights, checkpoint.version, checkpoint.updates, meta)


def _advance(store: Store, model: Model, state: State, version: int | None) -> bool:
    """Bring ``state`` to ``version``, or to the last; whether the rows that lead there are all on record."""
    if state.version == version:
        return True
    for row in store.accepted_since(state.updates):
        if not state.precedes(row):
            return False
        try:
            state.fold(model, row)
        except DeltaError as error:
            raise store.damaged(f"table accepted, work {row.work}: delta: {error}") from None
        if state.version == version:
            return True
    return version is None


def _out_of_reach(store: Store, version: int | None) -> StoreError:
    if version is None:
        return store.damaged("a delta is missing since its last checkpoint")
    versions = ", ".join(str(version) for version, _ in store.checkpoint_versions())
    return StoreError(f"version {version} can't be had any more, or not yet; checkpoints are at {versions}")
