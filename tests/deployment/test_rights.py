"""Every right in docs/security.md, and no other: each topic, each role, to read and to write, on a real Mosquitto.

What is denied shows in what does not arrive while a message after it does: a broker keeps the order of messages.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack

import aiomqtt
import pytest

from coordinator.config import BrokerConfig
from coordinator.mqtt import client
from tinyreptile import reports

from ..environment import ROOT, need_program
from .fleets import DEVICES, EVALUATORS, MODES, RUN, FleetBroker

DOCS = (ROOT / "docs" / "security.md").read_text()
ROLES = ("coordinator", "trainer", "evaluator", "operator", "observer")
DEVICE_ROLES = {"trainer": DEVICES, "evaluator": EVALUATORS}
NAMES = {"{client}": "laptop-7", "{i}": "0", "{chip}": "armv6m"}
OTHER_RUN = "garden"
OUTSIDE = (
    "elsewhere",
    "tinyreptile",
    f"tinyreptile/{RUN}",
    f"tinyreptile/{RUN}/device/{DEVICES[0]}",
    "$CONTROL/witness",
)

Right = tuple[str, str]  # who, topic


def documented() -> dict[str, dict[str, set[str]]]:
    """What each role may do with each topic of a run, from the table in the documentation."""
    rows = re.findall(r"^\| `([a-z]+(?:/[^`]+)?)` \|(.*)\|(.*)\|(.*)\|(.*)\|(.*)\|$", DOCS, re.MULTILINE)
    return {
        topic: {role: set(cell.replace(",", "").split()) for role, cell in zip(ROLES, cells, strict=True)}
        for topic, *cells in rows
    }


def concrete() -> Iterator[tuple[str, str, str | None]]:
    """(topic, its row, its device if it is one's) for the fleet's run."""
    for row in documented():
        name = row
        for placeholder, value in NAMES.items():
            name = name.replace(placeholder, value)
        for device in [*DEVICES, *EVALUATORS] if "{id}" in row else [None]:
            yield f"tinyreptile/{RUN}/{name.replace('{id}', device or '')}", row, device


def all_topics() -> list[str]:
    """Every topic of the run, the same of another one, and topics of no run."""
    own = [topic for topic, _, _ in concrete()]
    return [*own, *(topic.replace(f"/{RUN}/", f"/{OTHER_RUN}/") for topic in own), *OUTSIDE]


def expected(access: str) -> set[Right]:
    """Who may do what, by the documentation; devices only what is theirs."""
    allowed = set()
    for topic, row, owner in concrete():
        for role, cell in documented()[row].items():
            names = DEVICE_ROLES.get(role, [role])
            allowed |= {
                (name, topic)
                for name in names
                if access in cell and (role not in DEVICE_ROLES or owner in (None, name))
            }
    return allowed


def test_the_documentation_lists_every_topic_of_the_protocol() -> None:
    run = reports.CoordinatorTopics(RUN)
    device = run.device("ID")
    names = [run.coordinator, run.init, run.piece("{i}")]
    names += [run.software("{chip}"), run.software("{chip}") + "/{i}", device.update, device.evaluation]
    names += [getattr(device, kind) for kind in ("status", "work", "prediction", "label", "command", "log")]
    names += [run.root + "/control", run.root + "/control/{client}"]
    assert {name.removeprefix(run.root + "/").replace("ID", "{id}") for name in names} == set(documented())


@pytest.fixture(scope="module", params=MODES)
def fleet_broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetBroker]:
    need_program("mosquitto")
    broker = FleetBroker(tmp_path_factory.mktemp("fleet") / "fleet", request.param)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def witness(fleet_broker: FleetBroker) -> BrokerConfig:
    return fleet_broker.admit_witness()


def everybody(broker: FleetBroker) -> dict[str, BrokerConfig]:
    """How each role, and each device, reaches the broker."""
    roles = {role: broker.role(role) for role in ROLES if role not in DEVICE_ROLES}
    return roles | {name: broker.device(name) for name in (*DEVICES, *EVALUATORS)}


async def until(session: aiomqtt.Client, last: bytes) -> set[tuple[str, bytes]]:
    """What arrives before the message ``last``."""
    found = set()
    async with asyncio.timeout(10):
        async for message in session.messages:
            assert isinstance(message.payload, bytes)
            if message.payload == last:
                return found
            found.add((message.topic.value, message.payload))
    raise AssertionError("messages do not end")


async def test_a_role_writes_what_it_may_and_nothing_else(fleet_broker: FleetBroker, witness: BrokerConfig) -> None:
    async with client(witness, max_inflight_messages=200) as session:
        await session.subscribe([("#", 1), ("$CONTROL/witness", 1)])
        for name, way in everybody(fleet_broker).items():
            async with client(way) as writer:
                for topic in all_topics():
                    await writer.publish(topic, f"by {name}", qos=1)
        await session.publish("witness", b"last", qos=1)
        arrived = await until(session, b"last")
    assert {(payload.decode().removeprefix("by "), topic) for topic, payload in arrived} == expected("write")


async def test_a_role_reads_what_it_may_and_nothing_else(fleet_broker: FleetBroker, witness: BrokerConfig) -> None:
    topics = all_topics()
    readable = expected("read")
    async with client(witness) as session, AsyncExitStack() as stack:
        for topic in topics:
            await session.publish(topic, b"retained", qos=1, retain=True)
        readers = {}
        for name, way in everybody(fleet_broker).items():
            readers[name] = await stack.enter_async_context(client(way))
            for topic in [*topics, "#", "tinyreptile/#", "$SYS/#"]:
                await ask_for(readers[name], topic)
        for topic in topics:
            await session.publish(topic, b"live", qos=1)
        for name, reader in readers.items():
            end = min(topic for who, topic in readable if who == name)
            await session.publish(end, f"last {name}", qos=1)
            arrived = await until(reader, f"last {name}".encode())
            arrived -= {(topic, payload) for topic, payload in arrived if payload.startswith(b"last ")}
            own = {topic for who, topic in readable if who == name}
            assert arrived == {(topic, payload) for topic in own for payload in (b"retained", b"live")}, name
        for topic in topics:
            await session.publish(topic, b"", qos=1, retain=True)


async def test_the_broker_s_own_figures_are_there_but_for_the_witness_only(
    fleet_broker: FleetBroker, witness: BrokerConfig
) -> None:
    """That nobody else reads them shows in the test before: here it shows that there was something to read."""
    async with client(witness) as session, asyncio.timeout(15):
        await session.subscribe("$SYS/broker/version", qos=1)
        message = await anext(aiter(session.messages))
        assert b"mosquitto" in bytes(message.payload)  # type: ignore[arg-type]


async def ask_for(session: aiomqtt.Client, topic: str) -> None:
    """Subscribe; some brokers say no at once, others say yes and send nothing."""
    try:
        await session.subscribe(topic, qos=1)
    except aiomqtt.MqttError:
        assert session._client.is_connected()


async def test_nobody_comes_in_without_credentials(fleet_broker: FleetBroker) -> None:
    way = fleet_broker.device(DEVICES[0])
    nobody = way.model_copy(update=dict.fromkeys(("tls_cert", "tls_key", "user", "password_file")))
    with pytest.raises(aiomqtt.MqttError):
        async with client(nobody, timeout=2):
            pass
    async with client(way):
        pass
