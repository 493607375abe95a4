"""What is fuzzed: each target takes bytes, and must neither raise nor contradict itself."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import chdir, suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiomqtt
import msgpack
from typer.testing import CliRunner

from command_line.app import app
from coordinator import deltas, mqtt, service
from coordinator.config import load_config
from coordinator.errors import CoordinatorError
from coordinator.evaluation import check_evaluation
from coordinator.initialization import decode, encode
from coordinator.observer import check_run_status
from simulator.offline import run_now
from tinyreptile import messages, reports, unpacking
from tinyreptile.assembly import Assembly
from tinyreptile.delta import DeltaError
from tinyreptile.device import ConfigError
from tinyreptile.learner import Learner
from tinyreptile.messages import MessageError
from tinyreptile.model import Model, ModelError
from tinyreptile.mqtt import MQTTClient
from tinyreptile.msgpack import MessagePackError, unpackb
from tinyreptile.settings import check_config
from tinyreptile.software import Image, SoftwareError

SPEC: list[list[Any]] = [["input", 3], ["dense", 5, "relu"], ["dense", 2], ["cross_entropy"]]
SCHEMAS = (
    *(messages.MANIFEST, reports.PIECE, messages.WORK, messages.TASK, messages.LABEL, messages.COMMAND),
    *(reports.STATUS, reports.UPDATE, reports.FOUND, reports.REPORT, reports.EVALUATION, reports.REQUEST),
    *(reports.ANSWER, reports.PREDICTION, reports.LOG),
)
LATEST = 100  # entries that a coordinator under fuzzing may keep waiting


@cache
def _model(weights: str = "int16") -> Model:
    return Model(SPEC, weights)


def fuzz_messages(data: bytes) -> None:
    """A body off the wire against every schema."""
    with suppress(MessageError):
        message = mqtt.unpack(data)
        for schema in SCHEMAS:
            with suppress(MessageError):
                messages.check(schema, message)
        with suppress(MessageError):
            check_run_status(message)
        for classes in (0, 2):
            with suppress(MessageError):
                check_evaluation(message, classes)


@cache
def _coordinator() -> service.Coordinator:
    folder = tempfile.mkdtemp(prefix="fuzz-")
    run = {"name": "fuzz", "model": SPEC, "store": f"{folder}/fuzz.sqlite"}
    coordinator = service.Coordinator(load_config(None, {"run": run, "guards": {"rate": 0, "strikes": 0}}))
    for name in ("d0", "d1"):
        status = {"protocol": messages.PROTOCOL, "state": "online", "boot": "b"}
        coordinator.run_state.take_status(name, status)
    return coordinator


def fuzz_coordinator(data: bytes) -> None:
    """A message on one of a coordinator's topics, with work that is open."""
    coordinator = _coordinator()
    run = coordinator.run_state
    if run.published_version < 0:
        run.published(run.newest())
    while run.next_work():
        pass
    device = run.topics.device("d0")
    topics = (device.status, device.update, device.evaluation, run.topics.control, run.topics.root + "/device/x/y")
    topic, payload = topics[data[0] % len(topics)] if data else "", data[1:]
    with suppress(MessageError):
        message = mqtt.unpack(payload)
        if isinstance(message, dict) and message.get("work") == 1:  # the number of what is open just now
            message["work"] = next(iter(run.book.open), 1)
            payload = msgpack.packb(message)
    coordinator._take(topic, payload)
    for entry, durable in coordinator._journal._waiting:
        if durable is not None:
            durable()
        assert entry is not None
    coordinator._journal._waiting.clear()
    coordinator._journal._devices.clear()
    while not coordinator._outbox.empty():
        to, letter = coordinator._outbox.get_nowait()
        assert to
        assert all(m is None or len(mqtt.pack(m)) <= messages.MESSAGE_BYTES for m in letter)
    while not coordinator._requests.empty():
        coordinator._requests.get_nowait()
    assert len(run.registry.devices) == 2
    assert all(abs(run.weights) < 1e6)


def fuzz_deltas(data: bytes) -> None:
    """A packed delta, dense or sparse: the vectorised unpacking against the plain one."""
    if len(data) < 8:
        return
    model = _model()
    bits, kept = (16, 8, 4)[data[0] % 3], data[1] % (model.parameters + 1) or None
    gains = [1 + int.from_bytes(data[i : i + 2], "big") for i in range(2, 2 + len(model.offsets))]
    size = unpacking.packed_size(model.parameters, bits, kept)
    packed = data[8:][:size].ljust(size, b"\0")
    try:
        plain: list[float] | None = unpacking.unpack(model, packed, bits, gains, kept)
    except DeltaError:
        plain = None
    try:
        quick: list[float] | None = (deltas.unpack(model, packed, bits, gains, kept) * deltas.UNIT).tolist()
    except DeltaError:
        quick = None
    assert plain == quick, f"{plain} is not {quick}"


def fuzz_coding(data: bytes) -> None:
    """A delta as it travels, in one chunk or two."""
    if len(data) < 3:
        return
    model, bits, cut = _model(), (16, 8, 4)[data[0] % 3], data[1]
    chunks = [data[2:]] if not cut else [data[2 : 2 + cut], data[2 + cut :]]
    with suppress(DeltaError):
        packed = deltas.decode(model, chunks, bits)
        assert len(packed) == unpacking.packed_size(model.parameters, bits)


def fuzz_differences(data: bytes) -> None:
    """What a device is sent to change its initialization: it never leaves the place of that."""
    learner = Learner(_model(), encoding="int8")
    assembly = Assembly(learner)
    assembly.version = 0
    with suppress(MessageError):
        assembly.begin(1, 1, memoryview(data))
        assembly.add(assembly.position, memoryview(data))
    assert assembly.version is None


