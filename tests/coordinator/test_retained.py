"""What a coordinator retains at the broker stays there, whatever becomes of it; and what it may not do is told."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from coordinator import service
from coordinator.config import Config
from coordinator.errors import CoordinatorError
from coordinator.mqtt import client
from coordinator.observer import fetch
from coordinator.service import Coordinator
from tests.coordinator.packets import Altered, packet_from
from tests.environment import Mosquitto
from tests.fleet import BIG, eventually, listening, new_run, run_config, running_swarm, states, swarm_spec, task
from tinyreptile import reports

StartBroker = Callable[..., Mosquitto]


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "AUDIT_SECONDS", 0.3)
    monkeypatch.setattr(service, "AGAIN_SECONDS", 0.3)
    monkeypatch.setattr(service, "ECHO_SECONDS", 1.0)


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[Coordinator]:
    """A coordinator that is ready, and stops with the context."""
    coordinator = Coordinator(config)
    async with task(coordinator.run()) as run:
        await eventually(lambda: run.done() or not coordinator.obstacle, "it is ready")
        yield coordinator
        coordinator.stop()
        await run


async def published(config: Config) -> bool:
    """Whether the whole of a version can be read."""
    with suppress(CoordinatorError):
        await fetch(config, 0.5)
        return True
    return False


@pytest.mark.parametrize("paused", [False, True])
async def test_what_an_operator_clears_is_put_back(broker: Mosquitto, tmp_path: Path, paused: bool) -> None:
    config = run_config(broker, tmp_path, run={"model": BIG, "rounds": 0, "paused": paused})
    topics = reports.CoordinatorTopics(config.run.name)
    async with serving(config) as coordinator, client(config.broker) as session:
        for cleared in ([topics.init], [topics.piece(3)], [topics.init, *(topics.piece(i) for i in range(5))]):
            await eventually(lambda: not coordinator.obstacle, "all is there")
            before = coordinator.sent.messages["init"]
            for topic in cleared:
                await session.publish(topic, b"", qos=1, retain=True)
            await eventually(lambda: coordinator.sent.messages["init"] > before, "it has been published anew")  # noqa: B023
            assert await published(config)


async def test_what_an_old_backup_brings_back_is_replaced(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path, run={"model": BIG, "rounds": 0})
    topics = reports.CoordinatorTopics(config.run.name)
    async with serving(config), client(config.broker) as session:
        await session.publish(topics.piece(2), b"of another time", qos=1, retain=True)
        async with asyncio.timeout(20):
            while not await published(config):
                pass


async def test_what_is_there_is_left_alone(broker: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = run_config(broker, tmp_path, run={"model": BIG, "rounds": 0})
    topics = reports.CoordinatorTopics(config.run.name)
    caplog.set_level(logging.WARNING)
    async with serving(config) as coordinator, listening(config.broker, topics.init + "/#") as heard:
        await eventually(lambda: len(heard) >= 5, "what is retained has come")
        before = coordinator.received.messages["init"]
        await eventually(lambda: coordinator.received.messages["init"] >= before + 3, "it has looked three times")
        assert all(message.retain for message in heard)
    assert not [record for record in caplog.records if record.name.startswith("coordinator.")]


async def test_pieces_that_are_none_of_the_published_version_are_cleared(broker: Mosquitto, tmp_path: Path) -> None:
    """Those of a coordinator with another encoding, say, or of whoever has had the right."""
    config = run_config(broker, tmp_path, run={"rounds": 0, "paused": True})
    topics = reports.CoordinatorTopics(config.run.name)
    foreign = [topics.piece(77), topics.piece("x"), topics.piece(9)]
    async with client(config.broker) as session:
        for topic in foreign[:2]:
            await session.publish(topic, b"anything", qos=1, retain=True)
        async with serving(config) as coordinator:
            await session.publish(foreign[2], b"later", qos=1, retain=True)
            await eventually(lambda: coordinator.dropped["retained"] >= 3, "they have been seen")
            await eventually(lambda: coordinator.sent.messages["cleared"] >= 3, "and cleared")
            assert await published(config)
    async with listening(config.broker, topics.init + "/+") as heard:
        await asyncio.sleep(0.3)
    assert {message.topic.value for message in heard} == {topics.piece(i) for i in range(len(heard))}


@pytest.mark.usefixtures("compiled")
async def test_a_device_that_comes_after_topics_were_cleared_joins(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path, run={"rounds": 20})
    topics = reports.CoordinatorTopics(config.run.name)
    async with serving(config) as coordinator:
        async with client(config.broker) as session:
            for topic in (topics.init, topics.piece(0)):
                await session.publish(topic, b"", qos=1, retain=True)
        async with running_swarm(swarm_spec(config, 2)):
            await eventually(lambda: coordinator.run_state.updates == 20, "they have done all of it")


@pytest.mark.usefixtures("compiled")
async def test_devices_whose_statuses_were_cleared_are_known_to_the_next_coordinator(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyreptile.client._IDLE_SECONDS", 0.5)
    config = run_config(broker, tmp_path, run={"rounds": 10})
    async with running_swarm(swarm_spec(config, 2)) as swarm:
        async with serving(config):
            await eventually(lambda: swarm.counts().accepted == 10, "they have done all of it")
        topics = reports.CoordinatorTopics(config.run.name)
        async with client(config.broker) as session:
            for number in range(2):
                await session.publish(topics.device(f"sine-{number}").status, b"", qos=1, retain=True)
        config.run.rounds = 20
        async with serving(config):
            await eventually(lambda: swarm.counts().accepted == 20, "they have done the rest, too")


@pytest.mark.usefixtures("compiled")
async def test_a_device_puts_its_status_back_when_somebody_clears_it(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path)
    status = reports.CoordinatorTopics(config.run.name).device("sine-0").status
    async with serving(config), running_swarm(swarm_spec(config, 1)), client(config.broker) as session:
        for _ in range(2):
            async with listening(config.broker, status) as received:
                await eventually(lambda: "online" in states(received), "it is there")
            await session.publish(status, b"", qos=1, retain=True)
        async with listening(config.broker, status) as received:
            await eventually(lambda: states(received) == ["online"], "it is retained again")


@pytest.mark.usefixtures("compiled")
async def test_devices_whose_statuses_have_expired_are_asked_for_them_after_a_reconnection(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker that lets a retained message go says nothing of it to anybody."""
    monkeypatch.setattr(service, "UNHEARD_SECONDS", 0.5)
    config = run_config(broker, tmp_path, run={"rounds": 0})
    take, expired = Coordinator._take, set[str]()

    def lose(self: Coordinator, topic: str, payload: Any) -> None:
        if topic not in expired:
            take(self, topic, payload)
        elif payload == b"":  # who asks for a status
            expired.discard(topic)

    monkeypatch.setattr(Coordinator, "_take", lose)
    async with serving(config) as coordinator, running_swarm(swarm_spec(config, 2)):
        await eventually(lambda: coordinator.run_state.updates > 10, "they are at work")
        expired |= {coordinator.run_state.topics.device(f"sine-{number}").status for number in range(2)}
        assert coordinator._connected
        coordinator._connected._client.loop_stop()
        coordinator._connected._client._sock_close()
        await eventually(lambda: coordinator.reconnections == 1, "it has come back", 30)
        before = coordinator.run_state.updates
        await eventually(lambda: coordinator.run_state.updates > before + 10, "they are at work again", 30)


