"""A device has one session at the broker, whatever it calls itself and wherever it connects."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from typing import Any

import aiomqtt
import pytest

from coordinator import mqtt, tls
from coordinator.config import BrokerConfig
from coordinator.mqtt import client
from deployment.broker import template
from deployment.roles import CLIENT_IDS
from tinyreptile import messages

from ..environment import need_program
from ..fleet import listening
from .fleets import DEVICES, MODES, RUN, FleetBroker, wait_for

NAME = DEVICES[0]
TOPICS = messages.RunTopics(RUN).device(NAME)


@pytest.fixture(scope="module", params=MODES)
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetBroker]:
    need_program("mosquitto")
    made = FleetBroker(tmp_path_factory.mktemp("fleet") / "fleet", request.param)
    made.start()
    yield made
    made.stop()


def session_of(way: BrokerConfig, name: str, **options: Any) -> aiomqtt.Client:
    """A session whose client calls itself ``name``."""
    return client(way.model_copy(update={"client_id": name}), timeout=3, **options)


async def is_let_in(way: BrokerConfig, name: str) -> bool:
    with contextlib.suppress(aiomqtt.MqttError):
        async with session_of(way, name):
            return True
    return False


async def test_a_second_session_of_a_device_takes_the_place_of_the_first(broker: FleetBroker) -> None:
    way = broker.device(NAME)
    will = aiomqtt.Will(TOPICS.status, b"will", 1)
    async with listening(broker.role("operator"), TOPICS.status) as seen, contextlib.AsyncExitStack() as stack:
        stack.push(lambda kind, error, trace: True)  # the first session's end is an error
        first = await stack.enter_async_context(session_of(way, "tinyreptile-first", will=will))
        ending = asyncio.ensure_future(anext(aiter(first.messages)))
        async with session_of(way, "tinyreptile-second") as second:
            with pytest.raises(aiomqtt.MqttError):
                await asyncio.wait_for(ending, 5)
            await second.publish(TOPICS.status, b"second", qos=1)
            while not seen or seen[-1].payload != b"second":
                await asyncio.sleep(0.01)
    assert [message.payload for message in seen] == [b"will", b"second"], "the will comes before what its heir says"


async def test_sessions_that_stay_are_one_for_each_device(broker: FleetBroker) -> None:
    """They would be given each of its messages, also when their connections have ended."""
    way = broker.device(NAME)
    topics = [TOPICS.status, f"tinyreptile/{RUN}/device/{NAME}/+", f"tinyreptile/+/device/{NAME}/status"]
    for number, topic in enumerate(topics):
        async with session_of(way, f"tinyreptile-{number}", clean_session=False) as session:
            with contextlib.suppress(aiomqtt.MqttError):  # the plugin refuses what is wider than a right
                await session.subscribe(topic, qos=1)
    wait_for(lambda: f"u'{NAME}'" in broker.log.read_text())
    known = re.findall(rf"as (\S+) \(p\d, c0, k\d+, u'{NAME}'\)", broker.log.read_text())
    assert known == [NAME] * len(topics)
    async with session_of(way, "tinyreptile-clean"):
        pass  # ends it


async def test_roles_have_as_many_sessions_as_commands_run(broker: FleetBroker) -> None:
    topic = messages.RunTopics(RUN).init
    async with (
        listening(broker.role("observer"), topic) as one,
        listening(broker.role("observer"), topic) as another,
        client(broker.role("coordinator")) as coordinator,
    ):
        await coordinator.publish(topic, b"to both", qos=1)
        async with asyncio.timeout(5):
            while not (one and another):
                await asyncio.sleep(0.01)


async def test_a_device_does_not_come_in_where_sessions_are_not_counted(broker: FleetBroker) -> None:
    way = broker.device(NAME).model_copy(update={"port": broker.fleet.description.roles_port})
    assert not await is_let_in(way, "tinyreptile-another")
    if way.tls_cert:
        assert tls.obstacle(way) == "this client's certificate is of an authority that it does not know"
    # An account of the plugin with a password is bound to its name, which no client may call itself.
    assert not await is_let_in(way, NAME)


@pytest.mark.parametrize("role", ["observer", "operator", "coordinator"])
async def test_nobody_takes_the_place_of_a_device(broker: FleetBroker, role: str) -> None:
    """A broker has one session of a client id at all of its listeners."""
    async with session_of(broker.device(NAME), "tinyreptile-x") as device:
        assert not await is_let_in(broker.role(role), NAME)
        assert await is_let_in(broker.role(role), "tinyreptile-x"), "that is no device's"
        await device.publish(TOPICS.status, b"still here", qos=1)


def test_our_client_ids_begin_as_the_broker_has_it() -> None:
    for made in (messages.CLIENT_ID, mqtt._client_id(BrokerConfig())):
        assert made.startswith(CLIENT_IDS)
    assert f"\nclientid_prefixes {CLIENT_IDS}\n" in template()


async def test_other_roles_do_not_come_in_at_the_devices_listener(broker: FleetBroker) -> None:
    way = broker.role("observer").model_copy(update={"port": broker.port})
    description = broker.fleet.description
    assert await is_let_in(way, "tinyreptile-another") == bool(description.plugin and description.passwords)
    if description.plugin and description.passwords:
        assert re.search(r"as observer@kitchen \(p\d, c1, k\d+, u'observer@kitchen'\)", broker.log.read_text())


async def test_the_plugin_refuses_what_multiplies_messages_within_a_session(broker: FleetBroker) -> None:
    """Mosquitto's access list grants every subscription: docs/security.md says what that is good for."""
    async with session_of(broker.device(NAME), "tinyreptile-x") as session:
        try:
            codes = await session.subscribe([(f"$share/{group}/{TOPICS.status}", 1) for group in range(3)])
        except aiomqtt.MqttError:
            codes = [128] * 3
        refused = [code == 128 for code in (c if isinstance(c, int) else c.value for c in codes)]
    assert refused == [bool(broker.fleet.description.plugin)] * 3
