"""Making a fleet's folder, or adding to it: after an interruption the same call goes on, and what is there stays."""

from __future__ import annotations

import getpass
import ipaddress
import json
import os
import pwd
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinyreptile import messages

from . import broker
from .authority import Authority, ends_within, load_certificate, load_revocations, pem
from .errors import DeploymentError
from .files import make_folder, read, remove, write
from .fleet import FILE, PARTS, Account, AuthorityFiles, Description, Fleet, Member, load
from .passwords import new_password
from .roles import CLIENT_IDS, RUN_ROLES

DAYS = 1095
PORT = 8883
_LAST_PORT = 65535
_RESERVED = frozenset(["con", "prn", "aux", "nul", *(f"{kind}{n}" for kind in ("com", "lpt") for n in range(10))])


@dataclass
class Wish:
    """What is asked of `provision`; None and empty stand for "as it was", or the default."""

    hosts: list[str] = field(default_factory=list)
    port: int | None = None  # of the devices' listener
    roles_port: int | None = None  # of the others' listener; by default the next one
    listen: str | None = None
    passwords: bool = False
    plugin: str | None = None
    broker_user: str | None = None
    broker_folder: str | None = None
    run: str | None = None
    devices: list[str] = field(default_factory=list)
    role: str | None = None  # of the devices; new ones train by default
    days: int = DAYS
    renew: int | None = None  # days: certificates that end within so many are made anew
    anyway: bool = False  # also where the folder is somebody else's