async def test_a_broker_that_does_not_acknowledge_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "ANSWER_SECONDS", 0.4)
    connections = 0

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A broker that says yes to connections, subscriptions and pings, and nothing to messages."""
        nonlocal connections
        connections += 1
        with closing(writer), suppress(EOFError, OSError):
            while True:
                packet = await packet_from(reader)  # none of those that are answered has more than 127 bytes
                answers = {0x10: b"\x20\x02\x00\x00", 0xC0: b"\xd0\x00"}
                answers |= {0x80: b"\x90\x03" + packet[2:4] + b"\x01", 0xA0: b"\xb0\x02" + packet[2:4]}
                writer.write(answers.get(packet[0] & 0xF0, b""))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, family=socket.AF_INET)
    async with server:
        port = server.sockets[0].getsockname()[1]
        config = Config.model_validate({"broker": {"port": port}, "run": {"store": tmp_path / "run.sqlite"}})
        coordinator = Coordinator(config)
        async with task(coordinator.run()) as run:
            await eventually(lambda: connections >= 2, "it has connected again")
            assert not run.done()
            coordinator.stop()
            await run


# Rights that are missing


ACCESS = """user right
topic readwrite tinyreptile/#
user wrong
topic readwrite tinyreptile/other/#
user deaf
topic write tinyreptile/#
topic read tinyreptile/{run}/coordinator
topic read tinyreptile/{run}/init
topic read tinyreptile/{run}/init/+
user publisher
topic read tinyreptile/#
topic write tinyreptile/{run}/coordinator
topic write tinyreptile/{run}/device/+/status
topic write tinyreptile/{run}/device/+/work
"""
DENIED = {
    "wrong": "does not let this client write or read tinyreptile/{run}/coordinator",
    "deaf": r"does not let this client write or read tinyreptile/{run}/device/\+/status",
    "publisher": "does not retain tinyreptile/{run}/init, or does not let this client write or read it",
}


@pytest.mark.parametrize("user", DENIED)
async def test_rights_that_are_missing_are_told_and_the_run_is_not_ready_until_they_are_given(
    start_broker: StartBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture, user: str
) -> None:
    run = new_run()
    access = tmp_path / "access"
    access.write_text(ACCESS.format(run=run))
    broker = start_broker("allow_anonymous true", f"acl_file {access}")
    config = run_config(broker, tmp_path, run, broker={"host": broker.host, "port": broker.port, "user": user})
    said: list[dict[str, Any]] = []
    coordinator = Coordinator(config, on_status=said.append)
    caplog.set_level(logging.WARNING)
    async with task(coordinator.run()) as served:
        while coordinator.obstacle.startswith(("there is no connection", "no version", "whether")):
            await asyncio.sleep(0.01)
        assert re.search(DENIED[user].format(run=run), coordinator.obstacle)
        await eventually(lambda: said[-1].get("problem") == coordinator.obstacle, "its status says so")
        assert coordinator.obstacle in caplog.text
        access.write_text(f"user {user}\ntopic readwrite tinyreptile/#\n")
        assert broker._process
        broker._process.send_signal(signal.SIGHUP)
        await eventually(lambda: not coordinator.obstacle, "it is ready now")
        assert "problem" not in coordinator._status_message("running")
        coordinator.stop()
        await served


async def test_a_refused_subscription_is_told(broker: Mosquitto, tmp_path: Path) -> None:
    """A broker that says no to a subscription, as Mosquitto's access list does not: the code is put into its answer."""
    config = run_config(broker, tmp_path)
    refuse = True

    def down(packet: bytearray) -> bytearray:
        if refuse and packet[0] == 0x90 and len(packet) == 8:  # the SUBACK for four topics
            packet[-1] = 0x80
        return packet

    line = Altered(broker.port, down)
    async with line:
        config.broker.port = line.port
        coordinator = Coordinator(config)
        async with task(coordinator.run()) as served:
            await eventually(lambda: "does not let this client read" in coordinator.obstacle, "it is told")
            assert f"tinyreptile/{config.run.name}/control" in coordinator.obstacle
            refuse = False
            await eventually(lambda: not coordinator.obstacle, "it has tried again")
            coordinator.stop()
            await served
