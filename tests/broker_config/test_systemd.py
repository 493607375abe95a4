"""The service unit is one that systemd understands, and leaves the service little to do harm with."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path

import pytest

from deployment.provision import Wish, provision
from tests.environment import ROOT, find_program, need_program

UNIT = ROOT / "broker_config" / "systemd" / "tinyreptile@.service"
COMMAND = "/opt/tinyreptile/bin/tinyreptile"
EXPOSURE = 1.5  # of 10, by systemd's own reckoning; the network and the local socket of systemd are what is left


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [need_program("systemd-analyze"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit of the run kitchen, for the command that is installed here."""
    text = UNIT.read_text()
    assert f"ExecStart={COMMAND} serve " in text
    unit = tmp_path / "tinyreptile@kitchen.service"
    unit.write_text(text.replace(COMMAND, str(find_program("tinyreptile"))))
    return unit


def test_systemd_finds_nothing_wrong_with_it(installed: Path) -> None:
    done = analyze("verify", "--man=no", "--generators=no", installed)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_word_that_systemd_does_not_know_would_be_told(installed: Path) -> None:
    installed.write_text(installed.read_text().replace("ProtectSystem=strict", "ProtectSystems=strict"))
    assert "ProtectSystems" in analyze("verify", "--man=no", "--generators=no", installed).stderr


def test_it_is_hardened(installed: Path) -> None:
    done = analyze("security", "--offline=true", "--no-pager", installed)
    found = re.search(r"Overall exposure level for tinyreptile@kitchen\.service: ([\d.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= EXPOSURE, done.stdout


def test_its_credentials_are_what_provision_makes_for_a_coordinator(tmp_path: Path) -> None:
    provision(tmp_path / "fleet", Wish(hosts=["broker.example"], run="kitchen", devices=["kitchen-1"]))
    made = {path.name for path in (tmp_path / "fleet" / "runs" / "kitchen").iterdir()}
    wanted = dict(re.findall(r"^LoadCredential=([\w.]+):/etc/tinyreptile/%i/([\w.]+)$", UNIT.read_text(), re.MULTILINE))
    assert all(name == file for name, file in wanted.items()), "the configuration names them so, in its own folder"
    assert set(wanted) == {name for name in made if name == "ca.pem" or name.startswith("coordinator.")}


def test_it_says_that_it_is_told_how_the_service_does() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    service = parser["Service"]
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert int(service["WatchdogSec"]) >= 30, "a long transaction is no hang"
