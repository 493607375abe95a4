"""The broker's files: what Mosquitto makes of them, and that they are the template's, filled in."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import aiomqtt
import pytest

from coordinator import tls
from coordinator.mqtt import client
from coordinator.service import FILTERS_AT_ONCE
from deployment.broker import configuration, template
from deployment.fleet import Description
from simulator import broker
from tinyreptile import reports
from tinyreptile.messages import MAX_ID

from ..environment import ROOT
from .fleets import FleetBroker

KITCHEN = Description(
    hosts=["broker.example"], port=8884, roles_port=8883, broker_user="mosquitto", broker_folder="/srv/fleet"
)


def settings(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {key: value for key, _, value in (line.partition(" ") for line in lines)}


_CERTIFICATES = {"cafile", "require_certificate", "use_identity_as_username", "crlfile"}
_PASSWORDS = {"password_file", "acl_file"}
_PLUGIN = {"plugin", "plugin_opt_config_file"}


@pytest.mark.parametrize(
    ("ways", "everywhere", "of_devices", "of_all_others"),
    [
        ({}, {"acl_file"}, _CERTIFICATES, _CERTIFICATES),
        ({"passwords": True}, {"per_listener_settings"}, _PASSWORDS, _PASSWORDS),
        ({"plugin": "/p.so"}, _PLUGIN, _CERTIFICATES, _CERTIFICATES),
        ({"plugin": "/p.so", "passwords": True}, _PLUGIN, set(), set()),
    ],
)
def test_a_configuration_holds_the_way_that_was_chosen_and_no_other(
    ways: dict[str, object], everywhere: set[str], of_devices: set[str], of_all_others: set[str]
) -> None:
    """What stands before the listeners, for each of them, and after them."""
    alternatives = {"per_listener_settings"} | _CERTIFICATES | _PASSWORDS | _PLUGIN
    made = configuration(KITCHEN.model_copy(update=ways))
    before, devices, others = (settings(part) for part in re.split(r"(?m)^(?=listener )", made))
    after = {key: value for key, value in others.items() if key in _PLUGIN or (key == "acl_file" and not ways)}
    assert (before.keys() | after.keys()) & alternatives == everywhere
    assert devices.keys() & alternatives == of_devices
    assert (others.keys() - after.keys()) & alternatives == of_all_others
    assert (devices["listener"], others["listener"]) == ("8884", "8883")
    assert devices["use_username_as_clientid"] == "true"
    assert "use_username_as_clientid" not in others
    for listener in (devices, others):
        assert listener["allow_anonymous"] == "false"
        assert listener["tls_version"] == "tlsv1.2"
    for key in {"cafile", "crlfile", "password_file"} & (of_devices | of_all_others):
        assert devices[key] != others[key]
    paths = {key: value for key, value in settings(made).items() if value.startswith("/") and key != "plugin"}
    assert len(paths) > 3
    assert all(value.startswith("/srv/fleet/") for value in paths.values())


def test_development_and_production_share_what_a_fleet_needs() -> None:
    development = settings((ROOT / "broker_config" / "mosquitto.conf").read_text())
    production = settings(template())
    for key in ("max_inflight_messages", "max_queued_messages", "max_packet_size", "set_tcp_nodelay", "max_keepalive"):
        assert production[key] == development[key]


def test_a_broker_takes_what_the_protocol_needs_and_no_more() -> None:
    """Larger packets are of use to who would have it retain them."""
    longest = "x" * MAX_ID
    run = reports.CoordinatorTopics(longest)
    topics = [run.answers(longest), run.piece(99_999), run.software("x" * 16) + "/99999"]
    topics += vars(run.device(longest)).values()
    most = reports.MESSAGE_BYTES + max(map(len, topics)) + 7  # of the header, the topic's length and the identifier
    assert most <= reports.PACKET_BYTES < 1.05 * most
    assert FILTERS_AT_ONCE * (3 + max(map(len, topics))) + 5 <= reports.PACKET_BYTES, "of one subscription"
    files = ("mosquitto.conf", "secured.conf")
    for text in (*((ROOT / "broker_config" / name).read_text() for name in files), broker._MOSQUITTO):
        assert settings(text)["max_packet_size"] == str(reports.PACKET_BYTES)
    assert f"max_payload_size = {reports.PACKET_BYTES}\n" in broker._IOTCORE


@pytest.mark.parametrize(("version", "accepted"), [("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_the_broker_speaks_tls_of_today_only(
    provisioned: Callable[..., FleetBroker], version: str, accepted: bool
) -> None:
    broker = provisioned()
    made = tls.context(broker.device("kitchen-1"))
    assert made is not None
    made.set_ciphers("DEFAULT:@SECLEVEL=0")
    made.minimum_version = made.maximum_version = ssl.TLSVersion[version]
    with (
        contextlib.nullcontext() if accepted else pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"),
        socket.create_connection(("localhost", broker.port), 5) as plain,
        made.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert secure.version() == version.replace("_", ".")


def test_our_clients_speak_tls_of_today_only(tmp_path: Path) -> None:
    made = tls.context(FleetBroker(tmp_path / "fleet").device("kitchen-1"))
    assert made is not None
    assert made.minimum_version == ssl.TLSVersion.TLSv1_2
    assert made.verify_mode == ssl.CERT_REQUIRED
    assert made.check_hostname


async def test_a_packet_longer_than_any_of_the_protocol_ends_the_connection(
    provisioned: Callable[..., FleetBroker],
) -> None:
    broker = await asyncio.to_thread(provisioned)
    topic = "tinyreptile/kitchen/device/kitchen-1/update"
    with contextlib.suppress(aiomqtt.MqttError):  # at its end there is nobody to say good-bye to
        async with client(broker.device("kitchen-1"), timeout=2) as session:
            await session.publish(topic, b"x" * reports.MESSAGE_BYTES, qos=1)
            with pytest.raises(aiomqtt.MqttError):
                await session.publish(topic, b"x" * reports.PACKET_BYTES, qos=1)
    assert "oversize" in broker.log.read_text()
    async with client(broker.device("kitchen-2")) as session:
        await session.publish("tinyreptile/kitchen/device/kitchen-2/status", b"", qos=1)


async def test_a_device_can_not_pass_itself_off_as_the_broker(tmp_path: Path) -> None:
    """With its own certificate it serves TLS under the broker's name; clients see whose it is."""
    fleet = FleetBroker(tmp_path / "fleet")
    device = fleet.device("kitchen-1")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(str(device.tls_cert), str(device.tls_key))

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", fleet.port, ssl=serving)
    async with server:
        text = await asyncio.to_thread(tls.obstacle, fleet.device("kitchen-2"))
    assert text is not None
    assert re.search("its certificate is not accepted: (unsuitable certificate purpose|Hostname mismatch)", text)
