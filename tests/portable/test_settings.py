"""A device's configuration file on both interpreters, and what is said of one that can't be used."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tinyreptile.log import Log, show

from ..environment import CLIENT, Mosquitto, free_port, need_program

COMMANDS = {"cpython": [sys.executable], "micropython": ["micropython"]}
CONFIG: dict[str, Any] = {"id": "d", "host": "127.0.0.1", "port": 1, "stream": {"kind": "sine", "seed": 1}}

DEEP = b'{"id":"d","host":"h",%s' + 20_000 * b"[" + 20_000 * b"]" + b"%s}"


def started(runner: str, folder: Path, content: bytes) -> subprocess.Popen[str]:
    """A device with the configuration ``content``."""
    (folder / "device.json").write_bytes(content)
    command = [need_program(COMMANDS[runner][0]) if runner == "micropython" else sys.executable]
    command += [str(CLIENT / "main.py"), "device.json"]
    environment = os.environ | {"TINYREPTILE_NUMBA": "0", "MICROPYPATH": f"{CLIENT}:.frozen", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def first_line(runner: str, folder: Path, content: bytes) -> str:
    """What a device with the configuration ``content`` says first."""
    with started(runner, folder, content) as process:
        assert process.stdout
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
    return line.strip()


@pytest.mark.parametrize("runner", COMMANDS)
def test_a_configuration_may_begin_with_a_byte_order_mark(runner: str, tmp_path: Path) -> None:
    port = free_port()
    content = b"\xef\xbb\xbf" + json.dumps(CONFIG | {"port": port}).encode()
    said = first_line(runner, tmp_path, content)
    assert said.startswith(f"d: no connection to the broker at 127.0.0.1:{port}: ")


@pytest.mark.parametrize("runner", COMMANDS)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "device.json is not valid JSON"),
        (b'{"id":' * 100_000, "device.json is not valid JSON"),
        (DEEP % (b'"stream":', b""), "device.json is not valid JSON"),
        (DEEP % (b'"stream":{"kind":', b"}"), "device.json is not valid JSON"),
        (json.dumps(CONFIG).encode("utf-16"), "device.json is not valid JSON"),
        (CONFIG | {"tls_ca": "a\0b"}, "device.json: tls_ca must not contain the character U+0000"),
        (CONFIG | {"host": "a\0b"}, "device.json: host must not contain the character U+0000"),
        (
            CONFIG | {"host": "a..b"},
            "device.json: host is a name or an address alone, with the port in port, not 'a..b'",
        ),
        (CONFIG | {"password": "secret"}, "device.json: a password goes with a user"),
        (CONFIG | {"client_id": ""}, "device.json: a client id has 1 to 128 characters, not 0"),
        (CONFIG | {"client_id": "d" * 129}, "device.json: a client id has 1 to 128 characters, not 129"),
        (
            CONFIG | {"client_id": "{id}\x01"},
            "device.json: a name must not contain control characters, as in '{id}\\x01'",
        ),
        (CONFIG | {"user": "a\x9f"}, "device.json: a name must not contain control characters, as in 'a\\x9f'"),
        (
            CONFIG | {"client_id": "{id}-{name}"},
            "device.json: the braces of a client id hold id or random, not as in {id}-{name}",
        ),
        (CONFIG | {"client_id": 7}, "device.json: client_id is a str, not 7"),
        (CONFIG | {"port": 10**4000}, f"device.json: port lies between 1 and 65535, not 1{59 * '0'}..."),
        (
            b'{"id": "d", "host": "h", "stream": {}, "predict": 1e999}',
            "device.json: predict lies between 0 and 86400, not inf",
        ),
        (
            CONFIG | {"host": 9999 * "/"},
            f"device.json: host is a name or an address alone, with the port in port, not '{59 * '/'}...",
        ),
    ],
    ids=[
        "list",
        "object",
        "value",
        "kind",
        "UTF-16",
        "path",
        "zero",
        "host",
        "password",
        "empty",
        "long",
        "control",
        "user",
        "braces",
        "number",
        "port",
        "infinite",
        "slashes",
    ],
)
def test_a_configuration_that_can_not_be_used_is_told(
    runner: str, content: bytes | dict[str, Any], said: str, tmp_path: Path
) -> None:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    assert first_line(runner, tmp_path, data) == f"error: {said}"


PLAIN = """
class Plain:
    inputs = outputs = 1

    def sample(self, x, y):
        x[0] = y[0] = 1

class Odd(Plain):
    async def sample(self, x, y):
        x[0] = y[0] = 1

    def __init__(self, **options):
        None.odd
