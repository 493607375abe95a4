"""MQTT as every program of the host speaks it: a client of the broker, its errors for the user, messages as bytes."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import socket
import time
from typing import Any

import aiomqtt
import msgpack
import paho.mqtt.client as paho
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from tinyreptile import reports
from tinyreptile.messages import MessageError
from tinyreptile.msgpack import MAX_DEPTH, unpackb

from . import tls
from .config import BrokerConfig
from .errors import BrokerError, CoordinatorError, DeniedError

_log = logging.getLogger(__name__)

SUBSCRIBE_SECONDS = 10.0
_PROBE_SECONDS = 3.0
_CALLS = 1000  # at once, of which aiomqtt warns beyond: in a siege each device's topics are subscribed to
_NOT_AUTHORIZED = 135
_REFUSED = 0x80  # of a subscription, and all codes above


def client(broker: BrokerConfig, **options: Any) -> aiomqtt.Client:
    """An aiomqtt client for ``broker``; raises `CoordinatorError` if its files can't be used."""
    identifier = _client_id(broker)
    _log.info("connecting to %s:%d with the client id %s", broker.host, broker.port, identifier)
    made = aiomqtt.Client(
        broker.host,
        broker.port,
        username=broker.user,
        password=broker.password(),
        identifier=identifier,
        keepalive=broker.keepalive,
        tls_context=tls.context(broker),
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],  # else delayed acknowledgements cost 40 ms each
        **options,
    )
    made.pending_calls_threshold = _CALLS
    return made


def _client_id(broker: BrokerConfig) -> str:
    """The client id that was configured, else a new one of 23 letters and digits, which every broker takes."""
    return broker.client_id or f"tinyreptile{secrets.token_hex(6)}"


async def subscribe(session: aiomqtt.Client, *topics: str) -> None:
    """Subscribe to ``topics`` at QoS 1; raises `DeniedError` where the broker refuses any of them.

    Others, Mosquitto's access list among them, grant every subscription and send nothing.
    """
    try:
        async with asyncio.timeout(SUBSCRIBE_SECONDS):  # aiomqtt's may swallow a cancellation under Python 3.11
            codes = await session.subscribe([(topic, 1) for topic in topics], timeout=math.inf)
    except TimeoutError:
        raise aiomqtt.MqttError("the broker does not answer a subscription") from None
    numbers = (code if isinstance(code, int) else code.value for code in codes)
    refused = [topic for topic, number in zip(topics, numbers, strict=True) if number >= _REFUSED]
    if refused:
        raise denied("read", *refused)


def denied(access: str, *topics: str) -> DeniedError:
    """Return the error for ``topics`` to which this client lacks ``access``: read, or write or read."""
    return DeniedError(f"the broker does not let this client {access} {', '.join(topics)}; check its rights there")


def check_files(broker: BrokerConfig) -> None:
    """Raise `CoordinatorError` if the files that ``broker`` names can't be used."""
    broker.password()
    tls.context(broker)


def broker_error(broker: BrokerConfig, error: BaseException) -> BrokerError:
    """``error`` of a first connection as a sentence for the user."""
    text = str(error)
    where = f"{broker.host}:{broker.port}"
    if isinstance(error, MqttConnectError):
        name = f"the client id {broker.client_id}" if broker.client_id else "client ids that are made up"
        advice = {
            133: f"it does not take {name}; give this client the one that it is to have with --client-id",
            136: "it is not available just now; try again later",
        }.get(error.rc.value if isinstance(error.rc, ReasonCode) else -1, "check --user and --password-file")
        if broker.client_id and isinstance(error.rc, ReasonCode) and error.rc.value == _NOT_AUTHORIZED:
            advice += f", and whether it takes {name}: a fleet's takes what begins with tinyreptile"
        return BrokerError(f"the broker at {where} refused the connection ({text}); {advice}")
    if (obstacle := tls.obstacle(broker) or limit_of(broker)) is not None:
        return BrokerError(f"no session with the broker at {where}: {obstacle}")
    or_tls = "" if broker.tls_ca else ", or its authority with --tls-ca if it speaks TLS"
    return BrokerError(
        f"no broker answers at {where} ({text}); start Mosquitto or name another with --broker HOST:PORT{or_tls}"
    )


