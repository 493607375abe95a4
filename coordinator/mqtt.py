"""MQTT as every program of the host speaks it: a client of the broker, its errors for the user, messages as bytes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any, TypeVar

import aiomqtt
import msgpack
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.reasoncodes import ReasonCode

from tinyreptile import reports
from tinyreptile.messages import MessageError
from tinyreptile.msgpack import MAX_DEPTH, unpackb

from . import limits, tls
from .config import BrokerConfig
from .errors import BrokerError, DeniedError

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

SUBSCRIBE_SECONDS = 10.0
_CALLS = 1000  # at once, of which aiomqtt warns beyond: in a siege each device's topics are subscribed to
_TOLD_SECONDS = 2.0  # of waiting for a broker, until that is said
_PROTOCOL_ERROR = 0x82  # a reason code
_REFUSED = 0x80  # of a subscription, and all codes above

_known: set[tuple[str, int]] = set()  # brokers that offer all that is needed, as this process has found out
_told: set[tuple[str, int]] = set()  # brokers whose answer is waited for, as has been said


class ClosedError(aiomqtt.MqttError):
    """The broker has closed the connection without an answer."""

    def __init__(self) -> None:
        super().__init__("the connection was closed without an answer")


class ForeignError(aiomqtt.MqttError):
    """What answers is no MQTT 3.1.1; this client has closed the connection."""

    def __init__(self) -> None:
        super().__init__("what answers is no MQTT 3.1.1")


class SilentError(aiomqtt.MqttError):
    """Nothing has come for too long."""


class _Client(aiomqtt.Client):
    """aiomqtt's, which leaves nothing behind of a connection that was lost, and notices one that ends early."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._connected.add_done_callback(_retrieve)
        self._disconnected.add_done_callback(_retrieve)

    async def __aenter__(self) -> _Client:
        with _telling(self._hostname, self._port):
            await super().__aenter__()
        if not self._client.is_connected():  # closed since; aiomqtt has forgotten that
            self._disconnected.set_result(None)
            await self.__aexit__(None, None, None)
            raise ClosedError
        _told.discard((self._hostname, self._port))
        return self

    def _on_disconnect(self, *arguments: Any, **options: Any) -> None:
        """As aiomqtt's, which waits on for an answer to its request where the connection is gone before."""
        self._loop.call_soon_threadsafe(self._mind_end, arguments, options)

    def _mind_end(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        if not self._connected.done():
            reason = arguments[3]
            garbled = isinstance(reason, ReasonCode) and reason.value == _PROTOCOL_ERROR
            self._connected.set_exception(ForeignError() if garbled else ClosedError())
        else:
            super()._on_disconnect(*arguments, **options)

    async def _wait_for(self, fut: Awaitable[_T], timeout: float | None) -> _T:  # noqa: ASYNC109 - it is aiomqtt's
        """As aiomqtt's, whose `asyncio.wait_for` may swallow a cancellation under Python 3.11."""
        seconds = self.timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(None if seconds == math.inf else seconds):
                return await fut
        except TimeoutError:
            raise SilentError("Operation timed out") from None

    async def _misc_loop(self) -> None:
        with contextlib.suppress(OSError):  # the connection is lost, which its reader tells
            await super()._misc_loop()


def _retrieve(future: asyncio.Future[None]) -> None:
    """Take note of the error in ``future``: nobody waits for it where a session ends for another reason."""
    if not future.cancelled():
        future.exception()


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Pass over callbacks for the socket of a connection that was lost, which its session tells; tell all else."""
    error = context.get("exception")
    if not (isinstance(error, OSError) and error.errno == errno.EBADF):
        loop.default_exception_handler(context)


@contextlib.contextmanager
def _telling(host: str, port: int) -> Iterator[None]:
    """Have it said what is waited for if it takes long: once, until a connection comes about."""

    def tell() -> None:
        if (host, port) not in _told:
            _told.add((host, port))
            _log.warning("waiting for an answer from %s:%d", host, port)

    timer = asyncio.get_running_loop().call_later(_TOLD_SECONDS, tell)
    try:
        yield
    finally:
        timer.cancel()


def client(broker: BrokerConfig, **options: Any) -> aiomqtt.Client:
    """An aiomqtt client for ``broker``; raises `CoordinatorError` if its files can't be used."""
    asyncio.get_running_loop().set_exception_handler(_tell)
    identifier = _client_id(broker)
    _log.info("connecting to %s:%d with the client id %s", broker.host, broker.port, identifier)
    made = _Client(
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

    Raises `BrokerError` where it grants QoS 0 only.

    Others, Mosquitto's access list among them, grant every subscription and send nothing.
    """
    try:
        async with asyncio.timeout(SUBSCRIBE_SECONDS):
            codes = await session.subscribe([(topic, 1) for topic in topics], timeout=math.inf)
    except TimeoutError:
        raise SilentError("the broker does not answer a subscription") from None
    numbers = [code if isinstance(code, int) else code.value for code in codes]
    if 0 in numbers:  # QoS 1 was asked for
        raise BrokerError(f"the broker can't be used: {limits.QOS_0_ONLY}")
    refused = [topic for topic, number in zip(topics, numbers, strict=True) if number >= _REFUSED]
    if refused:
        raise denied("read", *refused)


def denied(access: str, *topics: str) -> DeniedError:
    """Return the error for ``topics`` to which this client lacks ``access``."""
    return DeniedError(f"the broker does not let this client {access} {', '.join(topics)}; check its rights there")


def not_echoed(topic: str) -> DeniedError:
    """Return the error for a message of this client on ``topic`` that does not come back to it."""
    return DeniedError(
        f"the broker does not let this client write or read {topic}, or drops what is queued for it; check its rights "
        "there and max_queued_messages"
    )


def check_files(broker: BrokerConfig) -> None:
    """Raise `CoordinatorError` if the files that ``broker`` names can't be used."""
    broker.password()
    tls.context(broker)


@contextlib.asynccontextmanager
async def session_with(broker: BrokerConfig) -> AsyncIterator[aiomqtt.Client]:
    """Open a session with ``broker`` for a command; raises `BrokerError` where it does not come about, or ends.

    So it does where the broker does not offer what the messages of a run need.
    """
    await check_limits(broker)
    opened = False
    try:
        async with client(broker) as session:
            opened = True
            yield session
    except aiomqtt.MqttError as error:
        if opened and isinstance(error, SilentError):
            raise _no_session(broker, f"it lets this client in, and is silent then ({error})") from None
        raise await asyncio.to_thread(broker_error, broker, error) from None


async def check_limits(broker: BrokerConfig) -> None:
    """Raise `BrokerError` if ``broker`` is known not to offer what the messages of a run need."""
    if (broker.host, broker.port) not in _known:
        with _telling(broker.host, broker.port):
            limit = await asyncio.to_thread(limit_of, broker)
        if limit:
            raise _no_session(broker, limit)
        _known.add((broker.host, broker.port))


def limit_of(broker: BrokerConfig) -> str | None:
    """Return what ``broker`` does not offer and its clients need, in a sentence; None if nothing is known of that."""
    return limits.limit_of(broker, _client_id(broker))


def broker_error(broker: BrokerConfig, error: BaseException) -> BrokerError:
    """``error`` of a first connection as a sentence for the user; it takes seconds, in which the broker is tried."""
    text = str(error)
    where = f"{broker.host}:{broker.port}"
    _known.discard((broker.host, broker.port))
    if isinstance(error, ForeignError):
        return _no_session(broker, f"{text}; name the port of a broker that speaks it")
    obstacle = tls.obstacle(broker)
    if obstacle is None and not isinstance(error, SilentError):  # which would be silent again
        obstacle = limit_of(broker)
    if obstacle is not None:
        return _no_session(broker, obstacle)
    if isinstance(error, MqttConnectError):
        name = f"the client id {broker.client_id}" if broker.client_id else "client ids that are made up"
        advice = {
            133: f"it does not take {name}; give this client the one that it is to have with --client-id",
            136: "it is not available just now; try again later",
        }.get(
            error.rc.value if isinstance(error.rc, ReasonCode) else -1,
            f"check --user and --password-file; or it does not take {name}: --client-id gives this client another, "
            "and the broker of a fleet takes what begins with tinyreptile",
        )
        return BrokerError(f"the broker at {where} refused the connection ({text}); {advice}")
    if isinstance(error, ClosedError):
        return _no_session(broker, limits.obstacle_of_a_closed_connection(broker))
    or_tls = "" if broker.tls_ca else ", or its authority with --tls-ca if it speaks TLS"
    return BrokerError(
        f"no broker answers at {where} ({text}); start Mosquitto or name another with --broker HOST:PORT{or_tls}"
    )


def _no_session(broker: BrokerConfig, obstacle: str) -> BrokerError:
    return BrokerError(f"no session with the broker at {broker.host}:{broker.port}: {obstacle}")


def pack(message: dict[str, Any]) -> bytes:
    """``message`` as MessagePack; raises `MessageError` for a value in it that has no form there."""
    try:
        data: bytes = msgpack.packb(message)
    except OverflowError:
        raise MessageError("a whole number in a message lies between -2^63 and 2^64 - 1") from None
    except UnicodeEncodeError:
        raise MessageError("a text in a message can't be written in UTF-8") from None
    except TypeError:  # TOML has dates and times
        raise MessageError("a value in a message is a number, a text, true or false, a list or a map") from None
    except ValueError:
        raise MessageError("a value in a message is nested too deeply") from None
    return data


def pack_request(message: dict[str, Any]) -> bytes:
    """``message``, which a command is to publish, as `pack`; raises `MessageError` where it would not be read."""
    data = pack(message)
    if len(data) > reports.MESSAGE_BYTES:
        raise MessageError(
            f"this request has {len(data):,} bytes, and a message has at most {reports.MESSAGE_BYTES:,}; ask for less "
            "at once, or write long settings in the configuration file"
        )
    unpack(data)
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
