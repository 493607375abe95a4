"""Whether the rows of a store are what ours write, and fit one another."""

from __future__ import annotations

from collections.abc import Collection

from tinyreptile import messages
from tinyreptile.delta import DeltaError
from tinyreptile.messages import MessageError
from tinyreptile.model import Model

from .config import check_setting
from .deltas import unpack
from .entries import Event
from .errors import ConfigError
from .store import Store


def check_rows(store: Store, model: Model) -> None:
    """Look at every row of ``store``, whose run has ``model``; raise `StoreError` for the first that can't be right.

    The weights are not computed anew.
    """
    _check_names(store)
    events = store.events()
    versions = store.checkpoint_versions()
    updates, version = _check_journal(store, model, [event for event in events if event.kind == "rollback"])
    latest = 0
    for at, count in versions:
        checkpoint = store.checkpoint(at)
        if checkpoint is None or checkpoint.weights.size != model.parameters:
            raise store.damaged(f"table checkpoint, version {at}: weights are not one for each parameter of its model")
        if count < latest:
            raise store.damaged(f"table checkpoint, version {at}: updates is {count}, of an earlier one {latest}")
        latest = count
    version = max([version, *(at for at, _ in versions)])
    if latest > updates:
        raise store.damaged(f"table accepted: the updates before the checkpoint at {latest} are missing")
    for event in events:
        _check_place(store, f"table event, at {event.at}", (event.updates, event.version), (updates, version))
    _check_evaluations(store, (updates, version))
    _check_open_work(store, version)
    for _ in store.devices():
        pass


def _check_names(store: Store) -> None:
    """Look at what the run is, and at the settings that were changed."""
    run = store.properties().get("run")
    try:
        messages.check_id(run, "it")
    except MessageError as error:
        raise store.damaged(f"table property, name 'run': value is {run!r}: {error}") from None
    for name, value in store.settings().items():
        try:
            check_setting(name, value)
        except ConfigError as error:
            raise store.damaged(f"table setting, name {name!r}: value: {error}") from None


def _check_journal(store: Store, model: Model, rollbacks: Collection[Event]) -> tuple[int, int]:
    """Return (updates, version) that the rows of accepted updates lead to.

    The oldest rows may be gone, and of the oldest that are there the deltas.
    """
    gone_back = {(event.updates, event.version) for event in rollbacks}
    updates = version = 0
    first, whole = True, False
    for row in store.accepted_since(0):
        where = f"table accepted, work {row.work}"
        begun = row.version + row.tau
        if not first and row.updates != updates:
            raise store.damaged(f"{where}: updates is {row.updates}: update {updates} is missing, or there twice")
        if not first and begun != version and (updates, begun) not in gone_back:
            raise store.damaged(f"{where}: version is {row.version} and tau {row.tau}, which is not {version} together")
        if len(row.gains) != len(model.offsets):
            raise store.damaged(f"{where}: gains are {len(row.gains)}, not one for each tensor of its model")
        if row.kept is not None and row.kept > model.parameters:
            raise store.damaged(f"{where}: kept is {row.kept}, of {model.parameters} parameters")
        if row.delta is not None:
            try:
                unpack(model, row.delta, row.bits, row.gains, row.kept)
            except DeltaError as error:
                raise store.damaged(f"{where}: delta: {error}") from None
        elif whole:
            raise store.damaged(f"{where}: delta is absent, those before it are there")
        first, whole = False, row.delta is not None
        updates, version = row.updates + 1, begun + row.moved
    return updates, version


def _check_evaluations(store: Store, newest: tuple[int, int]) -> None:
    earlier = 0
    for past in store.evaluations():
        where = f"table evaluation, updates {past.updates}"
        _check_place(store, where, (past.updates, past.version), newest)
        if (past.summary["updates"], past.summary["version"]) != (past.updates, past.version):
            raise store.damaged(f"{where}: summary is of other updates, or of another version")
        if past.version < earlier:
            raise store.damaged(f"{where}: version is {past.version}, of an earlier one {earlier}")
        earlier = past.version


def _check_open_work(store: Store, version: int) -> None:
    known = {device.device for device in store.devices()}
    for issued in store.open_work():
        where = f"table issued, work {issued.work}"
        if issued.version > version:
            raise store.damaged(f"{where}: version is {issued.version}, of {version}")
        if issued.device not in known:
            raise store.damaged(f"{where}: device is {issued.device!r}, which is not in table device")
        if store.is_accepted(issued.work, issued.device):
            raise store.damaged(f"{where}: work is in table accepted, too")


def _check_place(store: Store, where: str, found: tuple[int, int], newest: tuple[int, int]) -> None:
    """Raise `StoreError` if (updates, version) ``found`` are beyond the ``newest``."""
    for name, value, most in zip(("updates", "version"), found, newest, strict=True):
        if value > most:
            raise store.damaged(f"{where}: {name} is {value}, of {most}")
