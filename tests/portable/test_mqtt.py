"""The MQTT client against a real Mosquitto, and against servers that are none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tinyreptile.connection import reason
from tinyreptile.mqtt import MQTTClient, Refused
from tinyreptile.tls import tls_context

from ..certificates import Certificates
from ..environment import CLIENT, Mosquitto, need_program, run_micropython, with_hosts

SESSION = Path(__file__).with_name("mqtt_session.py")


class Inbox:
    """Takes a client's messages."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self._arrived = asyncio.Event()

    def __call__(self, topic: str, payload: memoryview, retained: bool) -> None:
        self.messages.append((topic, bytes(payload), retained))
        self._arrived.set()

    async def take(self, count: int = 1) -> list[tuple[str, bytes, bool]]:
        """The next ``count`` messages."""
        async with asyncio.timeout(15):
            while len(self.messages) < count:
                self._arrived.clear()
                await self._arrived.wait()
        taken, self.messages = self.messages[:count], self.messages[count:]
        return taken


class Client(MQTTClient):
    """A client with its own inbox."""

    def __init__(self, broker: Any, **options: Any) -> None:
        self.inbox = Inbox()
        name = f"test-{random.getrandbits(40):x}"
        options = {"host": broker.host, "port": broker.port, "client_id": name, "on_message": self.inbox} | options
        super().__init__(**options)


