"""The configuration of a coordinator: one TOML file, then the environment, then the command line, each checked.

An environment variable names its key in capitals after ``TINYREPTILE_``, with two underscores between table and key:
``TINYREPTILE_BROKER__HOST=broker.example``. Its value is read by the type of its key; an empty one is not set. One that
begins so and names none is a mistake, but for the few that are not of the configuration.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from tinyreptile import messages
from tinyreptile.model import Model
from tinyreptile.settings import check_text

from . import documents
from .documents import DocumentError
from .errors import ConfigError

_PREFIX = "TINYREPTILE_"
_MOST = 2**31 - 1  # of what is counted, as in messages
_SHOWN = 60  # characters of a value in a message
_OTHERS = {"DATA", "NUMBA", "BOARDS", "ENDURANCE", "LOSSES", "POWER_CUTS"}  # of data sets, devices here, and the tests
_FORM = f"a setting is written as {_PREFIX}RUN__NAME"
_FILES = {"broker": ("password_file", "tls_ca", "tls_cert", "tls_key"), "guards": ("administrator",)}  # by table


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        number = bool({int, float} & {kind, *get_args(kind)})
        if number and isinstance(value, bool | str):  # Python has 1 and 0 for booleans
            raise ValueError(f"must be a number, not {shown(value)}")
        if kind is bool and not isinstance(value, bool):
            raise ValueError(f"must be true or false, not {shown(value)}")
        if "\0" in (str(value) if isinstance(value, str | Path) else ""):
            raise ValueError("must not contain the character U+0000")
        return value


class RunConfig(_Table):
    """What is learned, and for how long."""

    name: str = Field("default", description="the run's name, a level of its MQTT topics")
    model: list[list[Any]] = Field(
        [["input", 1], ["dense", 32, "relu"], ["dense", 32, "relu"], ["dense", 1], ["squared_error"]],
        description="the network, as docs/protocol.md describes it",
    )
    weights: Literal["int16", "int8"] = Field("int16", description="format of the parameters on devices")
    rounds: int = Field(5000, ge=0, le=_MOST, description="accepted updates until the run ends; 0: it never ends")
    seed: int = Field(1, ge=0, description="of the first initialization")
    paused: bool = Field(False, description="hand out no work")
    store: str | None = Field(
        None, min_length=1, description="an SQLite file, or a postgresql:// URL; unset: NAME.sqlite in this folder"
    )

    @field_validator("store", mode="before")
    @classmethod
    def _path_or_url(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @field_validator("name")
    @classmethod
    def _legal_name(cls, value: str) -> str:
        messages.check_id(value, "a run's name")
        return value

    @field_validator("model")
    @classmethod
    def _legal_model(cls, value: list[list[Any]]) -> list[list[Any]]:
        Model(value)
        return value


MAX_CREDENTIAL = 16_383  # characters of a user's name or a password: at most 65,535 bytes, which MQTT has room for


class BrokerConfig(_Table):
    """The MQTT broker."""

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(1883, ge=1, le=65535)
    user: str | None = Field(None, max_length=MAX_CREDENTIAL, description="who this client is at the broker")
    password_file: Path | None = Field(None, description="a file whose first line is the password")
    tls_ca: Path | None = Field(None, description="PEM file of the authority that signed the broker's certificate")
    tls_cert: Path | None = Field(None, description="PEM file of the certificate that this client shows")
    tls_key: Path | None = Field(None, description="PEM file of that certificate's private key")
    keepalive: int = Field(30, ge=5, le=3600, description="seconds")
    client_id: str | None = Field(
        None, min_length=1, max_length=128, description="of this client alone; unset: another one for each connection"
    )

    @field_validator("host", "user", "client_id")
    @classmethod
    def _legal_text(cls, value: str | None) -> str | None:
        return value if value is None else check_text(value)

    @field_validator("host")
    @classmethod
    def _legal_host(cls, value: str) -> str:
        try:
            value.encode("idna")
        except UnicodeError:
            raise ValueError(f"no host can have the name {value!r}") from None
        return value

    def password(self) -> str | None:
        """The first line of `password_file`; raises `ConfigError` if it can't be read."""
        if self.password_file is None:
            return None
        try:
            with self.password_file.open(encoding="utf-8-sig") as file:
                password = file.read(MAX_CREDENTIAL + 1).splitlines()[0]
        except (OSError, UnicodeDecodeError, IndexError):
            raise ConfigError(
                f"broker.password_file: {self.password_file} can't be read; its first line must be the password"
            ) from None
        if len(password) > MAX_CREDENTIAL:
            raise ConfigError(
                f"broker.password_file: the first line of {self.password_file} has over {MAX_CREDENTIAL} characters"
            )
        return password


