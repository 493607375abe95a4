"""MQTT as every program of the host speaks it: a client of the broker, its errors for the user, messages as bytes."""

from __future__ import annotations

import socket
from typing import Any

import aiomqtt
import msgpack
from aiomqtt.exceptions import MqttConnectError

from tinyreptile import messages
from tinyreptile.messages import MessageError

from . import tls
from .config import BrokerConfig
from .errors import BrokerError


def client(broker: BrokerConfig, **options: Any) -> aiomqtt.Client:
    """An aiomqtt client for ``broker``; raises `CoordinatorError` if its files can't be used."""
    return aiomqtt.Client(
        broker.host,
        broker.port,
        username=broker.user,
        password=broker.password(),
        keepalive=broker.keepalive,
        tls_context=tls.context(broker),
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],  # else delayed acknowledgements cost 40 ms each
        **options,
    )


def check_files(broker: BrokerConfig) -> None:
    """Raise `CoordinatorError` if the files that ``broker`` names can't be used."""
    broker.password()
    tls.context(broker)


def broker_error(broker: BrokerConfig, error: BaseException) -> BrokerError:
    """``error`` of a first connection as a sentence for the user."""
    text = str(error)
    where = f"{broker.host}:{broker.port}"
    if isinstance(error, MqttConnectError):
        return BrokerError(f"the broker at {where} refused the connection ({text}); check --user and --password-file")
    if (obstacle := tls.obstacle(broker)) is not None:
        return BrokerError(f"no session with the broker at {where}: {obstacle}")
    or_tls = "" if broker.tls_ca else ", or its authority with --tls-ca if it speaks TLS"
    return BrokerError(
        f"no broker answers at {where} ({text}); start Mosquitto or name another with --broker HOST:PORT{or_tls}"
    )


def pack(message: dict[str, Any]) -> bytes:
    """``message`` as MessagePack."""
    data: bytes = msgpack.packb(message)
    return data


def unpack(payload: Any) -> Any:
    """The value in ``payload``; raises `MessageError` if it is too long or not MessagePack.

    Texts come without control characters, which a terminal would obey.
    """
    if not isinstance(payload, bytes | bytearray) or len(payload) > messages.MESSAGE_BYTES:
        raise MessageError(f"longer than {messages.MESSAGE_BYTES} bytes")
    try:
        return _printable(msgpack.unpackb(payload))
    except (ValueError, msgpack.UnpackException) as error:
        raise MessageError(f"not MessagePack: {error or type(error).__name__}") from None


def _printable(value: Any) -> Any:
    """``value`` with a replacement character for every one in its texts that can't be printed."""
    if isinstance(value, str):
        return value if value.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in value)
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return value
