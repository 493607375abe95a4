"""A fleet's folder: what is made, that nothing there is touched, and that an interruption leaves nothing half done."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from coordinator.config import load_config
from deployment import files, passwords
from deployment.authority import load_certificate
from deployment.errors import DeploymentError
from deployment.fleet import load
from deployment.provision import Wish, provision, revoke
from tinyreptile.messages import MessageError

from ..commands import tinyreptile


def wish(*devices: str, **fields: Any) -> Wish:
    return Wish(**({"hosts": ["broker.example", "192.0.2.7"], "run": "kitchen", "devices": list(devices)} | fields))


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each file was written, and what it holds."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def complete(folder: Path, *devices: str) -> bool:
    """Whether each certificate has its key, each device its rights, and nothing is left lying about."""
    for certificate in folder.rglob("*.pem"):
        key = certificate.with_suffix(".key")
        if certificate.name.endswith("revoked.pem"):
            continue
        if certificate.name in ("ca.pem", "roles.pem"):
            key = folder / "authority" / key.name
        public = load_pem_private_key(key.read_bytes(), None).public_key()
        assert public == load_certificate(certificate).public_key()
    names = {line.split()[1] for line in (folder / "broker" / "acl").read_text().splitlines() if line[:5] == "user "}
    assert names == {*devices, "coordinator@kitchen", "operator@kitchen", "observer@kitchen"}
    assert not list(folder.rglob(".*"))
    return all((folder / "devices" / f"{name}.json").exists() for name in devices)


def test_the_same_command_again_touches_nothing(tmp_path: Path) -> None:
    assert len(provision(tmp_path / "fleet", wish("a", "b"))) == 6
    before = state(tmp_path)
    assert provision(tmp_path / "fleet", wish("a", "b")) == []
    assert provision(tmp_path / "fleet", Wish()) == []
    assert state(tmp_path) == before


@pytest.mark.parametrize("passwords", [False, True])
def test_a_device_more_leaves_the_others_as_they_are(tmp_path: Path, passwords: bool) -> None:
    provision(tmp_path / "fleet", wish("a", "b", passwords=passwords))
    before = state(tmp_path)
    assert provision(tmp_path / "fleet", Wish(devices=["c"])) == ["c"]
    after = state(tmp_path)
    changed = {name for name, content in before.items() if after[name] != content}
    lists = {"fleet/fleet.json", "fleet/broker/acl"} | ({"fleet/broker/passwords"} if passwords else set())
    assert ("fleet/broker/roles-passwords" in before) == passwords
    assert changed == lists
    for name in lists - {"fleet/fleet.json"}:
        assert set(before[name][1].splitlines()) < set(after[name][1].splitlines())
    kinds = (".json", ".password") if passwords else (".json", ".pem", ".key")
    assert after.keys() - before.keys() == {f"fleet/devices/c{kind}" for kind in kinds}


def test_a_run_more_has_devices_and_roles_of_its_own(tmp_path: Path) -> None:
    provision(tmp_path / "fleet", wish("a"))
    new = provision(tmp_path / "fleet", Wish(run="garden", devices=["g"]))
    assert sorted(new) == ["coordinator@garden", "g", "observer@garden", "operator@garden"]
    assert json.loads((tmp_path / "fleet" / "devices" / "g.json").read_text())["run"] == "garden"
    rights = (tmp_path / "fleet" / "broker" / "acl").read_text().split("\nuser g\n")[1]
    assert "tinyreptile/garden/device/g/status" in rights
    assert "kitchen" not in rights


def test_a_held_out_device_has_its_role_in_its_credentials(tmp_path: Path) -> None:
    provision(tmp_path / "fleet", wish("a"))
    assert provision(tmp_path / "fleet", Wish(devices=["e"], role="evaluate")) == ["e"]
    before = state(tmp_path)
    assert provision(tmp_path / "fleet", Wish(devices=["a", "e"])) == [], "it stays what it is"
    assert state(tmp_path) == before
    fleet = load(tmp_path / "fleet")
    assert (fleet.devices_of("kitchen", "train"), fleet.devices_of("kitchen", "evaluate")) == (["a"], ["e"])
    assert [fleet.credentials_of(name)["role"] for name in ("a", "e")] == ["train", "evaluate"]
    written = (tmp_path / "fleet" / "broker" / "acl").read_text().split("\nuser e\n")[1].split("\nuser ")[0]
    assert "topic write tinyreptile/kitchen/device/e/evaluation\n" in written
    assert "update" not in written


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o177, 0o777])
@pytest.mark.parametrize("passwords", [False, True])
def test_nobody_but_the_owner_reads_what_is_made(tmp_path: Path, mask: int, passwords: bool) -> None:
    before = os.umask(mask)
    try:
        provision(tmp_path / "fleet", wish("a", passwords=passwords, plugin="plugin.so"))
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "fleet", *tmp_path.glob("fleet/**/*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_an_interruption_anywhere_is_made_good_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.fsync
    left = 0

    def interrupted(number: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        write(number)

    monkeypatch.setattr(files.os, "fsync", interrupted)
    for after in range(100):
        folder = tmp_path / f"fleet-{after}"
        left = after
        try:
            provision(folder, wish("a", "b"))
        except KeyboardInterrupt:
            left = 1000
            provision(folder, wish("a", "b"))
            assert complete(folder, "a", "b")
        else:
            break
    assert after > 20  # so many files there are to be interrupted at


def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provision(tmp_path / "fleet", wish("a"))
    before = state(tmp_path)

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(DeploymentError, match=r"fleet\.json can't be written: No space left on device"):
        provision(tmp_path / "fleet", wish("a", "b"))
    assert state(tmp_path) == before


def test_certificates_are_for_one_name_one_purpose_and_the_days_that_were_asked_for(tmp_path: Path) -> None:
    provision(tmp_path / "fleet", wish("a", days=30))
    for name, authority, subject, purpose in (
        ("broker/server.pem", "ca", "broker.example", x509.ExtendedKeyUsageOID.SERVER_AUTH),
        ("devices/a.pem", "ca", "a", x509.ExtendedKeyUsageOID.CLIENT_AUTH),
        ("runs/kitchen/operator.pem", "roles", "operator@kitchen", x509.ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        made = load_certificate(tmp_path / "fleet" / name)
        made.verify_directly_issued_by(load_certificate(tmp_path / "fleet" / "broker" / f"{authority}.pem"))
        assert made.subject.rfc4514_string() == f"CN={subject}"
        assert list(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
        assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert abs(made.not_valid_after_utc - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=5)
    server = load_certificate(tmp_path / "fleet" / "broker" / "server.pem")
    hosts = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(host.value) for host in hosts] == ["broker.example", "192.0.2.7"]


def test_only_certificates_that_end_soon_are_renewed(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    provision(folder, wish("a", days=20))
    provision(folder, wish("b", days=200))
    serials = load(folder).description.devices["a"].serials
    assert provision(folder, Wish(renew=10)) == []
    before = state(folder)
    renewed = provision(folder, Wish(renew=30))
    assert sorted(renewed) == ["a", "coordinator@kitchen", "observer@kitchen", "operator@kitchen",
                               "the broker, broker.example"]  # fmt: skip
    assert state(folder)["devices/b.pem"] == before["devices/b.pem"]
    assert complete(folder, "a", "b")
    revoke(folder, ["a"])  # the old one as well as the new
    listed = x509.load_pem_x509_crl((folder / "broker" / "revoked.pem").read_bytes())
    assert {f"{entry.serial_number:x}" for entry in listed} > set(serials)
    assert len(listed) == 2


def test_passwords_are_kept_as_hashes_that_mosquitto_knows(tmp_path: Path) -> None:
    provision(tmp_path / "fleet", wish("a", passwords=True))
    lines = (tmp_path / "fleet" / "broker" / "passwords").read_text().splitlines()
    by_user = dict(line.split(":", 1) for line in lines)
    _, kind, rounds, salt, digest = by_user["a"].split("$")
    device = json.loads((tmp_path / "fleet" / "devices" / "a.json").read_text())
    assert kind == "7"
    assert len(device["password"]) == 32
    made = hashlib.pbkdf2_hmac("sha512", device["password"].encode(), b64decode(salt), int(rounds))
    assert made == b64decode(digest)


def test_a_password_that_was_lost_is_made_anew_wherever_it_stands(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    provision(folder, wish("a", "b", passwords=True))
    before = (folder / "broker" / "passwords").read_text().splitlines()
    (folder / "devices" / "a.password").unlink()
    assert provision(folder, Wish()) == ["a"]
    after = (folder / "broker" / "passwords").read_text().splitlines()
    password = (folder / "devices" / "a.password").read_text().strip()
    assert [line for line in after if line not in before] == [line for line in after if line.startswith("a:")]
    assert passwords.line("a", password, after[-2]) == after[-2] != before[-2]
    assert json.loads((folder / "devices" / "a.json").read_text())["password"] == password


def test_the_authority_s_key_is_needed_to_sign_and_for_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    provision(folder, wish("a", "b"))
    (folder / "authority").rename(tmp_path / "safe")
    before = state(folder)
    assert provision(folder, Wish(devices=["a"])) == []
    with pytest.raises(DeploymentError, match=r"ca\.key is not there: bring the authority's key back"):
        provision(folder, Wish(devices=["c"]))
    assert state(folder) == before
    with pytest.raises(DeploymentError, match=r"ca\.key is not there.*rights of a are gone.*same command puts them"):
        revoke(folder, ["a"])
    assert "user a\n" not in (folder / "broker" / "acl").read_text()  # the rights are gone all the same
    (tmp_path / "safe").rename(folder / "authority")
    revoke(folder, ["a"])
    assert len(x509.load_pem_x509_crl((folder / "broker" / "revoked.pem").read_bytes())) == 1
    provision(folder, Wish(devices=["c"]))
    assert complete(folder, "b", "c")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (Wish(hosts=["other.example"]), "--host: the fleet in .* was made with broker.example 192.0.2.7, and its"),
        (Wish(port=1), "--port: the fleet in .* was made with 8883"),
        (Wish(roles_port=1), "--roles-port: the fleet in .* was made with 8884"),
        (Wish(listen="all"), "--listen: the fleet in .* was made with broker.example"),
        (Wish(passwords=True), "--passwords: the fleet in .* was made without it"),
        (Wish(plugin=""), "--dynamic-security: the fleet in .* was made without it"),
        (Wish(broker_folder="/x"), "--broker-folder: the fleet in .* was made with /"),
        (Wish(run="garden", devices=["a"]), "a is a device of run kitchen, not garden; take another id"),
        (Wish(devices=["a"], role="evaluate"), "a has the role train, and its files may be in use; take another id"),
        (Wish(devices=["held"], role="train"), "held has the role evaluate, and its files may be in use"),
        (Wish(devices=["gone"]), "gone was revoked, and whoever has its key may still use it; take another id"),
        (Wish(devices=["coordinator@kitchen"]), "a device id is made of letters, digits, - and _"),
        (Wish(run="a/b"), "a run's name is made of letters, digits, - and _"),
        (Wish(devices=["b", "A"]), "A and a differ in case alone, which not every file system does; take another"),
        (Wish(devices=["b", "B"]), "B and b differ in case alone"),
        (Wish(devices=["Gone"]), "Gone and gone differ in case alone"),
        (Wish(run="Kitchen"), "Kitchen and kitchen differ in case alone"),
        (Wish(devices=["Con"]), "Con can't be the name of a file on Windows; take another"),
        (Wish(devices=["tinyreptile-7"]), "tinyreptile-7 can't be a device's id: client ids begin with tinyreptile;"),
        (Wish(run="com1"), "com1 can't be the name of a file on Windows; take another"),
    ],
)
def test_what_a_fleet_was_not_made_for_is_refused_and_changes_nothing(
    tmp_path: Path, change: Wish, sentence: str
) -> None:
    provision(tmp_path / "fleet", wish("a", "gone"))
    provision(tmp_path / "fleet", Wish(devices=["held"], role="evaluate"))
    revoke(tmp_path / "fleet", ["gone"])
    before = state(tmp_path)
    with pytest.raises((DeploymentError, MessageError), match=sentence):
        provision(tmp_path / "fleet", change)
    assert state(tmp_path) == before


@pytest.mark.parametrize(
    ("first", "sentence"),
    [
        (Wish(), "holds no fleet yet; name the broker for a new one with --host"),
        (Wish(hosts=["x.example"]), "name the run with --run"),
        (Wish(hosts=["two words"], run="kitchen"), "'two words' is no host name and no IP address"),
        (Wish(hosts=["mqtt://x"], run="kitchen"), "'mqtt://x' is no host name"),
        (Wish(hosts=["x"], run="kitchen", listen="a b"), "--listen: 'a b' is no host name and no IP address"),
        (Wish(hosts=["a" * 64 + ".example"], run="kitchen"), "is no host name and no IP address"),
        (Wish(hosts=["x"], run="kitchen", port=65535), "--roles-port: the devices' listener and the others' need a"),
        (Wish(hosts=["x"], run="kitchen", port=9, roles_port=9), "--roles-port: .* need a port each; name another"),
    ],
)
def test_a_fleet_that_can_not_be_made_leaves_no_folder(tmp_path: Path, first: Wish, sentence: str) -> None:
    with pytest.raises(DeploymentError, match=sentence):
        provision(tmp_path / "fleet", first)
    assert not (tmp_path / "fleet").exists()


DESCRIPTION = {"hosts": ["a"], "port": 8883, "roles_port": 8884, "broker_user": "u", "broker_folder": "/b"}


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", '{"hosts": []}', '{"hosts": ["a"], "ports": 1}', "[" * 100_000, '{"port": ' + "9" * 5000 + "}"),
        *(json.dumps(DESCRIPTION | part) for part in ({"runs": ["a\0"]}, {"devices": {"../a": {"run": "r"}}})),
        *(
            json.dumps(DESCRIPTION | {"revoked": {"a": account}})
            for account in ({"run": ""}, {"run": "r", "serials": ["x"]})
        ),
    ],
)
def test_a_damaged_description_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "fleet.json").write_text(content)
    with pytest.raises(DeploymentError, match=r"fleet\.json"):
        load(tmp_path)


def test_a_folder_of_an_earlier_form_is_told(tmp_path: Path) -> None:
    provision(tmp_path / "fleet", wish("a"))
    path = tmp_path / "fleet" / "fleet.json"
    path.write_text(
        json.dumps({key: value for key, value in json.loads(path.read_text()).items() if "port" not in key})
    )
    with pytest.raises(DeploymentError, match=r"fleet\.json is of an earlier form, .*; provision another folder"):
        provision(tmp_path / "fleet", wish("a", "b"))


def test_configurations_load_and_name_files_beside_them(tmp_path: Path) -> None:
    provision(tmp_path / "fleet", wish("a"))
    (tmp_path / "fleet" / "runs" / "kitchen").rename(tmp_path / "elsewhere")  # as it is copied to another machine
    for role in ("coordinator", "operator", "observer"):
        config = load_config(tmp_path / "elsewhere" / f"{role}.toml")
        assert (config.run.name, config.broker.host, config.broker.port) == ("kitchen", "broker.example", 8884)
        for path in (config.broker.tls_ca, config.broker.tls_cert, config.broker.tls_key):
            assert path is not None
            assert path.parent == tmp_path / "elsewhere"
            assert path.exists()


@pytest.mark.parametrize(
    ("listen", "address"),
    [(None, " broker.example"), ("all", ""), ("::1", " ::1")],
)
def test_the_broker_listens_everywhere_only_if_it_is_told_to(tmp_path: Path, listen: str | None, address: str) -> None:
    provision(tmp_path / "fleet", wish("a", listen=listen))
    made = (tmp_path / "fleet" / "broker" / "mosquitto.conf").read_text().splitlines()
    assert [at for at in made if at.startswith("listener")] == [f"listener 8883{address}", f"listener 8884{address}"]


def test_a_folder_with_other_things_is_asked_about_first(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    (folder / "letters").mkdir(parents=True)
    for name in ("photo.jpeg", "taxes.ods", "thesis.tex"):
        (folder / name).touch()
    before = sorted(folder.rglob("*"))
    command = ("provision", "home", "a", "--host", "localhost", "--run", "r")
    done = tinyreptile(*command, cwd=tmp_path)
    assert done.returncode == 1
    complaint = "the folder home holds other things: letters, photo.jpeg, taxes.ods and 1 more; name a folder of the"
    assert complaint in " ".join(done.stderr.split())
    assert sorted(folder.rglob("*")) == before
    assert tinyreptile(*command, "--yes", cwd=tmp_path).returncode == 0
    assert tinyreptile(*command, cwd=tmp_path).returncode == 0, "it is a fleet's now"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_users_folder_is_asked_about_first(tmp_path: Path) -> None:
    for folder in (tmp_path / "new", tmp_path / "fleet"):
        folder.mkdir()
    provision(tmp_path / "fleet", wish("a"))
    for folder in (tmp_path / "new", tmp_path / "fleet"):
        os.chown(folder, 65534, 65534)
        with pytest.raises(DeploymentError, match="belongs to the user nobody; name a folder of the fleet's own"):
            provision(folder, wish("a", "b"))
        provision(folder, wish("a", "b", anyway=True))


def test_the_command_says_what_it_made_and_no_secret(tmp_path: Path) -> None:
    done = tinyreptile("provision", "fleet", "a", "b", "--host", "localhost", "--run", "r", "--passwords", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fleet: 2 devices of r; credentials made for 6" in done.stdout
    secrets = [path.read_text().strip() for path in tmp_path.rglob("*.password")]
    assert len(secrets) == 5
    assert not [secret for secret in secrets if secret in done.stdout + done.stderr]
    again = tinyreptile("provision", "fleet", "--port", 1, cwd=tmp_path)
    assert again.stderr.startswith("error: --port: the fleet in fleet was made with 8883")
    assert again.returncode == 1


def test_a_description_lists_no_secret(tmp_path: Path) -> None:
    provision(tmp_path / "fleet", wish("a", passwords=True))
    text = (tmp_path / "fleet" / "fleet.json").read_text()
    assert not [path for path in tmp_path.rglob("*.password") if path.read_text().strip() in text]