class LearningConfig(_Table):
    """The meta-update, and what a device does for it."""

    mode: Literal["serial", "asynchronous", "batch"] = "asynchronous"
    in_flight: int = Field(20, ge=1, le=1000, description="asynchronous: devices at work at once")
    batch: int = Field(10, ge=1, le=1000, description="batch: updates averaged into one version")
    steps: int = Field(32, ge=1, le=1_000_000, description="samples a device learns from for one update")
    beta: float = Field(0.005, gt=0, le=1, description="a device's learning rate")
    bits: Literal[16, 8, 4] = Field(8, description="bits of each number of a delta on the wire")
    top: float = Field(1.0, gt=0, le=1, description="share of a delta's numbers that is sent, the largest ones")
    encoding: Literal["int16", "int8"] = Field("int8", description="format of the initialization on the wire")
    alpha: float = Field(0.3, gt=0, le=1, description="weight of an update in the initialization, at first")
    alpha_end: float = Field(0.0, ge=0, le=1, description="and at the end of the run")
    schedule: Literal["constant", "linear", "cosine", "cooldown"] = Field("linear", description="how alpha gets there")
    staleness: Literal["constant", "hinge", "polynomial"] = Field(
        "polynomial", description="discount of an update that was learned from an old version (FedAsync)"
    )
    staleness_exponent: float = Field(0.5, ge=0, le=10, description="polynomial: (1 + tau)^-exponent")
    hinge_free: int = Field(10, ge=0, le=_MOST, description="hinge: tau without discount")
    hinge_slope: float = Field(0.25, ge=0, description="hinge: 1 / (1 + slope (tau - free))")
    deadline: float = Field(60.0, gt=0, le=1_000_000, description="seconds a device has for its work")
    publish_interval: float = Field(
        1.0, ge=0, le=3600, description="seconds between two versions that are published for whoever only reads"
    )

    @model_validator(mode="after")
    def _chained(self) -> LearningConfig:
        if self.alpha_end > self.alpha:
            raise ValueError(f"alpha_end ({self.alpha_end}) must not be above alpha ({self.alpha})")
        return self


class GuardsConfig(_Table):
    """What is done about devices that send nonsense, and about learning that gets worse."""

    rate: float = Field(50.0, ge=0, le=1_000_000, description="messages a second from one device; 0: no limit")
    burst: int = Field(2000, ge=1, le=1_000_000, description="messages from one device at once")
    devices: int = Field(10_000, ge=1, le=1_000_000, description="devices known at most, others are not heard")
    share: float = Field(4.0, ge=0, description="times an equal share of updates that a device makes at most; 0: any")
    clip: float = Field(4.0, ge=0, description="times the usual norm that a delta is scaled down to; 0: never")
    refuse: float = Field(100.0, ge=0, description="times the usual norm beyond which it is refused; 0: never")
    repeats: bool = Field(True, description="refuse a delta that its device has sent before")
    strikes: int = Field(10, ge=0, le=_MOST, description="refused messages until a device is quarantined; 0: never")
    reputation: bool = Field(False, description="devices that pull elsewhere than the others count less, or nothing")
    trusted: list[str] = Field([], description="ids of devices in the operator's own hands: they always count")
    administrator: Path | None = Field(
        None, description="TOML file of the administrator of the broker's plugin: who floods is deleted there"
    )
    combine: Literal["mean", "median", "trimmed"] = Field("mean", description="how a batch of deltas becomes one")
    buffer: int = Field(1, ge=1, le=1000, description="asynchronous: updates combined into one version")
    drift: float = Field(
        3.0, ge=0, description="three evaluations in a row so many times worse than is usual: alarm; 0: off"
    )
    on_drift: Literal["tell", "hold", "rollback"] = Field(
        "rollback", description="then tell, hold the run, or roll back to the best of them"
    )

    @field_validator("trusted")
    @classmethod
    def _legal_ids(cls, value: list[str]) -> list[str]:
        for device in value:
            messages.check_id(device, "a trusted device's id")
        return value

    @model_validator(mode="after")
    def _with_reputation(self) -> GuardsConfig:
        if self.trusted and not self.reputation:
            raise ValueError("trusted devices say something of the others where reputation is true")
        return self

    @model_validator(mode="after")
    def _in_order(self) -> GuardsConfig:
        if 0 < self.refuse < self.clip:
            raise ValueError(f"refuse, {self.refuse:g}, is less than clip, {self.clip:g}: nothing would be scaled down")
        return self


