"""An asyncio MQTT 3.1.1 client in fixed memory, for MicroPython and CPython.

QoS 0 and 1, retained messages, last will, user name and password, TLS where the platform has it. One buffer for what
comes in and one for what goes out, both allocated once; a longer message is passed over and counted. One exchange with
the broker is under way at a time, and none waits without a limit. Whatever network and broker do, only OSError leaves
this module (`Refused` is one), and a packet that the standard forbids ends the session; what does not fit the buffers
or may not be sent is a ValueError. Nothing is resent here: after a lost connection the caller knows best what still
matters.
"""

import asyncio
import random
import struct

from . import connection
from .connection import ENOTCONN, ETIMEDOUT, limit, receive, send_at_once, wait_for, write
from .portable import const, decode, ticks_diff, ticks_ms

_CONNECT = const(0x10)
_PUBLISH = const(0x30)
_PUBACK = const(0x40)
_SUBSCRIBE = const(0x82)
_SUBACK = const(0x90)
_UNSUBSCRIBE = const(0xA2)
_UNSUBACK = const(0xB0)
_PINGRESP = const(0xD0)
_DISCONNECT = const(0xE0)

_LASTED = const(10)  # seconds: a session that was this long ends the back-off that came before it
_HEAD = const(160)  # room for a packet's fixed header, topic and identifier before its payload
_MAX_TOPIC = const(_HEAD - 8)
_NOT_IN_NAMES = const("\0+#")

_REFUSALS = (
    "",
    "it does not speak MQTT 3.1.1",
    "it rejects that client id",
    "it is not available",
    "bad user name or password",
    "not authorised",
)


class Refused(OSError):
    """The broker answered and said no; the text says why."""

    def __init__(self, code, client_id):
        reason = _REFUSALS[code] if code < len(_REFUSALS) else "code %d" % code
        super().__init__("the broker refused the client %s: %s" % (client_id, reason))
        self.code = code


