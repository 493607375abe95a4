"""A flood of messages: the broker is asked to drop it, the others learn on, and whoever comes is heard in the end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator.config import Config
from coordinator.mqtt import client, pack
from coordinator.operator import ask
from coordinator.service import Coordinator
from tests.environment import Mosquitto
from tests.fleet import eventually, run_config, running_swarm, swarm_spec, task
from tests.flooder import flood
from tinyreptile import messages, reports

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture
def config(broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr("coordinator.service.SIEGE_SECONDS", 1.5)
    monkeypatch.setattr("coordinator.service.CALM_SECONDS", 0.5)
    guards = {"rate": 20, "burst": 300, "strikes": 0}  # its garbage is another matter
    return run_config(broker, tmp_path, run={"rounds": 0}, evaluation={"every": 0}, guards=guards)


async def flooded(config: Config, topics: list[str], count: int = 20_000, seconds: float = 2.0) -> None:
    """Return once the flood has been sent."""
    await asyncio.to_thread(flood, (config.broker.host, config.broker.port), topics, count, seconds, 300)


async def say_hello(config: Config, device: str) -> None:
    status = {"protocol": messages.PROTOCOL, "state": "online", "boot": "b", "role": "evaluate"}
    topic = reports.CoordinatorTopics(config.run.name).device(device).status
    async with client(config.broker) as session:
        await session.publish(topic, pack(status), qos=1, retain=True)


async def test_who_floods_is_cut_off_and_quarantined_and_the_others_learn_on(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = Coordinator(config)
    run = coordinator.run_state
    loud = coordinator._topics.device("loud")
    async with running_swarm(swarm_spec(config, 5)), task(coordinator.run()) as life:
        await say_hello(config, "loud")
        await eventually(lambda: run.updates > 50 and "loud" in run.registry.devices, "all have come")
        sending = asyncio.create_task(flooded(config, [loud.status, loud.update]))
        await eventually(lambda: run.registry.devices["loud"].quarantine, "it is quarantined")
        assert run.registry.devices["loud"].quarantine == "it floods the coordinator with messages"
        updates = run.updates
        await sending
        assert run.updates > updates, "the others learn while it floods"
        heard = coordinator.dropped["flood"] + sum(coordinator.received.messages.values())
        assert heard - run.updates < 10_000, "the broker has dropped most of it"
        await asyncio.sleep(0.5)
        assert not [d.id for d in run.registry.devices.values() if d.quarantine and d.id != "loud"]
        assert "flood: of messages from loud; tinyreptile revoke FOLDER loud shuts out who floods" in caplog.text
        coordinator.stop()
        await life


async def test_after_a_flood_everybody_is_heard_again(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    coordinator = Coordinator(config)
    run = coordinator.run_state
    stranger = coordinator._topics.device("stranger")
    async with task(coordinator.run()) as life:
        await eventually(lambda: run.published_version >= 0 and coordinator.connected, "it serves")
        await flooded(config, [stranger.update], 3000, 0)
        await eventually(lambda: "are heard for" in caplog.text, "others than those that are known are not heard")
        await say_hello(config, "late")
        await eventually(lambda: "all devices are heard again" in caplog.text, "the flood is over")
        await eventually(lambda: "late" in run.registry.devices, "who came meanwhile is heard")
        assert run.events["flood"] == 1
        assert "stranger" not in run.registry.devices
        async with running_swarm(swarm_spec(config, 2)):
            await eventually(lambda: run.updates > 3, "newcomers learn")
        coordinator.stop()
        await life


async def test_who_does_not_stop_is_not_heard_for_longer_each_time(
    config: Config, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.service.SIEGE_SECONDS", 0.2)
    coordinator = Coordinator(config)
    run = coordinator.run_state
    async with task(coordinator.run()) as life:
        await eventually(lambda: run.published_version >= 0 and coordinator.connected, "it serves")
        sending = asyncio.create_task(flooded(config, [coordinator._topics.device("x").status], 60_000, 6))
        await eventually(lambda: "heard for 0.8 s" in caplog.text, "it is noticed again and again")
        sending.cancel()
        assert caplog.text.index("heard for 0.2 s") < caplog.text.index("heard for 0.4 s")
        await eventually(lambda: "all devices are heard again" in caplog.text, "it is over")
        coordinator.stop()
        await life


async def test_a_flood_of_an_operators_requests_leaves_devices_alone(config: Config) -> None:
    coordinator = Coordinator(config)
    run = coordinator.run_state
    async with running_swarm(swarm_spec(config, 2)), task(coordinator.run()) as life:
        await eventually(lambda: run.updates > 10, "they learn")
        await flooded(config, [coordinator._topics.control], 5000, 0)
        updates = run.updates
        await eventually(lambda: run.updates > updates + 10, "they learn on")
        assert coordinator.dropped["flood"] > 4000
        assert not coordinator._flooded.is_set(), "newcomers are heard on"
        config.guards.rate = 0
        assert await ask(config, "pause") == []
        coordinator.stop()
        await life
