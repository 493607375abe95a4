"""A revoked device can do nothing any more, even if it is connected, as soon as the broker has read its files anew."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import aiomqtt
import pytest

from coordinator.config import BrokerConfig
from coordinator.mqtt import client
from deployment import dynamic_security
from deployment.authority import load_revocations
from deployment.errors import DeploymentError
from deployment.fleet import load
from deployment.provision import Wish, provision, revoke
from tinyreptile import messages

from ..commands import tinyreptile
from ..environment import need_program
from ..fleet import listening
from .fleets import BOTH, MODES, RUN, FleetBroker

TOPICS = messages.RunTopics(RUN)


@pytest.fixture(params=MODES)
def fleet_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FleetBroker]:
    need_program("mosquitto")
    broker = FleetBroker(tmp_path / "fleet", request.param)
    broker.start()
    yield broker
    broker.stop()


async def shut_out(broker: FleetBroker, name: str) -> None:
    """What `tinyreptile revoke` does, and what it says is to be done after it."""
    revoke(broker.folder, [name])
    if broker.fleet.description.plugin:
        await dynamic_security.apply(broker.fleet)
    await asyncio.to_thread(broker.reload)


def copied(way: BrokerConfig, folder: Path) -> BrokerConfig:
    """``way`` with its files as a thief has them."""
    paths = {key: value for key, value in way if isinstance(value, Path)}
    for key, path in paths.items():
        (folder / path.name).write_bytes(path.read_bytes())
        paths[key] = folder / path.name
    return way.model_copy(update=paths)


async def test_a_connected_device_that_is_revoked_can_do_nothing_any_more(
    fleet_broker: FleetBroker, tmp_path: Path
) -> None:
    thief = copied(fleet_broker.device("kitchen-1"), tmp_path)
    stolen, other = TOPICS.device("kitchen-1"), TOPICS.device("kitchen-2")
    will = aiomqtt.Will(stolen.status, b"will", 1, True)
    async with (
        listening(fleet_broker.role("operator"), stolen.status, other.status) as seen,
        client(fleet_broker.role("coordinator")) as coordinator,
        client(fleet_broker.device("kitchen-2")) as honest,
        contextlib.AsyncExitStack() as stack,
    ):
        session = await stack.enter_async_context(client(thief, will=will, timeout=2))
        stack.push(lambda kind, error, trace: True)  # the broker may have ended this session
        heard: list[bytes] = []

        async def hear() -> None:
            with contextlib.suppress(aiomqtt.MqttError):
                async for message in session.messages:
                    heard.append(bytes(message.payload))  # type: ignore[arg-type]

        hearing = asyncio.create_task(hear())
        await session.subscribe(stolen.work, qos=1)
        await session.publish(stolen.status, b"before", qos=1)
        await coordinator.publish(stolen.work, b"before", qos=1)
        async with asyncio.timeout(5):
            while not (seen and heard):
                await asyncio.sleep(0.01)

        await shut_out(fleet_broker, "kitchen-1")
        with contextlib.suppress(aiomqtt.MqttError):
            await session.publish(stolen.status, b"after", qos=1)
        await coordinator.publish(stolen.work, b"after", qos=1)
        with contextlib.suppress(OSError, AttributeError):
            session._client.socket().shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr] - a crash: its will is due
        await honest.publish(other.status, b"last", qos=1)
        async with asyncio.timeout(5):
            while seen[-1].payload != b"last":
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        hearing.cancel()
        assert [message.payload for message in seen] == [b"before", b"last"]
        assert heard == [b"before"]

    with pytest.raises(aiomqtt.MqttError):
        async with client(thief, timeout=2):
            pass
    async with client(fleet_broker.device("kitchen-2"), timeout=2):
        pass


@pytest.mark.parametrize(
    "damage", [b"", b"\xff\x00 no list", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"]
)
async def test_a_damaged_list_of_the_revoked_is_made_anew(fleet_broker: FleetBroker, damage: bytes) -> None:
    fleet = fleet_broker.fleet
    if fleet.description.passwords:
        return  # there is none
    await shut_out(fleet_broker, "kitchen-1")
    fleet.authority.revocations.write_bytes(damage)
    await shut_out(fleet_broker, "kitchen-2")
    listed = load_revocations(fleet.authority.revocations)
    assert listed is not None
    assert len(list(listed)) == 2, "those that were revoked before are on it, too"


async def test_revoking_twice_or_an_unknown_device_harms_nothing(fleet_broker: FleetBroker) -> None:
    await shut_out(fleet_broker, "kitchen-1")
    await shut_out(fleet_broker, "kitchen-1")
    with pytest.raises(DeploymentError, match="has no device or role stranger"):
        revoke(fleet_broker.folder, ["stranger"])
    with pytest.raises(messages.MessageError, match="a device id is made of letters"):
        revoke(fleet_broker.folder, ["\udcff"])
    with pytest.raises(DeploymentError, match="kitchen-1 was revoked"):
        fleet_broker.device("kitchen-1")
    assert not list((fleet_broker.folder / "devices").glob("kitchen-1.*"))
    async with client(fleet_broker.device("kitchen-2")):
        pass


@pytest.mark.parametrize("fleet_broker", BOTH, indirect=True)
def test_the_commands_revoke_a_device_of_a_running_broker(fleet_broker: FleetBroker, tmp_path: Path) -> None:
    done = tinyreptile("revoke", fleet_broker.folder, "kitchen-2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "revoked: kitchen-2" in done.stdout
    operator = fleet_broker.folder / "runs" / RUN / "operator.toml"
    for verb in ("quarantine", "forget"):
        assert f"\n  tinyreptile devices {verb} kitchen-2 --config {operator}\n" in done.stdout
    again = tinyreptile("provision", fleet_broker.folder, "kitchen-2", cwd=tmp_path)
    assert "error: kitchen-2 was revoked" in again.stderr
    more = tinyreptile("provision", fleet_broker.folder, "kitchen-3", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    fleet_broker.reload()

    async def joins() -> None:
        async with client(fleet_broker.device("kitchen-3"), timeout=3) as session:
            await session.publish(TOPICS.device("kitchen-3").status, b"", qos=1)

    asyncio.run(joins())


@pytest.mark.parametrize("role", ["observer", "operator", "coordinator"])
def test_a_role_gets_new_credentials_and_the_old_are_void(fleet_broker: FleetBroker, tmp_path: Path, role: str) -> None:
    way = fleet_broker.role(role)
    thief = copied(way, tmp_path)
    others = {name: fleet_broker.role(name) for name in ("coordinator", "operator", "observer") if name != role}
    configuration = fleet_broker.fleet.run_folder(RUN) / f"{role}.toml"
    configuration.write_text(configuration.read_text() + "\n[learning]\nsteps = 3\n")
    done = tinyreptile("revoke", fleet_broker.folder, f"{role}@{RUN}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"revoked: {role}@{RUN}" in done.stdout
    assert "tinyreptile devices" not in done.stdout
    assert ("restart the broker" in done.stdout) == (way.tls_cert is not None)
    if way.tls_cert:
        fleet_broker.stop()
        fleet_broker.start()
    elif not fleet_broker.fleet.description.plugin:
        fleet_broker.reload()

    async def joins(way: BrokerConfig) -> bool:
        with contextlib.suppress(aiomqtt.MqttError):
            async with client(way, timeout=2):
                return True
        return False

    assert not asyncio.run(joins(thief))
    assert all(asyncio.run(joins(each)) for each in (fleet_broker.role(role), *others.values()))
    assert "steps = 3" in configuration.read_text(), "what a user has added stays"
    assert provision(fleet_broker.folder, Wish()) == []


def test_a_role_is_not_revoked_without_the_key_that_makes_another(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    provision(folder, Wish(hosts=["broker.example"], run=RUN, devices=["a"]))
    (folder / "authority").rename(tmp_path / "safe")
    certificate = folder / "runs" / RUN / "observer.pem"
    before = certificate.read_bytes(), (folder / "fleet.json").read_bytes()
    with pytest.raises(DeploymentError, match=r"roles\.key is not there: bring the authority's key back"):
        revoke(folder, [f"observer@{RUN}"])
    assert (certificate.read_bytes(), (folder / "fleet.json").read_bytes()) == before
    (tmp_path / "safe").rename(folder / "authority")
    provision(folder, Wish(renew=2000))
    revoke(folder, [f"observer@{RUN}"])
    listed = load_revocations(load(folder).roles_authority.revocations)
    assert listed is not None
    assert len(list(listed)) == 2, "all that it ever had"