class PrivacyConfig(_Table):
    """What is asked of the updates of devices that train; docs/privacy.md says what it means."""

    noise: float = Field(0.0, ge=0, le=1e6, description="least noise, in units of the bound; 0: updates may be plain")
    clip: float = Field(0.0, ge=0, le=8, description="largest bound of a change, in units of weights; 0: any")


class JournalConfig(_Table):
    """What the store keeps of the past."""

    history: int = Field(1000, ge=0, le=_MOST, description="latest updates whose versions can be gone back to; 0: all")
    rows: int = Field(1_000_000, ge=0, le=_MOST, description="latest updates on record, without their deltas; 0: all")

    @model_validator(mode="after")
    def _on_record(self) -> JournalConfig:
        if self.rows and not 0 < self.history <= self.rows:
            raise ValueError(
                f"history, {self.history or 'all'}, must not be more than rows, {self.rows}: what can be gone back to "
                "is on record"
            )
        return self


class EvaluationConfig(_Table):
    """The regular evaluation on devices of the role "evaluate"."""

    every: int = Field(500, ge=0, le=_MOST, description="accepted updates between two evaluations; 0: only at the end")
    steps: int = Field(32, ge=1, le=1_000_000, description="one-sample SGD steps of the adaptation")
    shots: int = Field(10, ge=1, le=1_000_000, description="distinct support samples")
    queries: int = Field(50, ge=1, le=1_000_000, description="samples the loss is measured on")
    beta: float | None = Field(None, gt=0, le=1, description="learning rate of the adaptation; unset: learning.beta")
    best: bool = Field(True, description="end the run with the best version that was evaluated, else with the last")


class Config(_Table):
    """All of it."""

    run: RunConfig = RunConfig()
    broker: BrokerConfig = BrokerConfig()
    learning: LearningConfig = LearningConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    guards: GuardsConfig = GuardsConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    journal: JournalConfig = JournalConfig()

    @model_validator(mode="after")
    def _encodable(self) -> Config:
        if self.run.weights == "int8" and self.learning.encoding != "int8":
            raise ValueError('learning.encoding must be "int8" where run.weights is "int8"')
        return self

    @model_validator(mode="after")
    def _combinable(self) -> Config:
        mode, buffer, combine = self.learning.mode, self.guards.buffer, self.guards.combine
        if buffer > 1 and mode != "asynchronous":
            raise ValueError(
                f'guards.buffer goes with learning.mode "asynchronous", and the mode is "{mode}"'
                + (", where learning.batch says how many updates are combined" if mode == "batch" else "")
            )
        if combine != "mean" and {"serial": 1, "asynchronous": buffer, "batch": self.learning.batch}[mode] == 1:
            raise ValueError(
                f'guards.combine "{combine}" takes several updates: name their number with guards.buffer where '
                'learning.mode is "asynchronous", with learning.batch where it is "batch"'
            )
        return self

    def store_location(self) -> str:
        """Where the run is kept: the path of an SQLite file, or a URL."""
        return self.run.store or f"{self.run.name}.sqlite"


