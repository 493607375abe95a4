"""Streams that fail, on both interpreters: each failure is reported in words, and the device goes on."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import BrokerConfig
from coordinator.initialization import encode, random_weights
from coordinator.service import Coordinator
from simulator.children import end
from simulator.micropython import micropython_device
from tests.environment import CLIENT, Mosquitto, need_program
from tests.fleet import SMALL, decoded, eventually, finish, listening, run_config
from tinyreptile.build import make_stream
from tinyreptile.client import Client
from tinyreptile.device import ConfigError, DeviceError
from tinyreptile.log import Log
from tinyreptile.model import Model
from tinyreptile.streams import Stream

from .peer import Peer, coordinating, living, make_device

pytestmark = pytest.mark.usefixtures("compiled")

MODEL = [["input", 2], ["dense", 3], ["cross_entropy"]]
# A stream that has another fault in each piece of work.
FAULTY = """
import asyncio
from array import array
from tinyreptile.streams import Stream

FAULTS = (
    "1 / 0",
    "[][0]",
    "{}['no']",
    "None.no",
    "raise_error(RuntimeError)",
    "raise_error(OSError(5))",
    "raise_error(OSError('deaf'))",
    "raise_error(ValueError('bad'))",
    "raise_error(MemoryError('none'))",
    "raise_error(SystemExit('bye'))",
    "raise_error(GeneratorExit)",
    "raise_error(BaseException('base'))",
    "raise_error(asyncio.CancelledError('own'))",
    "wait: raise_error(asyncio.CancelledError)",
    "wait: raise_error(GeneratorExit)",
    "task: raise_error(asyncio.CancelledError)",
    "task: raise_error(ValueError)",
    "x[0] = 40000",
    "x[1] = -32769",
    "y[0] = 1 << 70",
    "x[0] = 0.5",
    "x[0] = 1.0",
    "x[0] = float('nan')",
    "x[0] = None",
    "x[0] = '1'",
    "x[0] = [1]",
    "x[2] = 1",
    "x[:] = [1]",
    "x[:] = [1, 2, 3]",
    "x[:] = array('h', [1])",
    "x[:] = [1, 0.5]",
    "x[:] = [1, 40000]",
    "x[:] = array('H', [1, 40000])",
    "x[:] = array('i', [1, 40000])",
    "x[:] = array('f', [1, 2])",
    "x[:] = 3",
    "y[0] = 3",
    "y[0] = -1",
    "pass",
)
GOOD = ("x[0], x[1], y[0] = -32768, 32767, 2", "x[:], y[0] = [1, True], 1", "x[:], y[:] = array('h', [1, 2]), (0,)")

def raise_error(error):
    raise error

class Faulty(Stream):
    inputs = 2
    outputs = 3

    def __init__(self):
        self._works = 0

    def begin(self, part):
        self._works += 1
        if self._works == 1:
            raise KeyError("begin")

    async def sample(self, x, y):
        code = (("",) + FAULTS + GOOD)[self._works - 1]
        if code[:6] == "wait: ":
            await asyncio.sleep(0.01)
            code = code[6:]
        elif code[:6] == "task: ":
            await asyncio.create_task(self._run(code[6:]))
        elif code[0] in "xyp" and code not in GOOD:
            if not code.startswith("x"):
                x[:] = array("h", [1, 2])
            if not code.startswith("y") and code != "pass":
                y[0] = 1
        exec(code, {"x": x, "y": y, "array": array, "asyncio": asyncio, "raise_error": raise_error})

    async def _run(self, code):
        exec(code, {"asyncio": asyncio, "raise_error": raise_error})

    def label(self, value):
        if value:
            raise asyncio.CancelledError
        return 1 // value
