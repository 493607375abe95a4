"""The plugin of a running broker is brought to what the fleet's folder says, whatever it knew before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator import administrator
from coordinator.administrator import Plugin
from coordinator.config import load_config
from coordinator.errors import DeniedError, PluginError
from coordinator.mqtt import client
from deployment import dynamic_security
from tinyreptile import messages

from ..commands import tinyreptile
from ..environment import Mosquitto, free_port
from ..fleet import listening
from .fleets import FleetBroker, need_plugin

MODE = "passwords and plugin"


@pytest.mark.parametrize("way", [[], ["--passwords"]])
def test_a_broker_knows_at_its_first_start_who_is_in_the_fleet_and_is_told_of_changes(
    tmp_path: Path, way: list[str]
) -> None:
    made = ["provision", "fleet", "a", "--dynamic-security", "--plugin", need_plugin(), *way]
    ports = ["--port", free_port(), "--roles-port", free_port()]
    done = tinyreptile(*made, "--host", "localhost", *ports, "--run", "kitchen", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "does not know of this yet" not in done.stderr
    later = tinyreptile("provision", "fleet", "b", cwd=tmp_path)
    assert "The broker does not know of this yet: no broker answers at localhost" in later.stderr
    assert "When it runs, the same command tells it." in later.stderr
    revoked = tinyreptile("revoke", "fleet", "a", cwd=tmp_path)  # it must not look as if that had happened
    assert "error: no broker answers at localhost" in revoked.stderr
    assert revoked.returncode == 1
    broker = FleetBroker(tmp_path / "fleet")
    Mosquitto.start(broker)  # without a word to its plugin
    topic = messages.RunTopics("kitchen").device("b").status

    async def may_write(name: str) -> bool:
        async with listening(broker.role("observer"), topic) as seen, client(broker.device(name), timeout=3) as session:
            await session.publish(topic, b"here", qos=1)
            await asyncio.sleep(0.5)
        return bool(seen)

    try:
        assert way or not asyncio.run(may_write("b")), "the observer has its rights, b none yet"
        again = tinyreptile("provision", "fleet", "b", cwd=tmp_path)
        assert "The broker knows of it." in again.stdout
        assert asyncio.run(may_write("b"))
    finally:
        broker.stop()


def test_a_fleet_needs_no_word_to_a_plugin_that_starts_with_it(tmp_path: Path) -> None:
    broker = FleetBroker(tmp_path / "fleet", MODE)
    Mosquitto.start(broker)
    topic = messages.RunTopics("kitchen").device("kitchen-1").status

    async def heard() -> bool:
        async with (
            listening(broker.role("observer"), topic) as seen,
            client(broker.device("kitchen-1"), timeout=3) as session,
        ):
            await session.publish(topic, b"here", qos=1)
            await asyncio.sleep(0.5)
        return bool(seen)

    try:
        assert asyncio.run(heard())
    finally:
        broker.stop()


async def test_rights_that_someone_changed_are_put_right(provisioned: Callable[..., FleetBroker]) -> None:
    broker = await asyncio.to_thread(provisioned, MODE)
    stolen = "tinyreptile/kitchen/init"
    async with client(load_config(broker.folder / "authority" / "administrator.toml").broker) as session:
        plugin = Plugin(session)
        await session.subscribe("$CONTROL/dynamic-security/v1/response")
        right = {"acltype": "publishClientSend", "topic": stolen, "allow": True, "priority": 1}
        await plugin.tell([{"command": "addRoleACL", "rolename": "kitchen-1"} | right])
        with pytest.raises(PluginError, match="the dynamic-security plugin refused deleteRole: Role not found"):
            await plugin.tell([{"command": "deleteRole", "rolename": "nobody"}])
    async with listening(broker.role("observer"), stolen) as seen:

        async def try_it(text: str) -> None:
            async with client(broker.device("kitchen-1")) as session:
                await session.publish(stolen, text, qos=1)
            async with client(broker.role("coordinator")) as session:
                await session.publish(stolen, b"end", qos=1)

        await try_it("stolen")
        await dynamic_security.apply(broker.fleet)
        await try_it("stolen again")
        async with asyncio.timeout(5):
            while sum(message.payload == b"end" for message in seen) < 2:
                await asyncio.sleep(0.01)
    assert [message.payload for message in seen] == [b"stolen", b"end", b"end"]


async def test_telling_a_broker_what_it_knows_disconnects_nobody(provisioned: Callable[..., FleetBroker]) -> None:
    broker = await asyncio.to_thread(provisioned, MODE)
    async with client(broker.device("kitchen-1")) as session:
        await dynamic_security.apply(broker.fleet)
        await session.publish(messages.RunTopics("kitchen").device("kitchen-1").status, b"", qos=1)


async def test_a_plugin_that_does_not_answer_is_told(
    provisioned: Callable[..., FleetBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(administrator, "ANSWER_SECONDS", 0.5)
    broker = await asyncio.to_thread(provisioned, MODE)
    async with client(broker.role("operator")) as session:
        with pytest.raises(PluginError, match=r"does it let this client write \$CONTROL/dynamic-security/v1 and"):
            await Plugin(session).tell([{"command": "listClients"}])


async def test_a_subscription_that_the_plugin_refuses_is_told(
    provisioned: Callable[..., FleetBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = await asyncio.to_thread(provisioned, MODE)
    folder = broker.fleet.run_folder("kitchen")
    monkeypatch.setattr(dynamic_security, "broker_in", lambda _: load_config(folder / "operator.toml").broker)
    with pytest.raises(DeniedError, match=r"does not let this client read \$CONTROL/dynamic-security/v1/response"):
        await dynamic_security.apply(broker.fleet)


def test_a_list_of_runs_that_the_plugin_refuses_is_told(provisioned: Callable[..., FleetBroker]) -> None:
    """The filter is wider than what may be read; who asks for one run needs none."""
    broker = provisioned(MODE)
    observer = "--config", broker.fleet.run_folder("kitchen") / "observer.toml"
    shown = tinyreptile("status", *observer, cwd=broker.folder)
    assert "no coordinator has said anything of run kitchen" in shown.stderr
    assert "the broker does not let this client see which other runs there are" in shown.stderr
    listed = tinyreptile("runs", "list", *observer, cwd=broker.folder)
    assert "the broker does not let this client read tinyreptile/+/coordinator; check its rights there" in listed.stderr