# What may change while a run is going on.
CHANGEABLE = ("run.rounds", "run.paused", "learning.", "evaluation.", "guards.")
_FIXED = ("learning.mode", "guards.administrator")


def changed(config: Config, values: dict[str, Any], asked: Iterable[str] = ()) -> Config:
    """``config`` with ``values`` by ``table.key`` in the place of its own.

    Raises `ConfigError` for what is not known, out of range, or can't change while a run is going on: of ``values``,
    and of what else is ``asked`` for.
    """
    tables = config.model_dump()
    for name in dict.fromkeys((*values, *asked)):
        if not name:
            raise ConfigError("the name of a setting is missing; they are written table.key, as learning.alpha")
        table, _, key = name.partition(".")
        if key not in tables.get(table, {}):
            raise ConfigError(f"unknown setting {name}; they are written table.key, as learning.alpha")
        if not name.startswith(CHANGEABLE) or name in _FIXED:
            raise ConfigError(f"{name} can't change while a run is going on")
        if name in values:
            tables[table][key] = values[name]
    return _validate("setting", tables)


def check_setting(name: str, value: Any) -> None:
    """Raise `ConfigError` if the key ``name``, table.key, can't change while a run is going on, or not be ``value``."""
    tables = Config().model_dump()
    table, _, key = name.partition(".")
    if key not in tables.get(table, {}) or not name.startswith(CHANGEABLE) or name in _FIXED:
        raise ConfigError(f"{name} is no setting that can change while a run is going on")
    try:
        Config(**{table: tables[table] | {key: value}})
    except ValidationError as error:  # what does not go with the values of other keys may go with those configured
        for item in error.errors():
            if item["loc"][:2] == (table, key):
                raise ConfigError(complaint(item)) from None


def setting(config: Config, name: str) -> Any:
    """The value of the key ``name``, table.key."""
    table, _, key = name.partition(".")
    return getattr(getattr(config, table), key)


def load_config(
    path: Path | None = None,
    overrides: dict[str, dict[str, Any]] | None = None,
    defaults: dict[str, dict[str, Any]] | None = None,
) -> Config:
    """The configuration from ``defaults``, ``path`` (TOML), the environment and ``overrides``: the later one wins.

    Raises `ConfigError` with one sentence for each mistake.
    """
    merged: dict[str, Any] = {}
    sources = [
        ("defaults", defaults or {}),
        (str(path), _read(path) if path is not None else {}),
        ("environment", _environment()),
        ("command line", overrides or {}),
    ]
    problem: ConfigError | None = None
    for name, source in sources:
        for table, values in source.items():
            if isinstance(values, dict) and isinstance(merged.get(table, {}), dict):
                merged[table] = merged.get(table, {}) | values
            else:
                merged[table] = values
        try:
            config = _validate(name, merged)
        except ConfigError as error:  # a later source may put it right
            problem = problem or error
        else:
            problem = None
    if problem:
        raise problem
    return config


def broker_in(path: Path) -> BrokerConfig:
    """Return the broker in the TOML file ``path``, whatever the environment names for others; raises `ConfigError`."""
    return _validate(str(path), _read(path)).broker


def _read(path: Path) -> dict[str, Any]:
    """The tables of the TOML file ``path``."""
    try:
        tables: dict[str, Any] = documents.read(path, documents.parse_toml)
    except OSError as error:
        raise ConfigError(f"configuration file {path}: {error.strerror or error}") from None
    except DocumentError as error:
        raise ConfigError(f"configuration file {path} is not valid TOML: {error}") from None
    _locate(tables, path.parent)
    return tables


def _locate(tables: dict[str, Any], folder: Path) -> None:
    """Have the credentials that a file's ``tables`` name lie in its ``folder``: they are moved about together."""
    for name, keys in _FILES.items():
        table = tables.get(name)
        if isinstance(table, dict):
            table |= {key: folder / table[key] for key in keys if isinstance(table.get(key), str)}


