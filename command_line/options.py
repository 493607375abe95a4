"""The options that the subcommands share, and the configuration that they make."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.config import Config, load_config
from coordinator.errors import ConfigError
from tinyreptile.messages import check_id
from tinyreptile.settings import check_client_id

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file; see docs/configuration.md.", show_default=False)
]
BrokerOption = Annotated[
    str | None,
    typer.Option(
        "--broker", metavar="HOST[:PORT]", help="The MQTT broker \\[default: 127.0.0.1:1883].", show_default=False
    ),
]
RunOption = Annotated[
    str | None, typer.Option("--run", metavar="NAME", help="The run's name \\[default: default].", show_default=False)
]
UserOption = Annotated[str | None, typer.Option("--user", help="User name at the broker.", show_default=False)]
PasswordOption = Annotated[
    Path | None, typer.Option("--password-file", help="File whose first line is the password.", show_default=False)
]
TlsOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca", help="PEM file of the authority of the broker's certificate; turns TLS on.", show_default=False
    ),
]
CertificateOption = Annotated[
    Path | None,
    typer.Option("--tls-cert", help="PEM file of the certificate that this client shows.", show_default=False),
]
KeyOption = Annotated[
    Path | None, typer.Option("--tls-key", help="PEM file of that certificate's private key.", show_default=False)
]
ClientIdOption = Annotated[
    str | None,
    typer.Option(
        "--client-id",
        metavar="ID",
        help="This client's MQTT id \\[default: made up].",
        show_default=False,
    ),
]
DeviceClientIdOption = Annotated[
    str,
    typer.Option(
        "--device-client-id",
        metavar="TEMPLATE",
        help="MQTT ids of the devices, with {id} for each one's own and {random} for a random word.",
    ),
]
PortOption = Annotated[
    str | None,
    typer.Option(
        "--port", help="Serial port of the board \\[default: the one that is plugged in].", show_default=False
    ),
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=1, help="Seconds that the board may take for a command.")
]
CredentialsOption = Annotated[
    Path | None,
    typer.Option(
        "--credentials", metavar="FOLDER", help="Fleet's folder, of tinyreptile provision.", show_default=False
    ),
]


def check_ids(ids: list[str] | str | None) -> list[str] | str | None:
    """Return ``ids``, one or several of devices; raises `MessageError` for what is none, before anything is asked."""
    for device_id in [ids] if isinstance(ids, str) else ids or []:
        check_id(device_id, "a device id")
    return ids


DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder of data sets.", envvar="TINYREPTILE_DATA", show_default=False)
]
TASK_HELP = "What is learned: sine, presence, omniglot, keywords, or a class of yours as package.module.Class."
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Say more about what happens.")]


@dataclass(frozen=True)
class Connection:
    """The options by which a command finds a run, as they were given."""

    config: Path | None = None
    broker: str | None = None
    run: str | None = None
    user: str | None = None
    password_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    client_id: str | None = None

    def settings(
        self,
        *,
        defaults: dict[str, dict[str, Any]] | None = None,
        tables: dict[str, dict[str, Any]] | None = None,
    ) -> Config:
        """The command's configuration: ``defaults``, the file, the environment, then the options that were given.

        ``tables`` are further values by table; None values are options that were not given. Raises `ConfigError`.
        """
        host, port = (None, None) if self.broker is None else split_address(self.broker)
        account = {"user": self.user, "password_file": self.password_file, "client_id": self.client_id}
        files = {"tls_ca": self.tls_ca, "tls_cert": self.tls_cert, "tls_key": self.tls_key}
        given: dict[str, dict[str, Any]] = {
            "run": {"name": self.run},
            "broker": {"host": host, "port": port, **account, **files},
        }
        for table, values in (tables or {}).items():
            given[table] = given.get(table, {}) | values
        overrides = {t: {k: v for k, v in values.items() if v is not None} for t, values in given.items()}
        config = load_config(self.config, {table: values for table, values in overrides.items() if values}, defaults)
        if config.broker.password_file and not config.broker.user:
            raise ConfigError("a password goes with a user: name the one of --password-file with --user")
        return config


def device_client_id(template: str) -> str:
    """Return ``template`` if it gives every device a client id of its own; raises `ConfigError`."""
    if "{id}" not in template:
        raise ConfigError(
            f"--device-client-id: {template} would be the client id of all devices, and a broker keeps one session of "
            "each; write {id} where each has its own"
        )
    try:
        check_client_id(template)
    except ValueError as error:
        raise ConfigError(f"--device-client-id: {error}") from None
    return template


def metrics_address(text: str) -> tuple[str, int]:
    """(host, port) of ``PORT``, which is one of 127.0.0.1, or ``HOST:PORT``; raises `ConfigError`."""
    host, port = split_address(f"127.0.0.1:{text}" if text.isdecimal() else text, "--metrics", "PORT")
    if port is None:
        raise ConfigError(f"--metrics: {text!r} names no port; write PORT or HOST:PORT")
    return host, port


def split_address(text: str, option: str = "--broker", short: str = "HOST") -> tuple[str, int | None]:
    """(host, port or None) of ``HOST``, ``HOST:PORT``, ``[IPV6]`` or ``[IPV6]:PORT``; raises `ConfigError`.

    ``option`` is whose value it is, ``short`` how else than as HOST:PORT that may be written.
    """
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
    else:
        host, colon, port = text.partition(":")
    if not host or (colon and not (port.isdigit() and 1 <= int(port) <= 65535)):
        raise ConfigError(f"{option}: {text!r} is not {short} or HOST:PORT, with a port from 1 to 65535")
    return host, int(port) if colon else None


_CONNECTION: dict[str, Any] = {
    "config": ConfigOption,
    "broker": BrokerOption,
    "run": RunOption,
    "user": UserOption,
    "password_file": PasswordOption,
    "tls_ca": TlsOption,
    "tls_cert": CertificateOption,
    "tls_key": KeyOption,
    "client_id": ClientIdOption,
}


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with the options of a `Connection` in the place of its parameter ``connection``.

    One that it declares itself, as a list say, is its own affair.
    """
    signature = inspect.signature(command, eval_str=True)
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in _CONNECTION.items()
        if name not in signature.parameters
    ]
    parameters = [*(p for name, p in signature.parameters.items() if name != "connection"), *options]

    def with_options(**given: Any) -> None:
        command(connection=Connection(**{option.name: given.pop(option.name) for option in options}), **given)

    with_options.__doc__, with_options.__name__ = command.__doc__, command.__name__
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options
