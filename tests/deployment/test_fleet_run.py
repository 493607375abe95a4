"""A provisioned fleet at work: coordinator, swarm and MicroPython with the credentials that they were given."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boards.flash import settings
from deployment.errors import DeploymentError
from deployment.provision import revoke
from simulator.micropython import micropython_device

from ..commands import Popen, tinyreptile, wait_until
from ..environment import need_program
from ..fleet import eventually
from ..host.desk import Desk
from .fleets import BOTH, DEVICES, EVALUATORS, FleetBroker

STREAM = {"kind": "sine", "seed": 3}


def names(count: int) -> list[str]:
    return [f"kitchen-{i}" for i in range(count)]


def secrets_of(folder: Path) -> list[str]:
    """Every password and every private key of the fleet, as text that would give it away."""
    keys = ["".join(path.read_text().splitlines()[1:-1])[40:80] for path in folder.rglob("*.key")]
    return keys + [path.read_text().strip() for path in folder.rglob("*.password")]


@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.usefixtures("compiled")
def test_a_fleet_finishes_a_run_and_no_secret_is_to_be_seen(
    provisioned: Callable[..., FleetBroker], tmp_path: Path, start: Callable[..., Popen], mode: str
) -> None:
    broker = provisioned(mode, devices=names(6))
    runs = tmp_path / "fleet" / "runs" / "kitchen"
    serve = start("serve", "--config", runs / "coordinator.toml", "--task", "sine", "--rounds", 500, "--verbose")
    swarm = start("swarm", "--credentials", "fleet", "--verbose")
    wait_until(lambda: "u'kitchen-5'" in broker.log.read_text())
    seen = "".join(
        Path(f"/proc/{process.pid}/{what}").read_text() for process in (serve, swarm) for what in ("cmdline", "environ")
    )
    told, _ = serve.communicate(timeout=100)
    assert "kitchen: finished" in told
    of_swarm, _ = swarm.communicate(timeout=60)
    assert (serve.returncode, swarm.returncode) == (0, 0)
    done = tinyreptile("status", "--config", runs / "observer.toml", cwd=tmp_path)
    assert "500 of 500" in done.stdout, done.stdout
    exported = tinyreptile("export", "a.json", "--config", runs / "observer.toml", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    log = (tmp_path / "fleet" / "mosquitto.log").read_text()
    secrets = secrets_of(tmp_path / "fleet")
    assert len(secrets) >= 11
    everything = seen + told + of_swarm + done.stdout + done.stderr + log
    assert not [secret for secret in secrets if secret in everything]


@pytest.mark.usefixtures("compiled")
def test_devices_that_start_again_take_the_place_of_their_sessions(
    provisioned: Callable[..., FleetBroker], start: Callable[..., Popen]
) -> None:
    broker = provisioned()
    start("serve", "--config", "fleet/runs/kitchen/coordinator.toml", "--task", "sine", "--rounds", 1500)
    frozen = start("swarm", "--credentials", "fleet")
    wait_until(lambda: all(f"u'{name}'" in broker.log.read_text() for name in (*DEVICES, *EVALUATORS)))
    frozen.send_signal(signal.SIGSTOP)  # as a board without power: its connections stay
    again = start("swarm", "--credentials", "fleet")
    try:
        told, _ = again.communicate(timeout=60)
    finally:
        frozen.kill()
    assert again.returncode == 0, told
    for name in (*DEVICES, *EVALUATORS):
        assert f"Client {name} already connected, closing old connection." in broker.log.read_text()


async def test_micropython_joins_with_its_certificate_and_is_shut_out_when_it_is_revoked(
    provisioned: Callable[..., FleetBroker], tmp_path: Path, start: Callable[..., Popen]
) -> None:
    broker = provisioned()
    start("serve", "--config", "fleet/runs/kitchen/coordinator.toml", "--task", "sine", "--rounds", "100000")
    given = broker.fleet.credentials_of("kitchen-1") | {"stream": STREAM}
    async with micropython_device(need_program("micropython"), tmp_path, given, heap="96wK") as process:
        log = tmp_path / "kitchen-1.log"
        await eventually(lambda: "joined run tinyreptile/kitchen" in log.read_text(), "it has joined")
        revoke(tmp_path / "fleet", ["kitchen-1"])
        broker.stop()
        before = len(log.read_text())
        broker.start()
        await eventually(lambda: "Client <unknown> disconnected" in broker.log.read_text(), "it was turned away")
        assert "joined" not in log.read_text()[before:]
        assert process.returncode is None
        process.send_signal(signal.SIGINT)


async def test_micropython_does_not_join_a_broker_of_another_authority(
    provisioned: Callable[..., FleetBroker], tmp_path: Path
) -> None:
    broker = provisioned()
    other = FleetBroker(tmp_path / "other").fleet
    given = broker.fleet.credentials_of("kitchen-1") | {"stream": STREAM, "tls_ca": str(other.authority.certificate)}
    async with micropython_device(need_program("micropython"), tmp_path, given, heap="96wK"):
        log = tmp_path / "kitchen-1.log"
        await eventually(lambda: "certificate" in log.read_text().lower(), "it says what it does not trust")
    assert "kitchen-1" not in broker.log.read_text()


def test_a_swarm_larger_than_the_fleet_is_told(tmp_path: Path) -> None:
    FleetBroker(tmp_path / "fleet", devices=names(3))
    done = tinyreptile("swarm", "-n", 4, "--credentials", "fleet", cwd=tmp_path)
    assert "error: the fleet in fleet has 3 devices of run kitchen with the role train, not 4" in done.stderr
    done = tinyreptile("swarm", "-n", 3, "--evaluators", 2, "--credentials", "fleet", cwd=tmp_path)
    assert "error: the fleet in fleet has 1 devices of run kitchen with the role evaluate, not 2" in done.stderr
    done = tinyreptile("swarm", "-n", 1, "--credentials", "fleet", "--run", "garden", cwd=tmp_path)
    assert "error: --run: the fleet in fleet has the runs kitchen; name one of them" in done.stderr
    done = tinyreptile("swarm", "-n", 1, "--credentials", "nowhere", cwd=tmp_path)
    assert "error: nowhere holds no fleet" in done.stderr
    assert done.returncode == 1


# Boards


def write_config(folder: Path, **fields: Any) -> Path:
    path = folder / "board.json"
    path.write_text(json.dumps({"stream": STREAM} | fields))
    return path


def test_a_board_gets_its_credentials_and_nobody_else_s(tmp_path: Path) -> None:
    broker = FleetBroker(tmp_path / "fleet")
    config, files = settings(write_config(tmp_path, role="evaluate"), "kitchen-2", None, tmp_path / "fleet")
    assert config["role"] == "train", "credentials say what it may do"
    held_out, _ = settings(write_config(tmp_path), EVALUATORS[0], None, tmp_path / "fleet")
    assert held_out["role"] == "evaluate"
    assert (config["id"], config["run"], config["host"], config["port"]) == (
        "kitchen-2",
        "kitchen",
        "localhost",
        broker.port,
    )
    assert (config["tls_ca"], config["tls_cert"], config["tls_key"]) == ("ca.pem", "kitchen-2.pem", "kitchen-2.key")
    devices = tmp_path / "fleet" / "devices"
    assert files == {name: devices / name for name in ("ca.pem", "kitchen-2.pem", "kitchen-2.key")}
    with pytest.raises(DeploymentError, match="kitchen-9 is no device of the fleet"):
        settings(write_config(tmp_path), "kitchen-9", None, tmp_path / "fleet")


def test_a_board_is_flashed_with_its_credentials_and_joins(
    provisioned: Callable[..., FleetBroker], tmp_path: Path, start: Callable[..., Popen]
) -> None:
    need_program("mpy-cross")
    provisioned()
    start("serve", "--config", "fleet/runs/kitchen/coordinator.toml", "--task", "sine", "--rounds", "100000")
    config = write_config(tmp_path)
    (tmp_path / "board").mkdir()
    with Desk(tmp_path / "board") as desk:
        options = ["--port", desk.port, "--id", "kitchen-1", "--credentials", "fleet"]
        done = tinyreptile("flash", config, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kitchen-1: joined run tinyreptile/kitchen" in done.stdout
    assert not [secret for secret in secrets_of(tmp_path) if secret in done.stdout + done.stderr]
    assert not list((tmp_path / "board").rglob("kitchen-2*"))
    assert not list((tmp_path / "board").rglob("ca.key"))


def test_a_board_of_a_fleet_with_passwords_gets_its_own(tmp_path: Path) -> None:
    FleetBroker(tmp_path / "fleet", "passwords")
    config, files = settings(write_config(tmp_path), "kitchen-2", None, tmp_path / "fleet")
    assert config["user"] == "kitchen-2"
    assert config["password"] == (tmp_path / "fleet" / "devices" / "kitchen-2.password").read_text().strip()
    assert list(files) == ["ca.pem"]
