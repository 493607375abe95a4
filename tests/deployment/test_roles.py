"""A device has the role of its credentials, whatever it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator import tls
from coordinator.config import load_config
from coordinator.service import Coordinator
from simulator.tasks import make_task
from tinyreptile import messages
from tinyreptile.client import Client

from ..fleet import SMALL, eventually, task
from .fleets import BOTH, DEVICES, EVALUATORS, RUN, FleetBroker


def device(broker: FleetBroker, name: str, role: str) -> Client:
    """The device ``name`` with its credentials, which says that it has ``role``."""
    way = broker.device(name)
    options = {"user": way.user, "password": way.password(), "tls": tls.context(way)}
    return Client(name, RUN, make_task("sine").train_stream(0, 1), role, host=way.host, port=way.port, **options)


@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.usefixtures("compiled")
async def test_a_device_that_claims_another_role_is_mute_and_costs_one_deadline(
    provisioned: Callable[..., FleetBroker], tmp_path: Path, mode: str
) -> None:
    broker = await asyncio.to_thread(provisioned, mode)
    liar, *honest = DEVICES
    tables = {
        "run": {"model": SMALL, "rounds": 300, "store": tmp_path / "run.sqlite"},
        "learning": {"mode": "asynchronous", "in_flight": 1, "deadline": 3, "steps": 4},
        "evaluation": {"every": 100, "steps": 4, "shots": 4, "queries": 4},
    }
    coordinator = Coordinator(load_config(broker.fleet.run_folder(RUN) / "coordinator.toml", tables))
    run = coordinator.run_state
    clients = [device(broker, name, messages.TRAIN) for name in honest]
    clients += [device(broker, name, messages.EVALUATE) for name in (*EVALUATORS, liar)]
    lives = [asyncio.create_task(each.run()) for each in clients]
    try:
        async with task(coordinator.run()) as life:
            await eventually(lambda: run.updates >= 300, "the run is done")
            async with asyncio.timeout(10):
                await life
    finally:
        for each in lives:
            each.cancel()
        await asyncio.gather(*lives, return_exceptions=True)
    assert run.registry.devices[liar].role == messages.EVALUATE, "it was believed"
    assert clients[-1].evaluations == 0
    assert {summary["devices"] for summary in run.evaluations.summaries} == {1}
    assert run.evaluations.latest["updates"] == 300


@pytest.mark.usefixtures("compiled")
async def test_a_held_out_device_that_claims_to_train_changes_nothing(
    provisioned: Callable[..., FleetBroker], tmp_path: Path
) -> None:
    broker = await asyncio.to_thread(provisioned)
    run = {"model": SMALL, "rounds": 50, "store": tmp_path / "run.sqlite"}
    tables = {"run": run, "learning": {"deadline": 2, "steps": 4}}
    coordinator = Coordinator(load_config(broker.fleet.run_folder(RUN) / "coordinator.toml", tables))
    clients = [device(broker, name, messages.TRAIN) for name in (*DEVICES, *EVALUATORS)]
    lives = [asyncio.create_task(each.run()) for each in clients]
    try:
        async with task(coordinator.run()) as life, asyncio.timeout(60):
            await life
    finally:
        for each in lives:
            each.cancel()
        await asyncio.gather(*lives, return_exceptions=True)
    assert clients[-1].accepted == 0
    assert sum(each.accepted for each in clients) == 50