class MQTTClient:
    """One session with a broker, kept up by `run`.

    Arguments:
        host, port: the broker.
        client_id: unique among the broker's clients.
        on_message: called as on_message(topic, payload, retained) for every message. ``payload`` is a memoryview that
            is valid only during the call.
        user, password: None for none.
        keepalive: seconds; the broker declares the client gone after 1.5 times that without a packet.
        will: (topic, payload) that the broker publishes, retained, when the connection is lost; or None.
        tls: an ssl.SSLContext, or None.
        message_bytes: the longest payload, in either direction.
        timeout: seconds that a connection or the answer to a packet may take; an answer that waits behind what the
            broker is sending may take 1.5 times ``keepalive``.
        on_oversized: called as on_oversized(topic, retained) for every message longer than the buffer; or None.
        link: a coroutine function that brings the network up, before each connection; or None.
        open_connection: instead of that of `connection`.

    Attributes:
        connected: whether the broker has accepted the session and it has not been lost since.
        oversized: messages passed over because they were longer than the buffer, or there was no memory to read them.
        connections: how often a session was accepted.
    """

    def __init__(
        self,
        host,
        port,
        client_id,
        on_message,
        user=None,
        password=None,
        keepalive=30,
        will=None,
        tls=None,
        message_bytes=1536,
        timeout=10,
        on_oversized=None,
        link=None,
        open_connection=None,
    ):
        self.host = host
        self.port = port
        self.client_id = client_id
        self.on_message = on_message
        self.user = user
        self.password = password
        self.keepalive = keepalive
        self.will = will
        self.tls = tls
        self.timeout = timeout
        self.connected = False
        self.oversized = 0
        self.connections = 0
        self.on_oversized = on_oversized
        self._link = link
        self._open = open_connection or connection.open_connection
        self._received = memoryview(bytearray(message_bytes + _HEAD))
        self._sent = memoryview(bytearray(_HEAD + message_bytes))
        self._exchange = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._answer = asyncio.Event()
        self._expected = None  # packet type and identifier of the answer that is waited for, since `_asked`
        self._code = 0  # of the subscription that was answered last
        self._packet_id = 0
        self._reader = None
        self._writer = None
        self._tasks = []
        self._lost = asyncio.Event()
        self._last_sent = 0
        self._last_received = 0
        self._asked = 0
        self.failure = None

    async def run(self, connected=None, on_failure=None):
        """Connect, and connect again with jittered back-off whenever the session is lost; ends only by cancellation.

        The back-off grows until a session has lasted.

        ``connected`` is awaited after each connection, to subscribe and say hello; an OSError from it counts as a lost
        session. ``on_failure`` is called with each OSError.
        """
        backoff = 1.0
        while True:
            try:
                await self.connect()
                if connected:
                    await connected()
                try:
                    await wait_for(self._lost.wait(), _LASTED)
                except asyncio.TimeoutError:
                    backoff = 1.0
                await self._lost.wait()
                raise self.failure or OSError(ENOTCONN)
            except OSError as error:
                await self.close()
                if on_failure:
                    on_failure(error)
            await asyncio.sleep(backoff * (0.5 + random.random() / 2))
            backoff = min(60.0, backoff * 2)

    async def connect(self):
        """One attempt to open a session; raises OSError, `Refused` if the broker says no."""
        await self.close()
        self._lost.clear()
        self.failure = None
        if self._link:
            await self._link()
        try:
            await limit(self._connect(), self.timeout)
        except Exception:
            await self.close()
            raise
        self.connected = True
        self.connections += 1
        self._last_sent = self._last_received = ticks_ms()
        self._tasks = [asyncio.create_task(self._read_forever()), asyncio.create_task(self._watch())]
        await asyncio.sleep(0.001)  # what has come behind the CONNACK answers nothing that is still to be sent
        self._check_connected()

    async def subscribe(self, topic, qos=1):
        """Subscribe to the filter ``topic``; returns once the broker agreed."""
        await self._topic_exchange(_SUBSCRIBE, _SUBACK, topic, qos)
        if self._code == 0x80:
            raise OSError("the broker does not let this client subscribe to " + topic)

    async def unsubscribe(self, topic):
        """End the subscription to the filter ``topic``; returns once the broker agreed."""
        await self._topic_exchange(_UNSUBSCRIBE, _UNSUBACK, topic, None)

    async def publish(self, topic, payload, qos=1, retain=False):
        """Publish; with QoS 1 returns once the broker has the message.

        ``payload`` is bytes-like, or a function that writes it into the memoryview it is given and returns its length.
        """
        async with self._exchange:
            self._check_connected()
            if callable(payload):
                size = payload(self._sent[_HEAD:])
            else:
                payload = bytes(payload)  # the length of a memoryview of wider cells is not its bytes'
                size = len(payload)
                _check_fit(size, len(self._sent) - _HEAD)
                self._sent[_HEAD : _HEAD + size] = payload
            name = _text(topic, _NOT_IN_NAMES)
            _check_fit(len(name), _MAX_TOPIC)
            packet_id = self._next_id(qos) if qos else 0
            variable = 2 + len(name) + (2 if qos else 0)
            start = _HEAD - variable
            struct.pack_into(">H", self._sent, start, len(name))
            self._sent[start + 2 : start + 2 + len(name)] = name
            if qos:
                struct.pack_into(">H", self._sent, _HEAD - 2, packet_id)
            start = self._fixed_header(start, _PUBLISH | qos << 1 | (1 if retain else 0), variable + size)
            await self._ask(self._sent[start : _HEAD + size], (_PUBACK, packet_id) if qos else None)

    async def disconnect(self):
        """Say good-bye, so that the will is not published, and close."""
        try:
            if self.connected:
                await self._send(bytes((_DISCONNECT, 0)))
        except OSError:
            pass
        finally:
            await self.close()

    async def close(self):
        """Drop the connection as it is."""
        self.connected = False
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        self._tasks = []
        self._lost.set()
        self._answer.set()
        writer = self._writer
        self._reader = self._writer = None
        if writer:
            try:
                writer.close()
                await limit(writer.wait_closed(), 1)
            except OSError:
                pass

    # One packet out, its answer in

    def _check_connected(self):
        if not self.connected:
            raise self.failure or OSError(ENOTCONN, "not connected to the broker")

    def _next_id(self, qos):
        """Return the next packet's identifier; ValueError if it is of a ``qos`` that this client does not have."""
        if qos and qos != 1:
            raise ValueError("QoS is 0 or 1")
        self._packet_id = self._packet_id % 65535 + 1
        return self._packet_id

    def _fixed_header(self, end, code, size):
        """Write the fixed header so that it ends before ``end`` of the outgoing buffer; returns where it starts."""
        start = end - (2 if size < 128 else 3 if size < 16384 else 4)
        self._sent[start] = code
        at = start + 1
        while size > 127:
            self._sent[at] = size & 127 | 128
            size >>= 7
            at += 1
        self._sent[at] = size
        return start

    async def _topic_exchange(self, code, answer, topic, qos):
        async with self._exchange:
            self._check_connected()
            name = _text(topic)
            _check_fit(len(name), _MAX_TOPIC)
            packet_id = self._next_id(qos)
            struct.pack_into(">HH", self._sent, _HEAD, packet_id, len(name))
            end = _HEAD + 4 + len(name)
            self._sent[_HEAD + 4 : end] = name
            if qos is not None:
                self._sent[end] = qos
                end += 1
            start = self._fixed_header(_HEAD, code, end - _HEAD)
            await self._ask(self._sent[start:end], (answer, packet_id))

    async def _send(self, data, answer=None):
        async with self._writing:
            writer = self._writer
            if writer is None:
                raise OSError(ENOTCONN, "not connected to the broker")
            try:
                left = write(writer, data)
                if answer:  # one that has come before is none to this packet
                    self._expected = answer
                    self._asked = ticks_ms()
                if left:
                    await limit(writer.drain(), self.timeout)
            except OSError as error:
                self._fail(error)
                raise
            self._last_sent = ticks_ms()

    async def _ask(self, data, answer):
        """Send ``data`` and wait for its ``answer``: packet type and identifier, or None."""
        # `_watch` limits this wait: much cheaper than a timer for every packet.
        try:
            await self._send(data, answer)
            while self._expected:
                self._check_connected()
                self._answer.clear()
                await self._answer.wait()
        finally:
            self._expected = None

    def _fail(self, error):
        """The session is lost: wake up whoever waits; `run` closes and connects again."""
        if self.connected:
            self.connected = False
            self.failure = error
        self._answer.set()
        self._lost.set()

    # Tasks of a session

    async def _connect(self):
        if self.tls is None:
            self._reader, self._writer = await self._open(self.host, self.port)
        else:
            self._reader, self._writer = await self._open(self.host, self.port, ssl=self.tls, server_hostname=self.host)
        send_at_once(self._writer)
        flags = 0x02  # clean session
        fields = [_text(self.client_id)]
        if self.will:
            flags |= 0x2C  # will, QoS 1, retained
            fields.append(_text(self.will[0], _NOT_IN_NAMES))
            fields.append(bytes(self.will[1]))
        if self.user is not None:
            flags |= 0x80
            fields.append(_text(self.user))
            if self.password is not None:
                flags |= 0x40
                fields.append(self.password.encode())
        end = _HEAD
        self._sent[end : end + 10] = b"\x00\x04MQTT\x04" + struct.pack(">BH", flags, self.keepalive)
        end += 10
        _check_fit(sum(len(field) + 2 for field in fields), len(self._sent) - end)
        for field in fields:
            struct.pack_into(">H", self._sent, end, len(field))
            self._sent[end + 2 : end + 2 + len(field)] = field
            end += 2 + len(field)
        start = self._fixed_header(_HEAD, _CONNECT, end - _HEAD)
        try:
            await self._send(self._sent[start:end])
            await self._read(0, 4)
        except ValueError as error:  # MicroPython's word for a certificate it does not trust
            raise OSError(str(error).strip())
        if bytes(self._received[:3]) != b"\x20\x02\x00":  # CONNACK; of a clean session nothing is present
            raise OSError("no MQTT broker at %s:%d" % (self.host, self.port))
        if self._received[3]:
            raise Refused(self._received[3], self.client_id)

    async def _read_forever(self):
        try:
            while True:
                await self._read_packet()
        except OSError as error:
            self._fail(error)
            await self.close()

    async def _read_packet(self):
        data = self._received
        await self._read(0, 2)
        code = data[0]
        size = data[1] & 127
        shift = 7
        while data[1] & 128 and shift < 28:
            await self._read(1, 2)
            size |= (data[1] & 127) << shift
            shift += 7
        if data[1] & 128:  # a length of more than four bytes
            size = -1
        if code & 0xF0 == _PUBLISH:
            good = await self._take_publish(code, size)
        elif code in (_PUBACK, _SUBACK, _UNSUBACK) and size == (3 if code == _SUBACK else 2):
            await self._read(0, size)
            packet_id = data[0] << 8 | data[1]
            good = packet_id and (code != _SUBACK or data[2] in b"\x00\x01\x02\x80")
            if good and (code, packet_id) == self._expected:  # else it is of an exchange that was given up
                self._code = data[2]
                self._expected = None
                self._answer.set()
        else:
            good = code == _PINGRESP and size == 0
        if not good:
            raise OSError("the broker sent a packet that MQTT forbids, 0x%02x" % code)

    async def _take_publish(self, code, size):
        """Read the rest of a PUBLISH and act on it; return whether a server may send it to this client."""
        data = self._received
        qos = code >> 1 & 3
        # A topic has a byte at least; nothing of QoS 0 is sent again; QoS 2 is never subscribed to.
        if size < 3 or code & 0x0E == 0x08 or qos > 1:
            return False
        fits = size <= len(data)
        await self._read(0, size if fits else 2)
        end = at = 2 + (data[0] << 8 | data[1])
        start = end + 2 * qos
        if start > size:
            return False
        if not fits:
            self.oversized += 1
            await self._read(2, end)
            if start > len(data):  # not even the topic fits
                at = 0
            await self._read(at, at + 2 * qos)
        if qos:
            puback = bytes((_PUBACK, 2, data[at], data[at + 1]))
            if puback[2:] == b"\0\0":
                return False
        if at:
            try:
                topic = decode(data[2:end])
                _text(topic, _NOT_IN_NAMES)
            except ValueError:
                return False
        if not fits:
            await self._read(start, size)
        try:
            if fits:
                self.on_message(topic, data[start:size], bool(code & 1))
            elif at and self.on_oversized:
                self.on_oversized(topic, bool(code & 1))
        except MemoryError:  # what a message is made of may take many times its bytes
            self.oversized += 1
        if qos:
            await self._send(puback)
        return True

    async def _read(self, at, end):
        """Read into the buffer, from ``at`` to ``end``; what lies beyond it is passed over, through its beginning."""
        data = self._received
        while at < end:
            at += await receive(self._reader, data[at:end] or data[: end - at])
            self._last_received = ticks_ms()

    async def _watch(self):
        """Keep the session alive, and end it when the broker fell silent or owes an answer for too long."""
        silence = self.keepalive * 1500
        patience = self.timeout * 1000
        try:
            while True:
                await asyncio.sleep(min(self.keepalive, self.timeout) / 4)
                now = ticks_ms()
                silent = ticks_diff(now, self._last_received)
                if silent > silence:
                    raise OSError(ETIMEDOUT, "the broker is silent")
                if self._expected:
                    asked = ticks_diff(now, self._asked)
                    # While bytes arrive, the answer may wait behind them.
                    if asked > patience and (silent > patience or asked > silence):
                        raise OSError(ETIMEDOUT, "the broker does not answer")
                if max(silent, ticks_diff(now, self._last_sent)) > silence // 3:
                    await self._send(b"\xc0\x00")  # PINGREQ
        except OSError as error:
            self._fail(error)


def _check_fit(size, room):
    if size > room:
        raise ValueError("%d bytes do not fit the %d that this client has for them" % (size, room))


def _text(text, forbidden="\0"):
    """Return the bytes of ``text``; ValueError if it is empty or has what is ``forbidden`` in it."""
    for c in forbidden:
        if c in text or not text:
            raise ValueError("%r may neither be empty nor have %r in it" % (text, forbidden))
    data = text.encode()
    decode(data)
    return data