"""


ENDS = (  # of the first of them
    *("ZeroDivisionError: ", "IndexError: ", "KeyError: ", "AttributeError: ", "RuntimeError", "OSError: "),
    *("OSError: deaf", "ValueError: bad", "MemoryError: none", "SystemExit: bye", "GeneratorExit"),
    *("BaseException: base", "CancelledError: own", "CancelledError", "GeneratorExit", "CancelledError", "ValueError"),
)


@pytest.fixture
async def peer(broker: Mosquitto) -> AsyncIterator[Peer]:
    async with coordinating(broker) as peer:
        yield peer


async def test_every_fault_of_a_stream_is_reported_and_the_device_goes_on(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path)
    faulty = importlib.import_module("faulty")
    model = Model(MODEL)
    data = encode(model, random_weights(model, 1))
    await peer.put(0, data, MODEL)
    settings = {"id": "board", "run": peer.run, "host": peer.broker.host, "port": peer.broker.port}
    settings["stream"] = {"kind": "faulty.Faulty"}
    said: list[str] = []
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(micropython_device(need_program("micropython"), tmp_path, settings))
        stream = {"stream": faulty.Faulty(), "stream_name": "faulty.Faulty"}
        device = make_device(peer, "computer", log=said.append, commands=True, **stream)
        await stack.enter_async_context(living(device))
        reports: dict[str, list[Any]] = {}
        works = 1 + len(faulty.FAULTS) + len(faulty.GOOD)
        for name in ("computer", "board"):
            await peer.hello(name)
            for label in range(2):
                await peer.send(peer.topics.device(name).label, {"label": label})
            for work in range(1, works + 1):
                await peer.ask(name, work, data)
                await peer.update(name, count=work)
                await peer.acknowledge(name, work)
            reports[name] = peer.updates(name)
    computer, board = reports["computer"], reports["board"]
    samples = 1 + len(ENDS)
    for one, other in zip(computer[samples:], board[samples:], strict=True):
        assert one == other
    errors = [report.get("error", "") for report in computer]
    assert errors[0] == "stream faulty.Faulty: KeyError: 'begin'"
    for at, kind in enumerate(ENDS, start=1):
        for report in (computer[at], board[at]):
            assert report["error"].startswith(f"stream faulty.Faulty: {kind}"), faulty.FAULTS[at - 1]
    for code, error in zip(faulty.FAULTS[len(ENDS) :], errors[samples:-3], strict=True):
        assert error.startswith("stream faulty.Faulty: ValueError: "), code
        assert "2 inputs and 3 outputs" in error, code
        assert "Q5.10" in error, code
        assert "fixed()" in error, code
    assert "ValueError: 40000 is no input;" in errors[samples]
    assert errors[-3:] == [""] * 3
    for text in ("\n".join(said), (tmp_path / "board.log").read_text()):
        assert "label 0 was not taken: stream faulty.Faulty: ZeroDivisionError: " in text
        assert "label 1 was not taken: stream faulty.Faulty: CancelledError" in text


class Wordless(BaseException):
    def __str__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (SystemExit("bye"), "stream Odd: SystemExit: bye"),
        (asyncio.CancelledError(), "stream Odd: CancelledError"),
        (Wordless(), "stream Odd: Wordless"),
        (OSError(5, "Input/output error"), "stream Odd: OSError: [Errno 5] Input/output error"),
        (ValueError("bad \ud800 text"), "'work 1 came to nothing: stream Odd: ValueError: bad \\ud800 text'"),
    ],
)
async def test_whatever_a_stream_raises_is_told_and_kept_for_who_asks(
    peer: Peer, error: BaseException, sentence: str
) -> None:
    class Odd(Stream):
        async def sample(self, x: Any, y: Any) -> None:
            raise error

    model = Model(SMALL)
    data = encode(model, random_weights(model, 1))
    await peer.put(0, data)
    topics = peer.topics.device("d0")
    async with (
        listening(BrokerConfig(host=peer.broker.host, port=peer.broker.port), topics.log) as logged,
        living(make_device(peer, "d0", Odd(), commands=True, log=Log("d0"))) as life,
    ):
        await peer.hello("d0")
        await peer.ask("d0", 1, data)
        assert "error" in await peer.update("d0", count=1)
        await peer.send(topics.command, {"command": "log"})
        await eventually(lambda: logged, "its log has come")
        assert sentence in "\n".join(decoded(logged[0])["lines"])
        assert not life.done()


WAITING = """
import asyncio
from tinyreptile.streams import Stream

class Waiting(Stream):
    async def sample(self, x, y):
        try:
            await asyncio.sleep(100)
        except:
            raise KeyError("swallowed")
"""


async def test_a_device_that_is_stopped_while_its_stream_waits_ends(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "waiting.py").write_text(WAITING)
    monkeypatch.syspath_prepend(tmp_path)
    stream = importlib.import_module("waiting").Waiting()
    model = Model(SMALL)
    data = encode(model, random_weights(model, 1))
    await peer.put(0, data)
    settings = {"id": "board", "run": peer.run, "host": peer.broker.host, "port": peer.broker.port}
    settings["stream"] = {"kind": "waiting.Waiting"}
    async with micropython_device(need_program("micropython"), tmp_path, settings) as process:
        async with living(make_device(peer, "computer", stream)) as life:
            for name in ("computer", "board"):
                await peer.hello(name)
                await peer.ask(name, 1, data)
            await asyncio.sleep(1)  # both are at it
        assert life.cancelled()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
    assert "board: 0 accepted, 0 refused, 0 expired" in (tmp_path / "board.log").read_text()
    assert not peer.updates("computer") + peer.updates("board")


BLOCKING = """
import time
from tinyreptile.streams import Stream

class Blocking(Stream):
    async def sample(self, x, y):
        print("blocked", flush=True)
        time.sleep(100)