def provision(folder: Path, wish: Wish, progress: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
    """Make or complete the fleet in ``folder``; returns the users whose credentials are new.

    ``progress`` is called with the members that are done and all there are. Raises `DeploymentError`, or the
    protocol's MessageError for an illegal name.
    """
    if not wish.anyway and (owner := whose(folder)):
        raise DeploymentError(f"{owner}; name a folder of the fleet's own, or add --yes")
    fleet = load(folder) if (folder / FILE).exists() else _new(folder, wish)
    _check_unchanged(fleet, wish)
    _add(fleet, wish)
    make_folder(folder)
    authorities = {files: _Lazy(files) for files in (fleet.authority, fleet.roles_authority)}
    for files in _must_sign(fleet, wish):
        authorities[files].get()  # before anything is changed: its key may be elsewhere
    _note_serials(fleet)
    fleet.save()
    new = _make_server(fleet, authorities[fleet.authority], wish)
    members = list(fleet.members())
    for done, member in enumerate(members):
        progress(done, len(members))
        if _make(fleet, authorities[fleet.authority_of(member)], member, wish):
            new.append(member.user)
    progress(len(members), len(members))
    _note_serials(fleet)
    fleet.save()
    broker.write_files(fleet)
    for authority in authorities.values():
        _write_revocations(fleet, authority)
    return new


def whose(folder: Path) -> str:
    """Return whose else ``folder`` is, in words: another user's, or of other things than a fleet; empty if it is not.

    A fleet that was not made to its end has no description yet, but none of its files is a stranger.
    """
    try:
        if (owner := folder.stat().st_uid) != os.geteuid():
            return f"the folder {folder} belongs to the user {_name_of(owner)}"
        if (folder / FILE).exists():
            return ""
        strangers = sorted(
            p.name for p in folder.iterdir() if p.name not in PARTS and not p.name.startswith(f".{FILE}")
        )
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise DeploymentError(f"{folder} can't be used: {error.strerror}") from None
    more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
    return f"the folder {folder} holds other things: {', '.join(strangers[:3])}{more}" if strangers else ""


def _name_of(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def revoke(folder: Path, names: list[str]) -> None:
    """Void the credentials of the devices and roles ``names``; doing so again completes what was interrupted.

    A device is out of the fleet for ever; a role, such as observer@kitchen, gets new credentials.
    Raises `DeploymentError`. Without the authority's key a device's rights go, and only then it is raised.
    """
    fleet = load(folder)
    wanted = fleet.description
    roles = {member.user: member for member in fleet.members() if member.role in RUN_ROLES}
    for name in names:
        if name not in (*wanted.devices, *wanted.revoked, *roles):
            if "@" not in name:
                messages.check_id(name, "a device id")
            raise DeploymentError(f"{folder} has no device or role {name}; its file {FILE} lists them")
    _note_serials(fleet)
    devices = []
    for name in names:
        if name not in roles:
            account = wanted.devices.pop(name, None) or wanted.revoked[name]
            devices.append(fleet.device_of(name, account))
            wanted.revoked[name] = account
    _renew_roles(fleet, [roles[name] for name in names if name in roles])
    fleet.save()
    broker.write_files(fleet)
    try:
        _write_revocations(fleet, _Lazy(fleet.authority))
    except DeploymentError as error:
        raise DeploymentError(
            f"{error}. The rights of {', '.join(names)} are gone from the broker's files, but their certificates are "
            f"not in {fleet.authority.revocations} yet; the same command puts them there"
        ) from None
    for member in devices:
        _remove_credentials(member)
        remove(member.configuration)


def _renew_roles(fleet: Fleet, members: list[Member]) -> None:
    """Revoke all credentials that ``members``, roles, were given, and make new ones."""
    if not members:
        return
    wanted = fleet.description
    authority = _Lazy(fleet.roles_authority)
    if not wanted.passwords:
        authority.get()  # before anything is changed: its key may be elsewhere
    for member in members:
        wanted.revoked_roles += wanted.roles.pop(member.user, [])
    fleet.save()
    for member in members:
        _remove_credentials(member)
        _make(fleet, authority, member, Wish())
    _note_serials(fleet)
    _write_revocations(fleet, authority)


def _remove_credentials(member: Member) -> None:
    for path in (member.certificate, member.key, member.password):
        remove(path)


class _Lazy:
    """An authority of the fleet, loaded when something has to be signed: its key may be kept elsewhere until then."""

    def __init__(self, files: AuthorityFiles) -> None:
        self.files = files
        self._authority: Authority | None = None

    def get(self) -> Authority:
        name, certificate, key = self.files.name, self.files.certificate, self.files.key
        if self._authority is None and certificate.exists():
            if not key.exists():
                raise DeploymentError(f"{key} is not there: bring the authority's key back to sign with it")
            self._authority = Authority.load(certificate, key)
        if self._authority is None:
            self._authority = Authority.create(name)
            make_folder(key.parent)
            make_folder(certificate.parent)
            write(key, self._authority.key_pem())
            write(certificate, pem(self._authority.certificate))
        return self._authority


def _new(folder: Path, wish: Wish) -> Fleet:
    if not wish.hosts:
        raise DeploymentError(f"{folder} holds no fleet yet; name the broker for a new one with --host")
    for host in wish.hosts:
        _check_host("--host", host)
    if wish.listen is not None:
        _check_host("--listen", wish.listen)
    if wish.plugin == "":
        wish.plugin = broker.find_plugin()
    port = wish.port or PORT
    roles_port = wish.roles_port or port + 1
    if roles_port == port or roles_port > _LAST_PORT:
        raise DeploymentError("--roles-port: the devices' listener and the others' need a port each; name another")
    made = Description(
        hosts=wish.hosts,
        port=port,
        roles_port=roles_port,
        listen=wish.listen or wish.hosts[0],
        passwords=wish.passwords,
        plugin=wish.plugin,
        broker_user=wish.broker_user or getpass.getuser(),
        broker_folder=wish.broker_folder or str((folder / "broker").resolve()),
    )
    return Fleet(folder, made)


def _check_unchanged(fleet: Fleet, wish: Wish) -> None:
    """A wish that the fleet was not made for is an error: its certificates and files are out in the field."""
    wanted = fleet.description
    for option, asked, have in (
        ("--host", wish.hosts, wanted.hosts),
        ("--port", wish.port, wanted.port),
        ("--roles-port", wish.roles_port, wanted.roles_port),
        ("--listen", wish.listen, wanted.listen),
        ("--passwords", wish.passwords, wanted.passwords),
        ("--broker-user", wish.broker_user, wanted.broker_user),
        ("--broker-folder", wish.broker_folder, wanted.broker_folder),
        ("--dynamic-security", wish.plugin is not None, wanted.plugin is not None),
        ("--plugin", wish.plugin, wanted.plugin),
    ):
        if asked and asked != have:
            was = " ".join(map(str, have)) if isinstance(have, list) else have
            raise DeploymentError(
                f"{option}: the fleet in {fleet.folder} was made {f'with {was}' if was else 'without it'}, "
                "and its files are in use; leave the option out, or make another folder"
            )


def _check_host(option: str, host: str) -> None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*", host):
            raise DeploymentError(f"{option}: {host!r} is no host name and no IP address") from None


def _add(fleet: Fleet, wish: Wish) -> None:
    """Take the run and the devices that are wished for into the description."""
    wanted = fleet.description
    run = wish.run or fleet.only_run()
    if run is None:
        if wish.devices or not wanted.runs:
            raise DeploymentError("name the run with --run")
        return
    messages.check_id(run, "a run's name")
    if run not in wanted.runs:
        _check_name(run, wanted.runs)
        wanted.runs.append(run)
    for name in wish.devices:
        messages.check_id(name, "a device id")
        if name in wanted.revoked:
            raise DeploymentError(f"{name} was revoked, and whoever has its key may still use it; take another id")
        if name not in wanted.devices:
            _check_name(name, [*wanted.devices, *wanted.revoked])
            if name.startswith(CLIENT_IDS):
                raise DeploymentError(
                    f"{name} can't be a device's id: client ids begin with {CLIENT_IDS}; take another"
                )
        role = wish.role or messages.TRAIN
        there = wanted.devices.setdefault(name, Account.model_validate({"run": run, "role": role}))
        if there.run != run:
            raise DeploymentError(f"{name} is a device of run {there.run}, not {run}; take another id")
        if wish.role not in (None, there.role):
            raise DeploymentError(f"{name} has the role {there.role}, and its files may be in use; take another id")


def _check_name(name: str, others: Iterable[str]) -> None:
    """Raise `DeploymentError` if files can't be called ``name`` everywhere beside those of ``others``."""
    if name.lower() in _RESERVED:
        raise DeploymentError(f"{name} can't be the name of a file on Windows; take another")
    for other in others:
        if other.lower() == name.lower():
            raise DeploymentError(
                f"{name} and {other} differ in case alone, which not every file system does; take another"
            )


def _must_sign(fleet: Fleet, wish: Wish) -> set[AuthorityFiles]:
    """Return the authorities whose keys are needed for what is missing."""
    members = () if fleet.description.passwords else fleet.members()
    needed = {fleet.authority_of(m) for m in members if _is_missing(m.certificate, m.key, wish)}
    needed |= {files for files in (fleet.authority, fleet.roles_authority) if not _revocations_stand(fleet, files)}
    if _is_missing(*_server(fleet), wish):
        needed.add(fleet.authority)
    return needed


def _server(fleet: Fleet) -> tuple[Path, Path]:
    """The broker's certificate and key."""
    return fleet.broker / "server.pem", fleet.broker / "server.key"


def _is_missing(certificate: Path, key: Path, wish: Wish) -> bool:
    return not (certificate.exists() and key.exists()) or _is_due(certificate, wish)


def _make_server(fleet: Fleet, authority: _Lazy, wish: Wish) -> list[str]:
    """The broker's certificate, if it is needed; returns its name then."""
    certificate, key = _server(fleet)
    if not _is_missing(certificate, key, wish):
        return []
    _issue(authority.get(), certificate, key, fleet.description.hosts[0], wish.days, fleet.description.hosts)
    return [f"the broker, {fleet.description.hosts[0]}"]


def _make(fleet: Fleet, authority: _Lazy, member: Member, wish: Wish) -> bool:
    """The credentials and the configuration of ``member``, where they are missing; returns whether any were."""
    wanted = fleet.description
    make_folder(member.stem.parent)
    ca = member.stem.with_name("ca.pem")
    if not ca.exists():
        write(ca, read(fleet.authority.certificate))
    new = False
    if wanted.passwords:
        if not member.password.exists():
            if member.is_device:
                remove(member.configuration)  # it holds the password
            write(member.password, new_password() + "\n")
            new = True
    elif _is_missing(member.certificate, member.key, wish):
        _issue(authority.get(), member.certificate, member.key, member.user, wish.days)
        new = True
    if not member.configuration.exists():
        write(member.configuration, _configuration(fleet, member))
        new = True
    return new


def _issue(authority: Authority, certificate: Path, key: Path, name: str, days: int, hosts: Iterable[str] = ()) -> None:
    made, private = authority.issue(name, days, hosts)
    remove(certificate)  # a certificate beside a key that is not its own would be taken for complete
    write(key, private)
    write(certificate, made)


def _is_due(certificate: Path, wish: Wish) -> bool:
    return wish.renew is not None and ends_within(load_certificate(certificate), wish.renew)


def _configuration(fleet: Fleet, member: Member) -> str:
    """What configures ``member``: a board's JSON, or a command's TOML; files are named as they lie beside it."""
    wanted = fleet.description
    way: dict[str, Any] = {"host": wanted.hosts[0], "port": fleet.port_of(member)}
    if member.is_device:
        if wanted.passwords:
            way |= {"user": member.user, "password": broker.password_of(member), "tls_ca": "ca.pem"}
        else:
            way |= {"tls_ca": "ca.pem", "tls_cert": member.certificate.name, "tls_key": member.key.name}
        role = wanted.devices[member.user].role
        return json.dumps({"id": member.user, "run": member.run, "role": role, **way}, indent=1) + "\n"
    if wanted.passwords:
        way |= {"user": member.user, "password_file": member.password.name, "tls_ca": "ca.pem"}
    else:
        way |= {"tls_ca": "ca.pem", "tls_cert": member.certificate.name, "tls_key": member.key.name}
    lines = [f'[run]\nname = "{member.run}"\n\n'] if member.run else []
    return "".join([*lines, "[broker]\n", *(f"{name} = {json.dumps(value)}\n" for name, value in way.items())])


def _note_serials(fleet: Fleet) -> None:
    """Take note of the certificates that members have: revoking one means all that it ever had."""
    wanted = fleet.description
    for name, account in (*wanted.devices.items(), *wanted.revoked.items()):
        _note_serial(fleet.device_of(name, account), account.serials)
    for member in fleet.members():
        if not member.is_device:
            _note_serial(member, wanted.roles.setdefault(member.user, []))


def _note_serial(member: Member, serials: list[str]) -> None:
    if member.certificate.exists():
        serial = f"{load_certificate(member.certificate).serial_number:x}"
        if serial not in serials:
            serials.append(serial)


def _revoked(fleet: Fleet, files: AuthorityFiles) -> set[int]:
    """The serial numbers of all certificates that are to be on the list of the authority ``files``."""
    serials = fleet.description.revoked_roles
    if files == fleet.authority:
        serials = [serial for account in fleet.description.revoked.values() for serial in account.serials]
    return {int(serial, 16) for serial in serials}


def _revocations_stand(fleet: Fleet, files: AuthorityFiles) -> bool:
    """Whether the list of revoked certificates of the authority ``files`` is what it should be."""
    if fleet.description.passwords:
        return True
    listed = load_revocations(files.revocations)
    return listed is not None and {entry.serial_number for entry in listed} == _revoked(fleet, files)


def _write_revocations(fleet: Fleet, authority: _Lazy) -> None:
    files = authority.files
    if not _revocations_stand(fleet, files):
        before = load_revocations(files.revocations)
        write(files.revocations, authority.get().revocation_list(sorted(_revoked(fleet, files)), before))