def fuzz_initialization(data: bytes) -> None:
    """An initialization, and the same encoded again."""
    for encoding in ("int16", "int8"):
        with suppress(ValueError):
            weights = decode(_model(), data, encoding)
            again = decode(_model(), encode(_model(), weights, encoding), encoding)
            if encoding == "int16" and b"\x00\x80" not in data:  # -32768 is never written
                assert (again == weights).all()


def fuzz_model(data: bytes) -> None:
    """A model's list."""
    with suppress(MessageError, ModelError):
        spec = mqtt.unpack(data)
        for weights in ("int16", "int8"):
            assert Model(spec, weights).ram() > 0


def fuzz_msgpack(data: bytes) -> None:
    """The devices' own MessagePack against the host's: both take the same, and read the same."""
    if len(data) > reports.MESSAGE_BYTES:
        return
    try:
        value = unpackb(data)
    except MessagePackError:
        value = MessagePackError
    try:
        theirs = mqtt.unpack(data)
    except MessageError:
        theirs = MessagePackError
    assert repr(_printable(value)) == repr(theirs)


def _printable(value: Any) -> Any:
    """``value`` as a host has it: binary as bytes, and texts without what a terminal would obey."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, str):
        return "".join(c if c.isprintable() else "\ufffd" for c in value)
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    return value


class _Canned:
    """A session with a broker that has ``letters`` for whoever subscribes: (topic, body), and nothing after them."""

    def __init__(self, letters: list[tuple[str, bytes]]) -> None:
        self.messages = self._all(letters)

    async def _all(self, letters: list[tuple[str, bytes]]) -> AsyncIterator[aiomqtt.Message]:
        for number, (topic, body) in enumerate(letters):
            yield aiomqtt.Message(topic, body, 1, number % 3 > 0, number + 1, None)
        raise TimeoutError  # as whoever waits for more has it in the end

    async def __aenter__(self) -> _Canned:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def subscribe(self, topics: Any, **options: Any) -> list[int]:
        return [1] * len(topics)

    async def unsubscribe(self, topics: Any, **options: Any) -> None:
        pass

    async def publish(self, *arguments: Any, **options: Any) -> None:
        pass


_COMMANDS = (
    *(["status"], ["runs", "list"], ["runs", "events"], ["runs", "versions"], ["runs", "settings"]),
    *(["devices", "list"], ["devices", "show", "d0"], ["device", "logs", "d0"], ["device", "predictions", "d0"]),
    ["export", "fuzz.json"],
)


def fuzz_commands(data: bytes) -> None:
    """What observers and operators are sent: each command shows it, or says in a sentence that it can't."""
    topics = reports.CoordinatorTopics("fuzz")
    device = topics.device("d0")
    known = (topics.coordinator, device.status, topics.init, topics.piece(0), topics.answers("c"), device.log)
    letters = []
    command, rest = _COMMANDS[data[0] % len(_COMMANDS)] if data else _COMMANDS[0], data[1:]
    while rest:
        topic, size = known[rest[0] % len(known)], int.from_bytes(rest[1:3], "big")
        letters.append((topic, rest[3 : 3 + size]))
        rest = rest[3 + size :]
    with (
        tempfile.TemporaryDirectory() as folder,
        chdir(folder),
        patch.multiple("coordinator.observer", session_with=lambda broker: _Canned(letters), AGAIN_SECONDS=0.0),
        patch("coordinator.operator.session_with", lambda broker: _Canned(letters)),
        patch("boards.remote.session_with", lambda broker: _Canned(letters)),
    ):
        error = CliRunner().invoke(app, [*command, "--run", "fuzz"]).exception
        assert isinstance(error, CoordinatorError | SystemExit | TimeoutError | None), repr(error)


class _Reader:
    """A stream that ends."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, size: int) -> bytes:
        found, self._data = self._data[:size], self._data[size:]
        return found


class _Writer:
    """A stream that takes whatever is written, at once."""

    def __init__(self) -> None:
        self.transport = self

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        assert data == b"\x40\x02" + data[2:4], "only PUBACK"

    async def drain(self) -> None:
        pass


def fuzz_mqtt(data: bytes) -> None:
    """What a broker sends to a device's client."""

    def hear(topic: str, payload: memoryview, retained: bool) -> None:
        assert len(topic.encode()) + len(payload) <= 700

    client = MQTTClient("127.0.0.1", 1883, "fuzz", hear, message_bytes=512)
    client._reader, client._writer = _Reader(data), _Writer()
    client.connected = True
    with suppress(OSError):
        while True:
            run_now(client._read_packet())


def fuzz_software(data: bytes) -> None:
    """An image of the library, unpacked into a folder: nothing outside it is touched."""
    with tempfile.TemporaryDirectory() as outside, chdir(outside):
        Path("slot").mkdir()
        with suppress(SoftwareError, OSError):  # OSError: a file and a folder of one name
            image = Image(1, len(data))
            try:
                for at in range(0, len(data), messages.CHUNK_BYTES):
                    image.add(at // messages.CHUNK_BYTES, 1, data[at : at + messages.CHUNK_BYTES])
                image.unpack("slot")
            finally:
                image.close()
        assert [path.name for path in Path().iterdir()] == ["slot"]


def fuzz_settings(data: bytes) -> None:
    """What a device's configuration file may hold; as MessagePack, for damaged JSON is mostly none."""
    with suppress(ConfigError, MessageError):
        check_config(mqtt.unpack(data), "config.json")


TARGETS: dict[str, Callable[[bytes], None]] = {
    name.removeprefix("fuzz_"): target for name, target in list(globals().items()) if name.startswith("fuzz_")
}
