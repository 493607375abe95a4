"""What a broker does not offer and this system needs, found out with MQTT 5, under which it says so.

Under MQTT 3.1.1, which all clients speak, it drops messages or closes the connection, and gives no reason.
"""

from __future__ import annotations

import socket
from contextlib import closing

from tinyreptile import reports

from . import tls
from .config import BrokerConfig
from .errors import CoordinatorError

_PROBE_SECONDS = 3.0
_CLOSED_SECONDS = 0.5  # for a broker that takes no more clients to close a connection on which nothing has been sent
_NOBODYS_TOPIC = b"$SYS/tinyreptile"  # which only the broker may write: what is tried there reaches nobody
# Reason codes of MQTT 5.
_SUCCESS = 0
_TOO_LONG = {131: "implementation specific error", 149: "packet too large", 151: "quota exceeded"}
# Properties of MQTT 5: what may stand in a CONNACK, by the form of its value, and those that are of use here.
_SIZES = {36: 1, 37: 1, 40: 1, 41: 1, 42: 1, 19: 2, 33: 2, 34: 2, 17: 4, 39: 4}
_TEXTS = {18: 1, 21: 1, 22: 1, 26: 1, 28: 1, 31: 1, 38: 2}
_MAXIMUM_QOS, _RETAIN_AVAILABLE, _MAXIMUM_PACKET_SIZE, _WILDCARDS_AVAILABLE = 36, 37, 39, 40
_QOS_1 = 0x02


def _probe(broker: BrokerConfig, client_id: str, *, named: bool = True) -> tuple[dict[int, int], str] | None:
    """Connect with MQTT 5; returns (properties that the broker offers, how it refuses the longest message, if so).

    None: it does not let this client in. Raises `OSError`, `ValueError` or `IndexError` where it does not keep to MQTT
    5, `CoordinatorError`.
    """
    context = tls.context(broker)
    with socket.create_connection((broker.host, broker.port), _PROBE_SECONDS) as plain:
        wrapped = plain if context is None else context.wrap_socket(plain, server_hostname=broker.host)
        with closing(wrapped) as session:
            session.sendall(_connect(client_id, broker.user if named else None, broker.password() if named else None))
            kind, answer = _packet(session)
            if kind != 0x20 or answer[1] != _SUCCESS:
                return None
            offer = _properties(answer[2:])
            refusal = ""
            if _obstacle(offer) is None:
                topic = len(_NOBODYS_TOPIC).to_bytes(2) + _NOBODYS_TOPIC
                session.sendall(_framed(0x30 | _QOS_1, topic + b"\0\1\0" + bytes(reports.MESSAGE_BYTES)))
                kind, answer = _packet(session)
                refusal = _TOO_LONG.get(answer[2], "") if kind == 0x40 and len(answer) > 2 else ""
            session.sendall(b"\xe0\0")
            while session.recv(1024):  # until the broker has closed it: the client id is free then
                pass
            return offer, refusal


def _connect(client_id: str, user: str | None, password: str | None) -> bytes:
    """Return a request to connect, for a session that ends with its connection."""
    flags = 0x02 | (user is not None) << 7 | (password is not None) << 6
    texts = [text.encode() for text in (client_id, user, password) if text is not None]
    return _framed(
        0x10, b"\0\4MQTT\5" + bytes([flags]) + b"\0\x3c\0" + b"".join(len(text).to_bytes(2) + text for text in texts)
    )


def _framed(kind: int, body: bytes) -> bytes:
    """Return a packet."""
    size, length = b"", len(body)
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([kind]) + size + bytes([length]) + body


def _packet(session: socket.socket) -> tuple[int, bytes]:
    """Return (kind, body) of the next packet; raises `OSError` if none comes."""
    kind = _exactly(session, 1)[0]
    length = shift = 0
    while True:
        byte = _exactly(session, 1)[0]
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return kind, _exactly(session, min(length, reports.PACKET_BYTES))


def _exactly(session: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = session.recv(count - len(data))
        if not part:
            raise ConnectionError("closed")
        data += part
    return data


def _properties(data: bytes) -> dict[int, int]:
    """Return the numbers among the properties that ``data`` begins with, by identifier."""
    found = {}
    at, end = 1, 1 + data[0]
    if data[0] > 127:
        at, end = 2, 2 + (data[0] & 127 | data[1] << 7)
    while at < end:
        identifier = data[at]
        at += 1
        if identifier in _SIZES:
            found[identifier] = int.from_bytes(data[at : at + _SIZES[identifier]])
            at += _SIZES[identifier]
        else:
            for _ in range(_TEXTS[identifier]):
                at += 2 + int.from_bytes(data[at : at + 2])
    return found


def _obstacle(offer: dict[int, int]) -> str | None:
    """Return what is missing of what a broker has to ``offer``, in a sentence."""
    if offer.get(_RETAIN_AVAILABLE) == 0:
        return "it does not retain messages, which every run needs; let it (Mosquitto: retain_available true)"
    if offer.get(_MAXIMUM_QOS) == 0:
        return QOS_0_ONLY
    if offer.get(_WILDCARDS_AVAILABLE) == 0:
        return "it takes no subscriptions with wildcards, which every coordinator needs; let it"
    most = offer.get(_MAXIMUM_PACKET_SIZE, reports.PACKET_BYTES)
    if most < reports.PACKET_BYTES:
        return (
            f"it takes packets of {most} bytes at most; let it take {reports.PACKET_BYTES} "
            f"(Mosquitto: max_packet_size {reports.PACKET_BYTES})"
        )
    return None


QOS_0_ONLY = "it takes messages of QoS 0 only; let it take QoS 1 (Mosquitto: max_qos 1)"


def limit_of(broker: BrokerConfig, client_id: str, *, named: bool = True) -> str | None:
    """Return what the broker does not offer and its clients need, in a sentence; None if nothing is known of that.

    It is asked as ``client_id``, and as its user if that is to be ``named``.
    """
    try:
        found = _probe(broker, client_id, named=named)
    except (OSError, ValueError, LookupError, CoordinatorError):
        return None
    if found is None:
        return None
    offer, refusal = found
    if refusal:
        return (
            f"it refuses a message of {reports.MESSAGE_BYTES} bytes ({refusal}); let it take that "
            f"(Mosquitto: message_size_limit {reports.MESSAGE_BYTES})"
        )
    return _obstacle(offer)


def obstacle_of_a_closed_connection(broker: BrokerConfig) -> str:
    """Return why ``broker`` closes a connection without an answer, in a sentence, as other tries show it."""
    try:
        with socket.create_connection((broker.host, broker.port), _PROBE_SECONDS) as plain:
            plain.settimeout(_CLOSED_SECONDS)
            if not plain.recv(1):
                return (
                    "it closes every connection as soon as it is made: it has as many clients as it takes (Mosquitto: "
                    "max_connections, global_max_connections), or none may come from here"
                )
    except TimeoutError:
        pass
    except OSError as error:
        return f"it closes the connection ({error.strerror or error})"
    # The shortest request fits where one with names does not.
    return limit_of(broker, "", named=False) or (
        "it closes the connection without an answer: this request may be longer than it takes (Mosquitto: "
        f"max_packet_size {reports.PACKET_BYTES}), --client-id or --user may be none that it takes, or it speaks "
        + ("no TLS" if broker.tls_ca else "TLS only (--tls-ca)")
    )