@contextlib.asynccontextmanager
async def session(broker: Any, **options: Any) -> AsyncIterator[Client]:
    client = Client(broker, **options)
    await client.connect()
    try:
        yield client
    finally:
        await client.disconnect()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic of this test alone."""
    return f"test/{random.getrandbits(60):x}"


# Names


@pytest.mark.parametrize("runner", ["cpython", "micropython"])
@pytest.mark.parametrize("secure", [False, True], ids=["TCP", "TLS"])
def test_every_address_of_a_name_is_tried(
    runner: str, secure: bool, encrypted: Mosquitto, broker: Mosquitto, certificates: Certificates, tmp_path: Path
) -> None:
    at = encrypted if secure else broker
    before = with_hosts(tmp_path, "::1 localhost", "127.0.0.2 localhost", f"{at.host} localhost")
    python = [sys.executable] if runner == "cpython" else [need_program("micropython"), "-X", "heapsize=8M"]
    command = [*before, *python, str(SESSION), "failure", "localhost", str(at.port)]
    command += [certificates.ca] if secure else []
    path = {"MICROPYPATH": f"{CLIENT}:.frozen", "PYTHONPATH": str(CLIENT)}
    done = subprocess.run(command, env=os.environ | path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("connected\n", "")


@pytest.mark.parametrize("host", ["a..b", ".", "a" * 64, "a b", "a\0b"])
async def test_a_name_that_no_host_can_have_is_an_error_of_the_network(broker: Mosquitto, host: str) -> None:
    with pytest.raises(OSError, match=r"no host can have this name|Name or service not known"):
        await Client(broker, host=host).connect()


# Messages


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 1536])
async def test_a_published_message_arrives_as_it_was(broker: Mosquitto, topic: str, qos: int, size: int) -> None:
    async with session(broker) as client:
        await client.subscribe(topic)
        payload = random.randbytes(size)
        await client.publish(topic, payload, qos=qos)
        assert await client.inbox.take() == [(topic, payload, False)]


async def test_a_payload_may_be_written_in_place(broker: Mosquitto, topic: str) -> None:
    def fill(buffer: memoryview) -> int:
        buffer[:5] = b"hello"
        return 5

    async with session(broker) as client:
        await client.subscribe(topic)
        await client.publish(topic, fill)
        assert await client.inbox.take() == [(topic, b"hello", False)]


async def test_a_retained_message_reaches_a_later_subscriber_and_says_so(broker: Mosquitto, topic: str) -> None:
    async with session(broker) as client:
        await client.publish(topic, b"state", retain=True)
        await client.subscribe(topic)
        assert await client.inbox.take() == [(topic, b"state", True)]


async def test_nothing_arrives_after_an_unsubscribe(broker: Mosquitto, topic: str) -> None:
    async with session(broker) as client:
        await client.subscribe(topic)
        await client.subscribe(topic + "/other")
        await client.unsubscribe(topic)
        await client.publish(topic, b"unheard")
        await client.publish(topic + "/other", b"heard")
        assert await client.inbox.take() == [(topic + "/other", b"heard", False)]


async def test_publishing_from_many_tasks_loses_and_mixes_nothing(broker: Mosquitto, topic: str) -> None:
    payloads = [bytes([i]) * (1 + 7 * i) for i in range(200)]
    async with session(broker) as client:
        await client.subscribe(topic + "/+")
        await asyncio.gather(*(client.publish(f"{topic}/{i}", payloads[i], qos=i & 1) for i in range(200)))
        received = await client.inbox.take(200)
    assert sorted(received) == sorted((f"{topic}/{i}", payloads[i], False) for i in range(200))


async def test_packet_identifiers_start_again_after_the_last_one(broker: Mosquitto, topic: str) -> None:
    async with session(broker) as client:
        client._packet_id = 65533
        await client.subscribe(topic)
        for i in range(4):
            await client.publish(topic, bytes([i]))
        assert [payload[0] for _, payload, _ in await client.inbox.take(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_message_too_long_is_passed_over_and_counted(broker: Mosquitto, topic: str, qos: int) -> None:
    async with session(broker, message_bytes=64) as client, session(broker, message_bytes=9000) as other:
        await client.subscribe(topic)
        for _ in range(30):  # more than the broker keeps in flight: each is acknowledged
            await other.publish(topic, bytes(9000), qos=qos)
        await other.publish(topic, b"short", qos=qos)
        assert await client.inbox.take() == [(topic, b"short", False)]
        assert client.oversized == 30
        assert client.connections == 1


@pytest.mark.parametrize(("name", "size"), [("t", 1537), ("t" * 200, 1)])
async def test_what_does_not_fit_the_buffer_is_refused_and_the_session_goes_on(
    broker: Mosquitto, topic: str, name: str, size: int
) -> None:
    async with session(broker) as client:
        with pytest.raises(ValueError, match="do not fit"):
            await client.publish(name, bytes(size))
        await client.subscribe(topic)
        await client.publish(topic, b"fits")
        assert await client.inbox.take() == [(topic, b"fits", False)]


async def test_a_filter_too_long_is_refused(broker: Mosquitto) -> None:
    async with session(broker) as client:
        with pytest.raises(ValueError, match="do not fit"):
            await client.subscribe("t" * 200)


# The session


async def test_the_will_is_published_when_the_socket_is_aborted(broker: Mosquitto, topic: str) -> None:
    async with session(broker) as watcher:
        await watcher.subscribe(topic)
        client = Client(broker, will=(topic, b"gone"))
        await client.connect()
        client._writer.transport.abort()
        assert await watcher.inbox.take() == [(topic, b"gone", False)]
        await client.close()
    async with session(broker) as later:
        await later.subscribe(topic)
        assert await later.inbox.take() == [(topic, b"gone", True)]


async def test_the_will_is_not_published_after_a_good_bye(broker: Mosquitto, topic: str) -> None:
    async with session(broker) as watcher:
        await watcher.subscribe(topic)
        async with session(broker, will=(topic, b"gone")):
            pass
        await watcher.publish(topic, b"after")
        assert await watcher.inbox.take() == [(topic, b"after", False)]


async def test_an_idle_session_outlives_its_keep_alive(broker: Mosquitto, topic: str) -> None:
    async with session(broker, keepalive=1, will=(topic, b"gone")) as client:
        await client.subscribe(topic)
        await asyncio.sleep(3.5)
        await client.publish(topic, b"here")
        assert await client.inbox.take() == [(topic, b"here", False)]
        assert client.connections == 1


async def test_no_task_outlives_the_session(broker: Mosquitto) -> None:
    before = asyncio.all_tasks()
    async with session(broker):
        assert asyncio.all_tasks() != before
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


@contextlib.asynccontextmanager
async def running(client: MQTTClient, connected: Callable[[], Awaitable[None]]) -> AsyncIterator[list[Any]]:
    """Keeps ``client`` in session; yields the list of its failures."""
    failures: list[Any] = []
    task = asyncio.create_task(client.run(connected, failures.append))
    try:
        yield failures
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await client.disconnect()


async def nothing() -> None:
    pass


async def until(condition: Callable[[], object], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_session_is_taken_up_again_after_the_broker_restarts(
    start_broker: Callable[..., Mosquitto], topic: str
) -> None:
    broker = start_broker()
    client = Client(broker)

    async def hello() -> None:
        await client.subscribe(topic)
        await client.publish(topic, b"hello %d" % client.connections)

    async with running(client, hello) as failures:
        assert await client.inbox.take() == [(topic, b"hello 1", False)]
        broker.stop()
        await until(lambda: failures)
        broker.start()
        assert await client.inbox.take() == [(topic, b"hello 2", False)]
        assert all(isinstance(failure, OSError) for failure in failures)


async def test_a_publish_under_way_when_the_broker_dies_ends_with_oserror(
    start_broker: Callable[..., Mosquitto], topic: str
) -> None:
    broker = start_broker()
    client = Client(broker)
    await client.connect()

    async def publish_for_ever() -> None:
        while True:
            await client.publish(topic, b"x")

    task = asyncio.create_task(publish_for_ever())
    await asyncio.sleep(0.1)
    broker.stop()
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on where it was
        await asyncio.wait_for(task, 15)
    await client.close()


@pytest.mark.parametrize("act", ["publish", "subscribe", "unsubscribe"])
async def test_nothing_can_be_sent_without_a_session(broker: Mosquitto, act: str) -> None:
    client = Client(broker)
    arguments = (b"",) if act == "publish" else ()
    with pytest.raises(OSError, match="not connected"):
        await getattr(client, act)("topic", *arguments)


# Who may come in


@pytest.fixture
def guarded(start_broker: Callable[..., Mosquitto], tmp_path: Path) -> Mosquitto:
    """A broker that knows the user "board" with the password "right"."""
    passwords = tmp_path / "passwords"
    subprocess.run([need_program("mosquitto_passwd"), "-c", "-b", str(passwords), "board", "right"], check=True)
    return start_broker("allow_anonymous false", f"password_file {passwords}")


async def test_the_right_password_lets_a_client_in(guarded: Mosquitto, topic: str) -> None:
    async with session(guarded, user="board", password="right") as client:
        await client.publish(topic, b"in")


@pytest.mark.parametrize(("user", "password"), [("board", "wrong"), ("stranger", "right"), (None, None)])
async def test_anybody_else_is_refused(guarded: Mosquitto, user: str | None, password: str | None) -> None:
    client = Client(guarded, user=user, password=password)
    with pytest.raises(Refused, match="not authorised"):
        await client.connect()
    assert not client.connected


async def test_a_password_beyond_the_buffer_is_refused_before_anything_is_sent(broker: Mosquitto) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        await Client(broker, user="board", password="x" * 2000).connect()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(32), "the connection broke (32)"),
        (OSError(-202), "the host's name was not found (-202)"),
        (OSError(-2), "the host's name was not found (-2)"),
        (OSError(-29312, "MBEDTLS_ERR_SSL_CONN_EOF"), "the broker closed the TLS connection (-29312)"),
        (OSError(-30592), "the broker refused the TLS handshake; its log says why (-30592)"),
        (OSError(-9984), "the broker's certificate is not trusted; check tls_ca, host and the board's time (-9984)"),
        (OSError(-29184), "what answers does not speak TLS (-29184)"),
        (OSError(-32512), "there is no memory for TLS (-32512)"),
        (OSError(-17296), "TLS failed (-17296)"),
        (OSError("[addrinfo error -2]"), "the host's name was not found ([addrinfo error -2])"),
        (OSError("no Wi-Fi: home does not answer"), "no Wi-Fi: home does not answer"),
    ],
)
def test_an_error_is_told_in_words(error: OSError, sentence: str) -> None:
    assert reason(error) == sentence


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def encrypted(start_broker: Callable[..., Mosquitto], certificates: Certificates) -> Mosquitto:
    """A broker that speaks TLS alone."""
    folder = certificates.folder
    return start_broker("allow_anonymous true", f"certfile {folder}/server.pem", f"keyfile {folder}/server.key")


async def test_a_session_over_tls_carries_messages(
    encrypted: Mosquitto, certificates: Certificates, topic: str
) -> None:
    async with session(encrypted, host="localhost", tls=tls_context(certificates.ca)) as client:
        await client.subscribe(topic)
        await client.publish(topic, bytes(1500))
        assert await client.inbox.take() == [(topic, bytes(1500), False)]


@pytest.mark.parametrize(
    ("authority", "host"), [("stranger", "localhost"), ("ca", "127.0.0.1")], ids=["wrong authority", "wrong name"]
)
async def test_a_broker_that_can_not_prove_its_name_is_left(
    encrypted: Mosquitto, certificates: Certificates, authority: str, host: str
) -> None:
    client = Client(encrypted, host=host, tls=tls_context(getattr(certificates, authority)))
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        await client.connect()


async def test_plain_mqtt_to_a_tls_port_ends_with_oserror(encrypted: Mosquitto) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - reset or closed
        await asyncio.wait_for(Client(encrypted, timeout=3).connect(), 15)


async def test_tls_to_a_plain_port_ends_with_oserror(broker: Mosquitto, certificates: Certificates) -> None:
    client = Client(broker, host="localhost", tls=tls_context(certificates.ca), timeout=3)
    with pytest.raises(OSError):  # noqa: PT011
        await asyncio.wait_for(client.connect(), 15)


# Servers that are no brokers

CONNACK = b"\x20\x02\x00\x00"


class Server:
    """Accepts, and says ``greeting`` and then, after whatever comes next, ``answer``; silent from then on."""

    host = "127.0.0.1"

    def __init__(self, greeting: bytes = b"", answer: bytes = b"", close: bool = False) -> None:
        self.greeting = greeting
        self.answer = answer
        self.close = close
        self.port = 0

    async def __aenter__(self) -> Server:
        self._writers: list[asyncio.StreamWriter] = []
        self._server = await asyncio.start_server(self._serve, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(OSError):
            for words in (self.greeting, self.answer) if self.answer else (self.greeting,):
                await reader.read(4096)
                writer.write(words)
                await writer.drain()
            if self.close:
                writer.close()
            while await reader.read(4096):
                pass


async def test_a_silent_server_ends_with_oserror_within_the_timeout() -> None:
    async with Server() as server:
        with pytest.raises(OSError, match="does not answer"):
            await asyncio.wait_for(Client(server, timeout=0.5).connect(), 10)


async def test_a_port_where_nobody_listens_ends_with_oserror() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        client = Client(Server(), port=unheard.getsockname()[1])
        with pytest.raises(OSError):  # noqa: PT011
            await asyncio.wait_for(client.connect(), 15)


async def test_an_acknowledgement_that_never_comes_ends_with_oserror() -> None:
    async with Server(CONNACK) as server:
        client = Client(server, timeout=0.5)
        await client.connect()
        with pytest.raises(OSError):  # noqa: PT011
            await asyncio.wait_for(client.publish("topic", b"payload"), 10)
        await client.close()


async def test_a_broker_that_falls_silent_is_left() -> None:
    async with Server(CONNACK) as server, running(Client(server, keepalive=1), nothing) as failures:
        await until(lambda: failures)
        assert "silent" in str(failures[0])


async def test_a_refused_subscription_is_an_oserror() -> None:
    async with Server(CONNACK, b"\x90\x03\x00\x01\x80") as server:
        client = Client(server)
        await client.connect()
        with pytest.raises(OSError, match="does not let this client subscribe to secret"):
            await client.subscribe("secret")
        await client.close()


@pytest.mark.parametrize(
    ("code", "reason"), [(1, "3.1.1"), (2, "rejects that"), (3, "not available"), (4, "bad user"), (77, "code 77")]
)
async def test_a_refusal_says_why(code: int, reason: str) -> None:
    async with Server(b"\x20\x02\x00" + bytes([code])) as server:
        client = Client(server)
        with pytest.raises(Refused, match=f"refused the client {client.client_id}: .*{reason}"):
            await client.connect()


GARBAGE = {
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "zeros": bytes(100),
    "ones": b"\xff" * 100,
    "half a connack": b"\x20\x02",
    "nothing": b"",
    **{f"noise {seed}": random.Random(seed).randbytes(300) for seed in range(10)},
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_in_place_of_a_welcome_ends_with_oserror(name: str) -> None:
    async with Server(GARBAGE[name], close=True) as server:
        with pytest.raises(OSError):  # noqa: PT011
            await asyncio.wait_for(Client(server, timeout=2).connect(), 10)


MALFORMED = {
    "a length without an end": b"\x30\xff\xff\xff\xff\xff\xff",
    "a message without a topic": b"\x30\x00",
    "half a topic's length": b"\x30\x01\x00",
    "a topic beyond its packet": b"\x30\x04\x00\x09ab",
    "no room for an identifier": b"\x32\x04\x00\x02ab",
    "a topic that is not utf-8": b"\x30\x04\x00\x02\xff\xfe",
    "a long message with a topic beyond the buffer": b"\x30\xff\xff\x03\xff\xff" + bytes(65534),
    "acknowledgements of nothing": b"\x40\x00\x40\x01\x00\x40\x02\x00\x07\x90\x00\xb0\x02\x00\x09",
    "packets only a client sends": b"\x10\x00\x82\x00\xa2\x00\xc0\x00\xe0\x00\x00\x00\xf0\x00",
    "the end": b"",
    **{f"noise {seed}": random.Random(seed).randbytes(3000) for seed in range(20)},
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_garbage_in_a_session_ends_with_oserror(name: str) -> None:
    unexpected: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unexpected.append(context))
    async with Server(CONNACK + MALFORMED[name], close=True) as server:
        client = Client(server)
        async with running(client, nothing) as failures:
            await until(lambda: failures, 10)
            assert isinstance(failures[0], OSError)
    assert not unexpected


async def test_acknowledgements_of_something_else_are_passed_over() -> None:
    noise = b"\x40\x02\x00\x07" + b"\x90\x03\x00\x01\x00" + b"\xb0\x02\x00\x01"
    async with Server(CONNACK, noise + b"\x40\x02\x00\x01") as server:
        client = Client(server)
        await client.connect()
        await asyncio.wait_for(client.publish("topic", b"payload"), 10)
        await client.close()


# The same on MicroPython


def run_session(mode: str, host: str, port: int, *ca_file: str) -> str:
    result = run_micropython(SESSION, mode, host, port, *ca_file)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.strip()


def test_a_session_from_micropython_carries_messages(broker: Mosquitto) -> None:
    assert run_session("session", broker.host, broker.port) == "ok"


def test_a_session_over_tls_from_micropython_carries_messages(encrypted: Mosquitto, certificates: Certificates) -> None:
    assert run_session("session", "localhost", encrypted.port, certificates.ca) == "ok"


def test_micropython_leaves_a_broker_of_another_authority(encrypted: Mosquitto, certificates: Certificates) -> None:
    assert run_session("failure", "localhost", encrypted.port, certificates.stranger) == "OSError"


def test_micropython_is_refused_without_a_password(guarded: Mosquitto) -> None:
    assert run_session("failure", guarded.host, guarded.port) == "Refused"


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["silence", "garbage"])
async def test_micropython_ends_with_oserror_where_there_is_no_broker(greeting: bytes) -> None:
    async with Server(greeting) as server:
        result = await asyncio.to_thread(run_session, "failure", server.host, server.port)
        assert result == "OSError"
