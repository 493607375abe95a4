"""Who floods a run loses its session at a broker with the dynamic-security plugin, and does not come in again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import aiomqtt
import pytest

from coordinator.config import BrokerConfig, Config, load_config
from coordinator.errors import ConfigError
from coordinator.mqtt import client, pack
from coordinator.run import Run
from coordinator.service import Coordinator
from coordinator.store import Store
from tinyreptile import messages, reports

from ..commands import tinyreptile
from ..fleet import eventually, task
from .fleets import FleetBroker, need_plugin

LOUD = "kitchen-1"
MODES = ("certificates and plugin", "passwords and plugin")
TOPICS = reports.CoordinatorTopics("kitchen").device(LOUD)

Provisioned = Callable[..., FleetBroker]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    need_plugin()
    monkeypatch.setattr("coordinator.service.SIEGE_SECONDS", 0.5)
    monkeypatch.setattr("coordinator.service.CALM_SECONDS", 0.5)


def config(broker: FleetBroker, administrator: Path | None) -> Config:
    """The run's coordinator, with a limit that is soon reached."""
    guards = {"rate": 20, "burst": 100, "administrator": administrator}
    tables = {"run": {"rounds": 0, "store": broker.folder / "run.sqlite"}, "evaluation": {"every": 0}, "guards": guards}
    return load_config(broker.fleet.run_folder("kitchen") / "coordinator.toml", tables)


async def flood(broker: BrokerConfig, count: int = 20_000) -> bool:
    """Say hello as the device, then flood; whether the session has lasted."""
    status = {"protocol": messages.PROTOCOL, "state": "online", "boot": "b", "role": "evaluate"}
    try:
        async with client(broker, timeout=3) as session:
            await session.publish(TOPICS.status, pack(status), qos=1, retain=True)
            await asyncio.sleep(0.5)
            for i in range(count):
                await session.publish(TOPICS.update, bytes(300), qos=0)
                if i % 100 == 0:
                    await asyncio.sleep(0.02)
            await session.publish(TOPICS.update, b"", qos=1)
    except aiomqtt.MqttError:
        return False
    return True


async def is_heard(broker: BrokerConfig, run: Run, boot: str) -> bool:
    """Whether the run hears of a new start of the device."""
    status = {"protocol": messages.PROTOCOL, "state": "online", "boot": boot, "role": "evaluate"}
    with contextlib.suppress(aiomqtt.MqttError):
        async with client(broker, timeout=3) as session:
            await session.publish(TOPICS.status, pack(status), qos=1)
            await asyncio.sleep(0.5)
    return run.registry.devices[LOUD].boot == boot


@pytest.mark.parametrize("mode", MODES)
async def test_who_floods_is_shut_out_until_it_is_provisioned_again(
    provisioned: Provisioned, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await asyncio.to_thread(provisioned, mode)
    coordinator = Coordinator(config(broker, broker.folder / "authority" / "administrator.toml"))
    run = coordinator.run_state
    async with task(coordinator.run()) as life:
        await eventually(lambda: run.published_version >= 0 and coordinator.connected, "it serves")
        assert not await flood(broker.device(LOUD)), "its session ends"
        assert run.registry.devices[LOUD].quarantine
        await eventually(lambda: "all devices are heard again" in caplog.text, "the flood is over")
        assert not await is_heard(broker.device(LOUD), run, "b2")
        again = await asyncio.to_thread(tinyreptile, "provision", "fleet", cwd=broker.folder.parent)
        assert "The broker knows of it." in again.stdout
        assert await is_heard(broker.device(LOUD), run, "b3")
        assert run.registry.devices[LOUD].quarantine, "until it is released"
        assert "can't shut out" not in caplog.text
        coordinator.stop()
        await life
    store = Store(str(broker.folder / "run.sqlite"), "kitchen")
    (event,) = [event for event in store.events() if event.kind == "flood"]
    store.close()
    assert event.text.startswith(f"of messages from {LOUD}; it has no account at the broker any more")


@pytest.mark.parametrize("administrator", [True, False])
async def test_an_administrator_that_can_not_help_ends_no_run_and_the_operator_is_told_what_does(
    provisioned: Provisioned, administrator: bool, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await asyncio.to_thread(provisioned, "passwords and plugin")
    path = broker.folder / "authority" / "administrator.toml"
    coordinator = Coordinator(config(broker, path if administrator else None))
    (broker.folder / "authority" / "administrator.password").write_text("another\n")
    run = coordinator.run_state
    async with task(coordinator.run()) as life:
        await eventually(lambda: run.published_version >= 0 and coordinator.connected, "it serves")
        sending = asyncio.create_task(flood(broker.device(LOUD)))
        await eventually(lambda: run.events["flood"] >= 2, "it floods on")
        sending.cancel()
        assert run.registry.devices[LOUD].quarantine
        assert caplog.text.count(f"{path} can't shut out {LOUD}: the broker at localhost") == administrator
        assert f"flood: of messages from {LOUD}; tinyreptile revoke FOLDER {LOUD} shuts out" in caplog.text
        await eventually(lambda: "all devices are heard again" in caplog.text, "the flood is over")
        assert coordinator.connected
        coordinator.stop()
        await life


def test_an_administrator_that_is_not_there_is_told_at_the_start(provisioned: Provisioned) -> None:
    broker = provisioned("passwords and plugin")
    with pytest.raises(ConfigError, match=r"nowhere\.toml: No such file"):
        Coordinator(config(broker, broker.folder / "nowhere.toml"))
    assert not (broker.folder / "run.sqlite").exists()
