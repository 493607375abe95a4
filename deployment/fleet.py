"""A fleet's folder: what was asked for it, whose accounts that makes, and where the files of each lie.

fleet.json      what was asked for; no secrets
authority/      the authorities' keys: needed to add or revoke certificates, else better kept elsewhere
broker/         all that the broker needs
runs/RUN/       all that coordinator, operator and observer of a run need
devices/        all that the devices need
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from coordinator.config import BrokerConfig, complaint
from coordinator.documents import parse_json
from tinyreptile.messages import check_id
from tinyreptile.settings import TLS_FILES

from .errors import DeploymentError
from .files import read, write_changed
from .roles import ADMINISTRATOR, DEVICE_ROLES, RUN_ROLES, Role, user_name

FILE = "fleet.json"
PARTS = ("authority", "broker", "runs", "devices")


Serial = Annotated[str, Field(pattern="^[0-9a-f]+$", description="in hexadecimal")]


class Account(BaseModel):
    """A device, or what is left of one: its run, and the serial numbers of all certificates that it was given."""

    model_config = ConfigDict(extra="forbid")
    run: str
    role: Literal["train", "evaluate"] = Field("train", description="evaluate: held out, it only evaluates")
    serials: list[Serial] = Field(default_factory=list)

    @field_validator("run")
    @classmethod
    def _legal_run(cls, value: str) -> str:
        check_id(value, "run")
        return value


class Description(BaseModel):
    """What was asked for a fleet: the content of its file."""

    model_config = ConfigDict(extra="forbid")
    hosts: list[str] = Field(min_length=1, description="names and addresses of the broker, the first for clients")
    port: int = Field(ge=1, le=65535, description="of the devices' listener")
    roles_port: int = Field(ge=1, le=65535, description="of the listener for everybody else")
    listen: str = Field("all", description="address that the broker listens on; all: every interface")
    passwords: bool = Field(False, description="accounts have passwords, not certificates")
    plugin: str | None = Field(None, description="path of the dynamic-security plugin, if it holds the rights")
    broker_user: str = Field(description="the system's user that Mosquitto runs as")
    broker_folder: str = Field(description="where the broker's files are on its machine")
    runs: list[str] = Field(default_factory=list)
    roles: dict[str, list[Serial]] = Field(
        default_factory=dict, description="by user: serial numbers of the certificates that are good"
    )
    revoked_roles: list[Serial] = Field(default_factory=list, description="serial numbers that are good no more")
    devices: dict[str, Account] = Field(default_factory=dict)
    revoked: dict[str, Account] = Field(default_factory=dict)

    @field_validator("runs", "devices", "revoked")
    @classmethod
    def _legal_ids(cls, value: Any) -> Any:
        for name in value:
            check_id(name, "id")
        return value


@dataclass(frozen=True)
class Member:
    """Who may connect: ``user`` with ``role`` in ``run``, and its files, which are ``stem`` with a suffix each."""

    user: str
    role: Role
    run: str
    stem: Path

    @property
    def is_device(self) -> bool:
        """Whether it is a device."""
        return self.role in DEVICE_ROLES.values()

    @property
    def certificate(self) -> Path:
        """Its certificate."""
        return self.stem.with_name(self.stem.name + ".pem")

    @property
    def key(self) -> Path:
        """The key of its certificate."""
        return self.stem.with_name(self.stem.name + ".key")

    @property
    def password(self) -> Path:
        """Its password."""
        return self.stem.with_name(self.stem.name + ".password")

    @property
    def configuration(self) -> Path:
        """What a command, or a board, is configured with."""
        return self.stem.with_name(self.stem.name + (".json" if self.is_device else ".toml"))


@dataclass(frozen=True)
class AuthorityFiles:
    """Where the certificate of the authority called ``name`` is, its key, and the list of what it has revoked."""

    name: str
    certificate: Path
    key: Path
    revocations: Path


class Fleet:
    """The fleet in ``folder`` as ``description`` wants it."""

    def __init__(self, folder: Path, description: Description) -> None:
        self.folder = folder
        self.description = description
        self.broker = folder / "broker"
        self.plugin_state = self.broker / "dynamic-security.json"  # the plugin's own from its first start on
        # Of the broker's certificate and of the devices'.
        self.authority = self._authority("ca", "revoked", "authority of")
        # Of the others' certificates: the listener without a limit of sessions trusts no device.
        self.roles_authority = self._authority("roles", "roles-revoked", "authority of the roles at")

    def _authority(self, stem: str, revoked: str, title: str) -> AuthorityFiles:
        return AuthorityFiles(
            f"{title} {self.description.hosts[0]}"[:64],
            self.broker / f"{stem}.pem",
            self.folder / "authority" / f"{stem}.key",
            self.broker / f"{revoked}.pem",
        )

    def authority_of(self, member: Member) -> AuthorityFiles:
        """Who signs the certificate of ``member``."""
        return self.authority if member.is_device else self.roles_authority

    def port_of(self, member: Member) -> int:
        """Where ``member`` reaches the broker."""
        return self.description.port if member.is_device else self.description.roles_port

    def members(self) -> Iterator[Member]:
        """Everybody who may connect."""
        wanted = self.description
        if wanted.plugin:
            yield Member(ADMINISTRATOR, "administrator", "", self.folder / "authority" / "administrator")
        for run in wanted.runs:
            for role in RUN_ROLES:
                yield Member(user_name(role, run), role, run, self.run_folder(run) / role)
        for name, account in wanted.devices.items():
            yield self.device_of(name, account)

    def device(self, name: str) -> Member:
        """The device ``name``; raises `DeploymentError` if there is none, or it was revoked."""
        account = self.description.devices.get(name)
        if account is None:
            why = "was revoked" if name in self.description.revoked else f"is no device of the fleet in {self.folder}"
            raise DeploymentError(f"{name} {why}; tinyreptile provision {self.folder} NEW-ID makes one")
        return self.device_of(name, account)

    def device_of(self, name: str, account: Account) -> Member:
        """The device ``name`` with its ``account``, even if that was revoked."""
        return Member(name, DEVICE_ROLES[account.role], account.run, self.folder / "devices" / name)

    def devices_of(self, run: str, role: str) -> list[str]:
        """The devices of ``run`` with ``role``, train or evaluate, in the order in which they were named."""
        devices = self.description.devices.items()
        return [name for name, account in devices if (account.run, account.role) == (run, role)]

    def run_folder(self, run: str) -> Path:
        """Where the files of coordinator, operator and observer are."""
        return self.folder / "runs" / run

    def observer(self, run: str | None) -> Path:
        """The observer's configuration for ``run``, or for the only one; raises `DeploymentError`."""
        run = run or self.only_run()
        if run not in self.description.runs:
            known = ", ".join(self.description.runs)
            raise DeploymentError(f"--run: the fleet in {self.folder} has the runs {known}; name one of them")
        return self.run_folder(run) / "observer.toml"

    def only_run(self) -> str | None:
        """The fleet's run, if it has one and no more."""
        return self.description.runs[0] if len(self.description.runs) == 1 else None

    def broker_of(self, name: str) -> BrokerConfig:
        """The broker as the device ``name`` reaches it, with its credentials; raises `DeploymentError`."""
        member = self.device(name)
        way: dict[str, Any] = {"tls_cert": member.certificate, "tls_key": member.key}
        if self.description.passwords:
            way = {"user": name, "password_file": member.password}
        host, port = self.description.hosts[0], self.description.port
        return BrokerConfig(host=host, port=port, tls_ca=member.stem.with_name("ca.pem"), **way)

    def credentials_of(self, name: str) -> dict[str, Any]:
        """What the configuration of the device ``name`` holds, with its files' paths; raises `DeploymentError`."""
        path = self.device(name).configuration
        try:
            given: dict[str, Any] = parse_json(read(path).decode())
        except ValueError:
            raise DeploymentError(f"{path} is damaged; delete it to have it made anew") from None
        return given | {key: str((path.parent / given[key]).resolve()) for key in TLS_FILES if key in given}

    def save(self) -> None:
        """Write the description."""
        write_changed(self.folder / FILE, self.description.model_dump_json(indent=1) + "\n")


def load(folder: Path) -> Fleet:
    """The fleet in ``folder``; raises `DeploymentError` if there is none, or a damaged one."""
    path = folder / FILE
    if not path.exists():
        raise DeploymentError(f"{folder} holds no fleet; make one with: tinyreptile provision {folder} --host HOST")
    try:
        given = parse_json(read(path).decode())
        if isinstance(given, dict) and "hosts" in given and "roles_port" not in given:
            raise DeploymentError(
                f"{path} is of an earlier form, with one listener for devices and all others; provision another folder"
            )
        return Fleet(folder, Description(**given))
    except ValidationError as error:
        raise DeploymentError(f"{path}: {complaint(error.errors()[0])}") from None
    except (ValueError, TypeError):
        raise DeploymentError(f"{path} is damaged; restore it from a backup of the folder") from None
