"""What stands in the way of TLS is told in one sentence: of the files before a connection, of the broker after it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiomqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from coordinator import tls
from coordinator.config import BrokerConfig, Config
from coordinator.errors import ConfigError
from coordinator.mqtt import broker_error, client
from coordinator.observer import look
from coordinator.service import Coordinator
from deployment.authority import Authority, load_certificate, pem
from deployment.provision import revoke

from ..deployment.fleets import RUN, FleetBroker
from ..environment import need_program
from ..fleet import eventually, task


@pytest.fixture(scope="module")
def fleet_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetBroker]:
    need_program("mosquitto")
    broker = FleetBroker(tmp_path_factory.mktemp("fleet") / "fleet")
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def way(fleet_broker: FleetBroker) -> BrokerConfig:
    return fleet_broker.role("observer")


def outdated(folder: Path, certificate: Path, key: Path, days: int) -> Path:
    """A copy of ``certificate`` with the same key that ended ``days`` ago, signed with the key in ``key``."""
    old = load_certificate(certificate)
    signing = load_pem_private_key(key.read_bytes(), None)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .issuer_name(old.issuer)
        .subject_name(old.subject)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=days + 10))
        .not_valid_after(now - timedelta(days=days))
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    path = folder / f"outdated-{certificate.name}"
    path.write_bytes(pem(builder.sign(signing, hashes.SHA256())))  # type: ignore[arg-type]
    return path


# The files


def test_a_certificate_goes_with_its_key_and_an_authority(way: BrokerConfig) -> None:
    for missing in ("tls_ca", "tls_cert", "tls_key"):
        with pytest.raises(ConfigError, match="tls_cert, tls_key and tls_ca go together; name all three"):
            tls.context(way.model_copy(update={missing: None}))


@pytest.mark.parametrize("key", ["tls_cert", "tls_key"])
def test_a_file_that_is_not_there_or_something_else_is_told(way: BrokerConfig, tmp_path: Path, key: str) -> None:
    path = tmp_path / "file"
    with pytest.raises(ConfigError, match=f"broker.{key}: {path} can't be read: No such file or directory"):
        tls.context(way.model_copy(update={key: path}))
    path.write_text("SECRET")
    with pytest.raises(ConfigError, match=f"broker.{key}: {path} is no PEM file of a") as caught:
        tls.context(way.model_copy(update={key: path}))
    assert "SECRET" not in str(caught.value)


def test_a_key_of_another_certificate_is_told(way: BrokerConfig, fleet_broker: FleetBroker) -> None:
    other = fleet_broker.role("operator").tls_key
    with pytest.raises(ConfigError, match=f"broker.tls_key: {other} is not the key of the certificate {way.tls_cert}"):
        tls.context(way.model_copy(update={"tls_key": other}))


def test_a_key_with_a_password_is_told_and_nobody_is_asked_for_it(way: BrokerConfig, tmp_path: Path) -> None:
    assert way.tls_key is not None
    key = load_pem_private_key(way.tls_key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    files = (way.tls_ca, way.tls_cert, locked)
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"opensesame")))
    with pytest.raises(ConfigError, match=f"broker.tls_key: {locked} is protected by a password"):
        tls.context(way.model_copy(update={"tls_key": locked}))
    script = f"from tinyreptile.tls import tls_context; tls_context({', '.join(repr(str(f)) for f in files)})"
    done = subprocess.run(
        [sys.executable, "-c", script], input="opensesame\n", capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert "pass phrase" not in done.stdout + done.stderr


def test_a_certificate_of_the_past_is_told_with_its_dates(
    way: BrokerConfig, fleet_broker: FleetBroker, tmp_path: Path
) -> None:
    assert way.tls_cert is not None
    old = outdated(tmp_path, way.tls_cert, fleet_broker.fleet.roles_authority.key, days=2)
    ended = f"{datetime.now(UTC) - timedelta(days=2):%Y-%m-%d}"
    with pytest.raises(ConfigError, match=f"{old} is valid from .* to {ended}, and today is .*; it has to be renewed"):
        tls.context(way.model_copy(update={"tls_cert": old}))


# The broker


async def told(way: BrokerConfig) -> str:
    """The sentence that a command ends with."""
    with pytest.raises(aiomqtt.MqttError) as caught:
        async with client(way, timeout=3):
            pass
    return str(broker_error(way, caught.value))


async def test_credentials_that_are_right_open_a_session(way: BrokerConfig) -> None:
    assert tls.obstacle(way) is None
    await look(Config(run={"name": RUN}, broker=way), seconds=0.2)


async def test_a_broker_of_another_authority_is_told(way: BrokerConfig, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(pem(Authority.create("stranger").certificate))
    text = await told(way.model_copy(update={"tls_ca": stranger}))
    assert "its certificate is not accepted: unable to get local issuer certificate" in text


async def test_a_broker_under_another_name_is_told(way: BrokerConfig) -> None:
    text = await told(way.model_copy(update={"host": "127.0.0.1"}))
    assert "its certificate is not accepted: IP address mismatch, certificate is not valid for '127.0.0.1'" in text


async def test_a_client_without_a_certificate_is_told_what_to_name(way: BrokerConfig) -> None:
    text = await told(way.model_copy(update={"tls_cert": None, "tls_key": None}))
    assert "it asks for a certificate: name one with --tls-cert and --tls-key" in text


async def test_a_client_of_another_authority_is_told(way: BrokerConfig, tmp_path: Path) -> None:
    certificate, key = Authority.create("stranger").issue("observer@kitchen", 1)
    (tmp_path / "own.pem").write_bytes(certificate)
    (tmp_path / "own.key").write_bytes(key)
    text = await told(way.model_copy(update={"tls_cert": tmp_path / "own.pem", "tls_key": tmp_path / "own.key"}))
    assert "this client's certificate is of an authority that it does not know" in text


async def test_a_client_without_tls_is_told_of_it(way: BrokerConfig) -> None:
    text = await told(BrokerConfig(host=way.host, port=way.port))
    assert "it closes the connection without an answer" in text
    assert "it speaks TLS only (--tls-ca)" in text


async def test_a_revoked_client_is_told(fleet_broker: FleetBroker, tmp_path: Path) -> None:
    way = fleet_broker.device("kitchen-2")
    assert way.tls_cert is not None
    assert way.tls_key is not None
    kept = {
        "tls_cert": tmp_path / "a.pem",
        "tls_key": tmp_path / "a.key",
        "tls_ca": fleet_broker.fleet.authority.certificate,
    }
    kept["tls_cert"].write_bytes(way.tls_cert.read_bytes())
    kept["tls_key"].write_bytes(way.tls_key.read_bytes())
    revoke(fleet_broker.folder, ["kitchen-2"])
    fleet_broker.reload()
    assert "this client's certificate was revoked" in await told(way.model_copy(update=kept))


async def test_an_expired_certificate_of_the_broker_is_told(tmp_path: Path) -> None:
    need_program("mosquitto")
    broker = FleetBroker(tmp_path / "fleet")
    fleet = broker.fleet
    server = fleet.broker / "server.pem"
    server.write_bytes(outdated(tmp_path, server, fleet.authority.key, days=1).read_bytes())
    broker.start()
    try:
        text = await told(broker.role("observer"))
    finally:
        broker.stop()
    assert "its certificate is not accepted: certificate has expired" in text


async def test_a_certificate_that_is_renewed_before_its_key_is_waited_for(
    fleet_broker: FleetBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = fleet_broker.fleet
    certificate, key = Authority.load(fleet.roles_authority.certificate, fleet.roles_authority.key).issue(
        f"coordinator@{RUN}", 1
    )
    mine = fleet_broker.role("coordinator")
    assert mine.tls_cert
    assert mine.tls_key
    way = mine.model_copy(update={"tls_cert": tmp_path / "c.pem", "tls_key": tmp_path / "c.key"})
    (tmp_path / "c.pem").write_bytes(mine.tls_cert.read_bytes())
    (tmp_path / "c.key").write_bytes(mine.tls_key.read_bytes())
    config = Config.model_validate({"run": {"name": RUN, "store": tmp_path / "run.sqlite"}})
    config.broker = way
    coordinator = Coordinator(config)
    async with task(coordinator.run()) as run:
        await eventually(lambda: not coordinator.obstacle, "it is ready")
        (tmp_path / "c.pem").write_bytes(certificate)
        fleet_broker.stop()
        fleet_broker.start()
        await eventually(lambda: "is not the key of the certificate" in caplog.text, "it says so")
        assert not run.done()
        (tmp_path / "c.key").write_bytes(key)
        await eventually(lambda: not coordinator.obstacle, "it is ready again")
        coordinator.stop()
        await run