"""
NEEDS = "; it needs seed and may have fresh"


@pytest.mark.parametrize(
    ("stream", "said", "on_micropython"),
    [
        ({"kind": "plain.Plain"}, "plain.Plain: sample must be async def", None),
        ({"kind": "plain.Plain", "a": 1}, "plain.Plain: sample must be async def", None),
        ({"kind": "plain.Odd", "a": 1}, "plain.Odd did not begin, AttributeError: 'NoneType' object has no ", None),
        ({"kind": "sine"}, f"sine: missing a required argument: 'seed'{NEEDS}", "sine: TypeError: "),
        (
            {"kind": "sine", "seed": 1, "sead": 2},
            f"sine: got an unexpected keyword argument 'sead'{NEEDS}",
            "sine: TypeError: ",
        ),
        (
            {"kind": "sine", "seed": "x"},
            f"sine: TypeError: unsupported operand type(s) for &: 'str' and 'int'{NEEDS}",
            "sine: TypeError: ",
        ),
    ],
    ids=["plain", "plain with options", "any options", "missing", "unknown", "type"],
)
@pytest.mark.parametrize("runner", COMMANDS)
def test_a_stream_that_can_not_be_made_of_its_options_is_told(
    runner: str, stream: dict[str, Any], said: str, on_micropython: str | None, tmp_path: Path
) -> None:
    (tmp_path / "plain.py").write_text(PLAIN)
    shown = first_line(runner, tmp_path, json.dumps(CONFIG | {"stream": stream}).encode())
    assert shown.startswith(f"error: stream: {(runner == 'micropython' and on_micropython) or said}")


RUDE = """
class Rude:
    def __init__(self):
        raise ValueError("\\n\\x1b[2J\\x7f \\x9b\\u20ac\\xa0" + "\\xe9" * 5000)
"""


@pytest.mark.parametrize("runner", COMMANDS)
def test_what_a_terminal_obeys_is_shown_as_question_marks_and_cut(runner: str, tmp_path: Path) -> None:
    (tmp_path / "rude.py").write_text(RUDE)
    data = json.dumps(CONFIG | {"stream": {"kind": "rude.Rude"}}).encode()
    with started(runner, tmp_path, data) as process:
        said, _ = process.communicate(timeout=20)
    shown = "error: stream: rude.Rude: ValueError: ??[2J? ??\u20ac\xa0"
    assert said == shown + "\xe9" * (600 - len(shown) + 1) + "\n"


SLOW = """
import time

class Slow:
    def __init__(self):
        print("begins")
        time.sleep(100)
"""


@pytest.mark.parametrize("runner", COMMANDS)
def test_ctrl_c_while_a_stream_begins_ends_a_device_without_a_word(runner: str, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    data = json.dumps(CONFIG | {"stream": {"kind": "slow.Slow"}}).encode()
    with started(runner, tmp_path, data) as process:
        assert process.stdout
        assert process.stdout.readline() == "begins\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("", None)
        assert process.returncode == 0


@pytest.mark.parametrize("runner", COMMANDS)
@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({}, "tinyreptile-d-[0-9a-f]{8}"),
        ({"client_id": "thing"}, "thing"),
        ({"client_id": "a/{id}/{random}"}, "a/d/[0-9a-f]{8}"),
    ],
    ids=["default", "set", "template"],
)
def test_a_client_id_is_as_configured(
    runner: str, given: dict[str, Any], used: str, tmp_path: Path, start_broker: Callable[..., Mosquitto]
) -> None:
    broker = start_broker()
    first_line(runner, tmp_path, json.dumps(CONFIG | {"port": broker.port} | given).encode())
    assert re.search(f"connected from 127.0.0.1:[0-9]+ as {used} ", broker.log.read_text())


def test_a_line_with_what_utf_8_has_not_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show("bad \ud800 text")
    assert capsys.readouterr().out == "bad ? text\n"


def test_a_log_is_kept_where_it_can_not_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log("d")
    with suppress(OSError), Path("/dev/full").open("w", buffering=1) as full:  # which fails when it is closed, too
        monkeypatch.setattr(sys, "stdout", full)
        log("the disk is full")
        monkeypatch.undo()
    assert log.lines() == ["0 the disk is full"]


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", b"d: 21 ?C ?\n"), ("latin-1", b"d: 21 \xb0C ?\n")])
def test_a_log_shows_what_the_terminal_lacks_as_question_marks(
    encoding: str, shown: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, written = Log("d"), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding, write_through=True))
    log("21 °C →")
    assert written.getvalue() == shown
    monkeypatch.undo()
    assert log.lines() == ["0 21 °C →"]


def test_a_mistake_is_told_on_a_terminal_that_lacks_its_characters(tmp_path: Path) -> None:
    command = [sys.executable, str(CLIENT / "main.py"), str(tmp_path / "größe→.json")]
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict", "TINYREPTILE_NUMBA": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "gr??e?.json" in done.stdout
