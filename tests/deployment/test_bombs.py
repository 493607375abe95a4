"""What a device can leave at the broker, for whoever subscribes: little, and nothing of it once it is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import aiomqtt
import pytest

from coordinator.config import BrokerConfig, Config, load_config
from coordinator.mqtt import client, subscribe
from coordinator.operator import ask
from coordinator.service import Coordinator
from deployment import dynamic_security
from deployment.provision import revoke
from tinyreptile import reports

from ..fleet import SMALL, eventually, task
from .fleets import BOTH, RUN, FleetBroker

NAME = "kitchen-1"
TOPICS = reports.CoordinatorTopics(RUN)
WRITES = tuple(vars(TOPICS.device(NAME))[kind] for kind in reports.DEVICE_WRITES)
OWN = tuple(topic for topic in WRITES if not topic.endswith("/evaluation"))  # it trains


def largest(topic: str) -> bytes:
    """What a packet of the broker's limit holds beside ``topic``; Mosquitto counts one byte of the fixed header."""
    return b"x" * (reports.PACKET_BYTES - len(topic) - 5)


async def leave_bombs(way: BrokerConfig) -> None:
    """Have the largest payload retained on each topic, that of another role among them; then try a larger one."""
    async with client(way, timeout=5) as session:
        for topic in WRITES:
            await session.publish(topic, largest(topic), qos=1, retain=True)
    with contextlib.suppress(aiomqtt.MqttError):  # at its end there is nobody to say good-bye to
        async with client(way, timeout=2) as session:
            with pytest.raises(aiomqtt.MqttError):
                await session.publish(WRITES[0], largest(WRITES[0]) + b"x", qos=1, retain=True)


async def retained(way: BrokerConfig, *filters: str) -> dict[str, int]:
    """Bytes of what the broker retains and sends to whoever subscribes, by topic."""
    found: dict[str, int] = {}
    async with client(way) as session:
        await subscribe(session, *filters)
        messages = aiter(session.messages)
        with contextlib.suppress(TimeoutError):
            while True:
                message = await asyncio.wait_for(anext(messages), 0.5)
                if message.retain and isinstance(message.payload, bytes):
                    found[message.topic.value] = len(message.payload)
    return found


def configured(broker: FleetBroker, folder: Path) -> Config:
    run = {"model": SMALL, "rounds": 0, "store": folder / "run.sqlite"}
    return load_config(broker.fleet.run_folder(RUN) / "coordinator.toml", {"run": run})


@pytest.mark.parametrize("mode", BOTH)
async def test_a_device_leaves_little_and_nothing_once_it_is_forgotten(
    provisioned: Callable[..., FleetBroker], tmp_path: Path, mode: str
) -> None:
    broker = await asyncio.to_thread(provisioned, mode)
    witness = await asyncio.to_thread(broker.admit_witness)
    of_device = f"{TOPICS.root}/device/{NAME}/+"
    await leave_bombs(broker.device(NAME))
    left = {topic: len(largest(topic)) for topic in OWN}
    assert await retained(witness, of_device) == left
    assert sum(left.values()) < 4 * reports.PACKET_BYTES
    heard = TOPICS.all_status, TOPICS.all_updates, TOPICS.all_evaluations, TOPICS.control
    sent = await retained(broker.role("coordinator"), *heard)
    device = TOPICS.device(NAME)
    assert sent == {topic: left[topic] for topic in (device.status, device.update)}
    config = configured(broker, tmp_path)
    for dropped in (1, 0):  # what the first one has met, no other one meets
        coordinator = Coordinator(config)
        async with task(coordinator.run()) as run:
            await eventually(lambda: not coordinator.obstacle, "it is ready")  # noqa: B023
            await eventually(lambda: coordinator.sent.messages["cleared"] >= dropped, "it has cleared")  # noqa: B023
            assert coordinator.dropped["retained"] == dropped
            if not dropped:
                operator = load_config(broker.fleet.run_folder(RUN) / "operator.toml")
                await ask(operator, "forget", {"ids": [NAME]})
                await eventually(lambda: coordinator.sent.messages["cleared"] >= 5, "it is forgotten")  # noqa: B023
            coordinator.stop()
            await run
        assert set(await retained(witness, of_device)) == (set(OWN) - {device.update} if dropped else set())
    await asyncio.to_thread(broker.stop)
    database = (broker.folder / "broker" / "data" / "mosquitto.db").read_bytes()
    assert b"x" * 100 not in database
    assert len(database) < 20_000


async def test_the_plugin_forgets_a_revoked_device_at_once(
    provisioned: Callable[..., FleetBroker], tmp_path: Path
) -> None:
    broker = await asyncio.to_thread(provisioned, "passwords and plugin")
    witness = await asyncio.to_thread(broker.admit_witness)
    await leave_bombs(broker.device(NAME))
    async with client(broker.device("kitchen-2")) as other:
        await other.publish(TOPICS.device("kitchen-2").status, b"of another", qos=1, retain=True)
    revoke(broker.folder, [NAME])
    await dynamic_security.apply(broker.fleet)
    assert set(await retained(witness, f"{TOPICS.root}/#")) == {TOPICS.device("kitchen-2").status}