"""


@pytest.mark.parametrize("signals", [1, 2])
@pytest.mark.parametrize("options", [{}, {"predict": 0.1}], ids=["work", "prediction"])
async def test_ctrl_c_ends_a_device_on_a_computer_whose_stream_blocks(
    peer: Peer, tmp_path: Path, options: dict[str, Any], signals: int
) -> None:
    (tmp_path / "blocking.py").write_text(BLOCKING)
    model = Model(SMALL)
    data = encode(model, random_weights(model, 1))
    await peer.put(0, data)
    settings = {"id": "d0", "run": peer.run, "host": peer.broker.host, "port": peer.broker.port}
    settings["stream"] = {"kind": "blocking.Blocking"}
    (tmp_path / "device.json").write_text(json.dumps(settings | options))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(CLIENT / "main.py"), "device.json"),
        cwd=tmp_path,
        env=os.environ | {"TINYREPTILE_NUMBA": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout
    try:
        await peer.hello("d0")
        if not options:
            await peer.ask("d0", 1, data)
        while (await process.stdout.readline()).strip() != b"blocked":
            pass
        for _ in range(signals):
            process.send_signal(signal.SIGINT)
            await asyncio.sleep(0.2)
        said = await asyncio.wait_for(process.stdout.read(), 15)
        assert await process.wait() == 0
    finally:
        await end(process)
    assert said.decode() == "d0: 0 accepted, 0 refused, 0 expired\n"
    await eventually(lambda: peer.statuses("d0")[-1]["state"] == "offline", "it is known to be gone")


async def test_a_stream_that_fails_is_tried_later_each_time(broker: Mosquitto, tmp_path: Path) -> None:
    tries: list[float] = []

    class Broken(Stream):
        async def sample(self, x: Any, y: Any) -> None:
            tries.append(asyncio.get_running_loop().time())
            if len(tries) < 5:
                raise ZeroDivisionError
            x[0] = y[0] = 1

    coordinator = Coordinator(run_config(broker, tmp_path, run={"rounds": 1}))
    device = Client("d0", coordinator.config.run.name, Broken(), host=broker.host, port=broker.port)
    async with living(device):
        status = await finish(coordinator)
    assert status["refusals"] == {"device error": 4}
    pauses = [after - before for before, after in itertools.pairwise(tries[:5])]
    assert all(before < after for before, after in itertools.pairwise(pauses))


async def test_a_stream_that_fails_with_anything_ends_no_prediction(peer: Peer) -> None:
    model = Model(SMALL)
    await peer.put(0, encode(model, random_weights(model, 1)))

    class Odd(Stream):
        taken = looked = 0

        async def sample(self, x: Any, y: Any) -> None:
            self.taken += 1
            if self.taken < 3:
                raise (KeyError, SystemExit)[self.taken - 1]("sensor")
            x[0] = y[0] = 100 if self.taken > 3 else 40000

        def newest(self, x: Any) -> bool:
            self.looked += 1
            if self.looked == 1:
                raise asyncio.CancelledError
            if self.looked == 2:
                x[0] = 0.5
            return self.looked <= 3

    said: list[str] = []
    async with living(make_device(peer, stream=Odd(), predict=0.05, log=said.append)) as life:
        await eventually(lambda: sum(text.startswith("no prediction: ") for text in said) == 6, "all are said")
        assert not life.done()
    said = [text for text in said if text.startswith("no prediction: ")]
    assert said[0] == "no prediction: stream Odd: KeyError: 'sensor'"
    assert said[1] == "no prediction: stream Odd: SystemExit: sensor"
    assert said[2].startswith("no prediction: stream Odd: ValueError: 40000 is no input; ")
    assert said[3] == "no prediction: stream Odd: CancelledError"
    assert said[4].startswith("no prediction: stream Odd: ValueError: 0.5 is no input; ")
    assert said[5].startswith("no prediction: stream Odd: ValueError: none of 1 inputs was written; ")


@pytest.mark.parametrize(
    ("body", "error", "sentence"),
    [
        ("class Mine:\n  def __init__(self):\n    1 / 0", DeviceError, "mine.Mine did not begin, ZeroDivisionError: "),
        ("class Mine:\n  def __init__(self):\n    raise OSError('deaf')", DeviceError, "did not begin, OSError: deaf"),
        ("class Mine:\n  pass", ConfigError, "mine.Mine needs inputs, a whole number"),
        ("class Mine:\n  inputs = 1\n  outputs = 1.0", ConfigError, "mine.Mine needs outputs, a whole number"),
        ("class Mine:\n  def __init__(self):\n    raise SystemExit('x')", DeviceError, "did not begin, SystemExit: x"),
        ("class Mine:\n  def __init__(self):\n    raise GeneratorExit", DeviceError, "did not begin, GeneratorExit"),
        ("class Mine:\n  inputs = property(exit)", DeviceError, "mine.Mine did not begin, SystemExit: "),
        ("class Mine:\n  def __init__(self):\n    raise ValueError('odd')", ConfigError, "mine.Mine: ValueError: odd"),
        ("1 / 0", ConfigError, "mine.Mine can't be loaded, ZeroDivisionError: "),
        ("class Mine", ConfigError, "mine.Mine can't be loaded, SyntaxError: "),
        ("exit('no sensor')", ConfigError, "mine.Mine can't be loaded, SystemExit: no sensor"),
        ("import asyncio\nraise asyncio.CancelledError", ConfigError, "mine.Mine can't be loaded, CancelledError"),
    ],
)
def test_a_stream_that_can_not_begin_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, error: type[Exception], sentence: str
) -> None:
    (tmp_path / "mine.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(error, match=re.escape(sentence)):
        make_stream({"kind": "mine.Mine"})