def limit_of(broker: BrokerConfig) -> str | None:
    """What the broker does not offer and its clients need, in a sentence; None if nothing is known of that.

    Under MQTT 3.1.1 it only closes the connection. Under MQTT 5, which is tried for this, it says why.
    """
    session = paho.Client(CallbackAPIVersion.VERSION2, client_id=_client_id(broker), protocol=paho.MQTTv5)
    offered: list[dict[str, Any]] = []
    session.on_connect = lambda *arguments: offered.append(vars(arguments[4]) if arguments[3] == 0 else {})
    try:
        session.username_pw_set(broker.user, broker.password())
        if (context := tls.context(broker)) is not None:
            session.tls_set_context(context)
        session.connect(broker.host, broker.port)
        end = time.monotonic() + _PROBE_SECONDS
        while not offered and time.monotonic() < end and session.loop(0.1) == paho.MQTT_ERR_SUCCESS:
            pass
        session.disconnect()
    except (OSError, ValueError, CoordinatorError):
        return None
    properties = offered[0] if offered else {}
    if properties.get("RetainAvailable") == 0:
        return "it does not retain messages, which every run needs; let it (Mosquitto: retain_available true)"
    if properties.get("MaximumQoS") == 0:
        return "it takes messages of QoS 0 only; let it take QoS 1 (Mosquitto: max_qos 1)"
    most = properties.get("MaximumPacketSize", reports.PACKET_BYTES)
    if most < reports.PACKET_BYTES:
        return (
            f"it takes packets of {most} bytes at most; let it take {reports.PACKET_BYTES} "
            f"(Mosquitto: max_packet_size {reports.PACKET_BYTES})"
        )
    return None


def pack(message: dict[str, Any]) -> bytes:
    """``message`` as MessagePack."""
    data: bytes = msgpack.packb(message)
    return data


def unpack(payload: Any) -> Any:
    """The value in ``payload``; raises `MessageError` if it is too long, or not MessagePack as the protocol has it.

    Texts come without control characters, which a terminal would obey.
    """
    if not isinstance(payload, bytes | bytearray) or len(payload) > reports.MESSAGE_BYTES:
        raise MessageError(f"longer than {reports.MESSAGE_BYTES} bytes")
    try:
        return _printable(_read(payload), 0)
    except ValueError as error:
        raise MessageError(f"not MessagePack: {error}") from None


def _read(payload: bytes | bytearray) -> Any:
    """The value in ``payload`` as msgpack reads it, or where it is odd, as devices do, which takes more time.

    What these pass over for a newer peer's sake msgpack does not know: integer keys, timestamps of odd sizes.
    """
    try:
        return msgpack.unpackb(payload, object_pairs_hook=_distinct, ext_hook=lambda code, data: None)
    except (ValueError, TypeError, msgpack.UnpackException):  # TypeError: a list or a map as a key
        return unpackb(payload)


def _distinct(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """The map of ``pairs``; ValueError where a key is there twice: none of its values may pass unseen."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key is there twice")
    return made


def _printable(value: Any, depth: int) -> Any:
    """``value`` with a replacement character for every one in its texts that can't be printed, None for timestamps.

    Raises `MessageError` where it is nested too deeply, or has keys that are neither strings nor integers.
    """
    if depth > MAX_DEPTH:
        raise MessageError(f"more than {MAX_DEPTH} levels of nesting")
    if isinstance(value, str):
        return value if value.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in value)
    if isinstance(value, dict):
        if not all(isinstance(key, str | int) for key in value):
            raise MessageError("a map's key is a string or an integer")
        return {_printable(key, depth): _printable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item, depth + 1) for item in value]
    if isinstance(value, msgpack.Timestamp):
        return None
    return bytes(value) if isinstance(value, memoryview) else value