def _environment() -> dict[str, dict[str, Any]]:
    """What the environment sets, as tables."""
    tables: dict[str, dict[str, Any]] = {}
    for name, text in os.environ.items():
        if not name.startswith(_PREFIX) or name.removeprefix(_PREFIX) in _OTHERS or not text:
            continue
        table, _, key = name.removeprefix(_PREFIX).lower().partition("__")
        if table not in Config.model_fields:
            known = ", ".join(Config.model_fields)
            raise ConfigError(f"environment: {name} names no table; {_FORM}, and tables are {known}")
        keys: Any = Config.model_fields[table].annotation
        if key not in keys.model_fields:
            known = ", ".join(keys.model_fields)
            raise ConfigError(f"environment: {name} names no key of {table}; {_FORM}, and keys here are {known}")
        tables.setdefault(table, {})[key] = value_of(f"{table}.{key}", text, f"environment: {table}.{key}: {name}")
    return tables


def value_of(name: str, text: str, given: str) -> Any:
    """``text`` as the value of the key ``name``, table.key: itself where a text is wanted, else read as in the file.

    A text may be in quotation marks as in the file, too. Raises `ConfigError`, which begins with what has ``given`` the
    value, for one of another kind. A key that is not known is refused later.
    """
    table, _, key = name.partition(".")
    holder: Any = Config.model_fields[table].annotation if table in Config.model_fields else _Table
    field = holder.model_fields.get(key)
    try:
        value = documents.parse_value(text)
    except DocumentError:
        value = None
    if field is None:
        return text
    if _is_text(field.annotation):
        return value if isinstance(value, str) else text
    wanted, kinds = _kind(field.annotation)
    if value is None and _DIGITS.fullmatch(text):
        raise ConfigError(f"{given} has too many digits: {shown(text)}")
    if type(value) not in kinds:
        raise ConfigError(f"{given} must be {wanted}, not {shown(text)}")
    return value


_DIGITS = re.compile(r"[+-]?[1-9][0-9]{1000,}")  # more than Python reads, or than anything here may have
_KINDS: dict[type, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    list: ("a list in brackets", (list,)),
}


def _kind(annotation: Any) -> tuple[str, tuple[type, ...]]:
    """What values of a field with that ``annotation`` are, in words, and their types as TOML has them."""
    parts = {annotation, get_origin(annotation), *get_args(annotation), *map(type, get_args(annotation))}
    return next(kind for type_, kind in _KINDS.items() if type_ in parts)


def _is_text(kind: Any) -> bool:
    """Whether values of the type ``kind`` are texts, or paths."""
    if get_origin(kind) is list:
        return False
    return kind in (str, Path) or any(isinstance(arg, str) or _is_text(arg) for arg in get_args(kind))


def _validate(source: str, values: dict[str, Any]) -> Config:
    try:
        return Config(**values)
    except ValidationError as error:
        raise ConfigError("\n".join(_sentence(source, item) for item in error.errors())) from None


def _sentence(source: str, item: Any) -> str:
    """One pydantic complaint in words of ours: source, key, what is wrong, what is allowed."""
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        table: Any = Config
        for part in item["loc"][:-1]:
            table = table.model_fields[part].annotation
        return f"{source}: unknown key {key}; known here are {', '.join(table.model_fields)}"
    if item["type"] == "model_type":
        return f"{source}: {key} is a table, written [{key}], not {shown(item['input'])}"
    return f"{source}: {complaint(item)}"


def complaint(item: Any) -> str:
    """One of pydantic's complaints as key, what is wrong and what is allowed."""
    key = ".".join(str(part) for part in item["loc"])
    text = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    given = (
        ""
        if isinstance(item["input"], dict | list) or item["type"] == "value_error"
        else f", not {shown(item['input'])}"
    )
    return ": ".join(part for part in (key, text + given) if part)


def shown(value: Any) -> str:
    """``value`` as a message shows it, cut where it is long."""
    try:
        text = str(value).lower() if isinstance(value, bool) else repr(value)
    except (ValueError, RecursionError):
        return "a value that is too long to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
