"""Streams, and the configuration file that names them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest

from tinyreptile.build import make_client, make_stream
from tinyreptile.device import ConfigError, main
from tinyreptile.nap import Nap
from tinyreptile.settings import KEYS, check_config, load_config
from tinyreptile.streams import QUERY, SUPPORT, TRAIN, Stream
from tinyreptile.streams.rows import RowsError, RowsStream
from tinyreptile.streams.sine import SineStream

from ..certificates import Certificates
from ..environment import CLIENT, run_micropython

pytestmark = pytest.mark.usefixtures("compiled")


async def take(stream: Stream, count: int) -> list[tuple[list[int], list[int]]]:
    samples = []
    x, y = array("h", [0] * stream.inputs), array("h", [0] * stream.outputs)
    for _ in range(count):
        await stream.sample(x, y)
        samples.append((list(x), list(y)))
    return samples


# Sine


async def test_support_and_query_samples_are_replayed() -> None:
    stream = SineStream(4)
    for part in (SUPPORT, QUERY):
        stream.begin(part)
        first = await take(stream, 20)
        stream.begin(TRAIN)
        await take(stream, 7)
        stream.begin(part)
        assert await take(stream, 20) == first


async def test_no_support_sample_is_asked_again_as_query() -> None:
    stream = SineStream(4)
    parts = []
    for part in (SUPPORT, QUERY):
        stream.begin(part)
        parts.append({x[0] for x, _ in await take(stream, 10)})
    assert not parts[0] & parts[1]


async def test_training_samples_go_on_and_do_not_repeat() -> None:
    stream = SineStream(4)
    stream.begin(TRAIN)
    first = await take(stream, 20)
    stream.begin(TRAIN)
    assert await take(stream, 20) != first


async def test_samples_lie_on_the_streams_sine() -> None:
    stream = SineStream(9)
    for x, y in await take(stream, 200):
        assert -5 * 1024 <= x[0] <= 5 * 1024
        exact = stream.amplitude * math.sin(x[0] / 1024 + stream.phase)
        assert y[0] / 1024 == pytest.approx(exact, abs=0.004)


def test_tasks_fill_the_ranges_of_the_literature() -> None:
    streams = [SineStream(seed) for seed in range(2000)]
    amplitudes = [stream.amplitude for stream in streams]
    phases = [stream.phase for stream in streams]
    assert 0.1 <= min(amplitudes) < 0.2
    assert 4.9 < max(amplitudes) <= 5
    assert 0 <= min(phases) < 0.1
    assert math.pi - 0.1 < max(phases) <= math.pi
    assert sum(amplitudes) / 2000 == pytest.approx(2.55, abs=0.15)


def test_a_seed_is_one_task_and_another_seed_another() -> None:
    assert SineStream(5).amplitude == SineStream(5).amplitude != SineStream(6).amplitude


def test_a_fresh_stream_draws_another_task_for_each_training_only() -> None:
    stream = SineStream(5, fresh=True)
    first = stream.amplitude
    stream.begin(SUPPORT)
    assert stream.amplitude == first
    stream.begin(TRAIN)
    assert stream.amplitude != first


# Whatever a stream raises is its own, but for what comes from outside

GUARDED = {
    "good": "a sample",
    "own_cancellation": "CancelledError",
    "own_cancellation_after_waiting": "CancelledError",
    "own_cancellation_after_a_limit": "CancelledError",
    "own_cancellation_after_an_answer_in_time": "CancelledError",
    "own_task_cancelled": "CancelledError",
    "own_task_failed": "OSError",
    "gathered_failed": "OSError",
    "limit": "TimeoutError",
    "closing": "GeneratorExit",
    "exit": "SystemExit",
    "interrupt": "ended by KeyboardInterrupt",
    "cancelled": "ended by CancelledError",
    "cancelled_and_swallowed": "ended by CancelledError",
    "cancelled_and_swallowed_to_wait_again": "ended by CancelledError",
    "cancelled_and_failed": "ended by CancelledError",
    "cancelled_within_a_limit": "ended by CancelledError",
    "cancelled_while_gathering": "ended by CancelledError",
    "closed": "without an error",
}


@pytest.mark.parametrize("interpreter", ["cpython", "micropython"])
def test_what_a_stream_raises_is_its_own_and_a_cancellation_ends_its_task(interpreter: str) -> None:
    session = Path(__file__).with_name("guard_session.py")
    if interpreter == "micropython":
        result = run_micropython(session)
    else:
        environment = os.environ | {"PYTHONPATH": str(CLIENT), "TINYREPTILE_NUMBA": "0"}
        result = subprocess.run(
            [sys.executable, str(session)], env=environment, capture_output=True, text=True, timeout=100, check=False
        )
    assert (result.returncode, result.stderr) == (0, "")
    assert dict(line.split(" ", 1) for line in result.stdout.splitlines()) == GUARDED


# Rows


def rows(folder: Path, text: str | bytes) -> Path:
    path = folder / "rows.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


async def test_rows_are_read_in_order_over_and_over(tmp_path: Path) -> None:
    stream = RowsStream(rows(tmp_path, "# x, y\n1, 2\n\n3, 4\n"), 1, 1)
    assert await take(stream, 3) == [([1024], [2048]), ([3072], [4096]), ([1024], [2048])]
    stream.close()


async def test_labels_are_taken_as_they_are(tmp_path: Path) -> None:
    stream = RowsStream(rows(tmp_path, "0.5,-0.5,2\n"), 2, 3, labels=True)
    x, y = array("h", [0, 0]), array("h", [0])
    await stream.sample(x, y)
    assert (list(x), list(y)) == ([512, -512], [2])
    stream.close()


@pytest.mark.parametrize("count", [2, 3, 4, 5])
async def test_even_rows_are_support_and_odd_ones_query(tmp_path: Path, count: int) -> None:
    stream = RowsStream(rows(tmp_path, "".join(f"{i},0\n" for i in range(count))), 1, 1)
    stream.begin(TRAIN)
    await take(stream, 1)
    for part, first in ((QUERY, 1), (SUPPORT, 0), (QUERY, 1)):
        stream.begin(part)
        expected = list(range(first, count, 2))
        numbers = [x[0] // 1024 for x, _ in await take(stream, 2 * len(expected))]
        assert numbers == expected * 2
    stream.close()


async def test_training_reads_every_row_after_an_evaluation_too(tmp_path: Path) -> None:
    stream = RowsStream(rows(tmp_path, "0,0\n1,0\n2,0\n"), 1, 1)
    stream.begin(QUERY)
    await take(stream, 5)
    stream.begin(TRAIN)
    assert {x[0] // 1024 for x, _ in await take(stream, 3)} == {0, 1, 2}
    stream.close()


async def test_a_single_row_has_no_query_part(tmp_path: Path) -> None:
    stream = RowsStream(rows(tmp_path, "1,2\n"), 1, 1)
    stream.begin(QUERY)
    with pytest.raises(RowsError, match="no row for this part"):
        await take(stream, 1)
    stream.close()


async def test_values_beyond_the_format_saturate(tmp_path: Path) -> None:
    stream = RowsStream(rows(tmp_path, "1e20,-1e20\n"), 1, 1)
    assert await take(stream, 1) == [([32767], [-32767])]
    stream.close()


BAD_FILES = {
    "empty": ("", "no row"),
    "only comments": ("# x\n# y\n\n", "no row"),
    "no number": ("1,x\n", "line 1: not a number"),
    "an empty field": ("1,\n", "line 1: not a number"),
    "too few": ("# x\n1\n", "line 2: 1 numbers, expected 2"),
    "too many": ("1,2,3\n", "line 1: 3 numbers, expected 2"),
    "nan": ("nan,1\n", "line 1: numbers must be finite"),
    "infinite": ("1,inf\n", "line 1: numbers must be finite"),
    "binary": (b"\xff\xfe\x00\x01\n", "no text"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_refused_at_the_start_and_its_line_named(tmp_path: Path, kind: str) -> None:
    text, complaint = BAD_FILES[kind]
    with pytest.raises(RowsError, match=complaint):
        RowsStream(rows(tmp_path, text), 1, 1)


@pytest.mark.parametrize("label", ["3", "-1", "0.5"])
def test_a_label_that_is_no_class_is_refused(tmp_path: Path, label: str) -> None:
    with pytest.raises(RowsError, match="expected 0 to 2"):
        RowsStream(rows(tmp_path, f"0,{label}\n"), 1, 3, labels=True)


async def test_a_bad_row_further_down_is_refused_when_it_is_reached(tmp_path: Path) -> None:
    stream = RowsStream(rows(tmp_path, "1,2\n1,oops\n"), 1, 1)
    await take(stream, 1)
    with pytest.raises(RowsError, match="line 2"):
        await take(stream, 1)
    stream.close()


# The configuration file


GOOD: dict[str, Any] = {"id": "board-1", "host": "192.0.2.1", "stream": {"kind": "sine", "seed": 1}}


def config(folder: Path, value: Any) -> str:
    path = folder / "config.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def test_the_example_is_a_whole_configuration() -> None:
    example = load_config(str(CLIENT / "config.example.json"))
    assert set(example) == set(KEYS)
    assert make_client(example).id == example["id"]


def test_what_is_not_given_has_its_default(tmp_path: Path) -> None:
    loaded = load_config(config(tmp_path, GOOD))
    assert (loaded["port"], loaded["run"], loaded["role"], loaded["keepalive"]) == (1883, "default", "train", 30)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ([], "no JSON object"),
        (GOOD | {"prot": 1883}, "unknown key prot"),
        ({"host": "h", "stream": {}}, "id is missing"),
        ({"id": "a", "stream": {}}, "host is missing"),
        ({"id": "a", "host": "h"}, "stream is missing"),
        (GOOD | {"id": None}, "id is missing"),
        (GOOD | {"port": "1883"}, "port is an int, not '1883'"),
        (GOOD | {"port": True}, "port is an int, not True"),
        (GOOD | {"port": 0}, "port lies between 1 and 65535, not 0"),
        (GOOD | {"port": 65536}, "port lies between"),
        (GOOD | {"keepalive": 0}, "keepalive lies between"),
        (GOOD | {"keepalive": 70000}, "keepalive lies between"),
        (GOOD | {"stream": "sine"}, "stream is a dict"),
        (GOOD | {"sleep": -1}, "sleep lies between 0 and 86400, not -1"),
        (GOOD | {"sleep": 60, "predict": 1}, "sleep: a device that predicts stays awake"),
    ],
)
def test_a_bad_configuration_is_refused_with_its_key(tmp_path: Path, value: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_config(config(tmp_path, value))


@pytest.mark.parametrize("name", ["password", "key"])
def test_a_secret_is_not_shown(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(config(tmp_path, GOOD | {name: 4711}))
    assert f"{name} is a str" in str(error.value)
    assert "4711" not in str(error.value)


def test_a_device_that_is_to_sleep_rests() -> None:
    settings = check_config(GOOD | {"stream": {"kind": "sine", "seed": 1}, "sleep": 60}, "config.json")
    assert isinstance(make_client(settings).rest, Nap)
    assert make_client(settings | {"sleep": 0}).rest is None


def test_an_absent_configuration_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"copy config\.example\.json"):
        load_config(str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "kind is analog, microphone, motion, rows, sine, temperature, or your_module"),
        ({"kind": "cosine"}, "kind is analog, microphone, motion, rows, sine, temperature, or your_module"),
        ({"kind": ["sine"]}, "kind is analog, microphone, motion, rows, sine, temperature, or your_module"),
        ({"kind": "sine"}, "seed"),
        ({"kind": "sine", "seed": 1, "speed": 2}, "speed"),
        ({"kind": "sine", "seed": "1"}, "stream: sine: TypeError: "),
        ({"kind": "sine", "seed": 1.5}, "stream: sine: TypeError: "),
        ({"kind": "rows", "path": "absent.csv", "inputs": 1, "outputs": 1}, "stream: rows has no file absent.csv"),
    ],
)
def test_a_stream_that_can_not_be_made_is_refused(options: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        make_stream(options)


def test_a_stream_of_a_bad_file_is_refused(tmp_path: Path) -> None:
    path = str(rows(tmp_path, "1,x\n"))
    with pytest.raises(ConfigError, match="not a number"):
        make_stream({"kind": "rows", "path": path, "inputs": 1, "outputs": 1})


@pytest.mark.parametrize(
    "given", [{"tls_cert": "c"}, {"tls_key": "k"}, {"tls_ca": "a", "tls_cert": "c"}, {"tls_cert": "c", "tls_key": "k"}]
)
def test_a_certificate_goes_with_its_key_and_an_authority(tmp_path: Path, given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="tls_cert, tls_key and tls_ca go together"):
        load_config(config(tmp_path, GOOD | given))


@pytest.mark.parametrize(
    ("machine", "plain", "encrypted"),
    [
        ("Raspberry Pi Pico W with RP2040", 10, 30),
        ("Raspberry Pi Pico 2 W with RP2350", 10, 10),
        ("Generic ESP32 module with ESP32", 10, 10),
        ("linux [GCC 14.2.1] version", 10, 10),
    ],
)
def test_a_chip_that_is_slow_at_tls_has_longer_to_connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, plain: int, encrypted: int
) -> None:
    monkeypatch.setattr(sys.implementation, "_machine", machine, raising=False)
    given = GOOD | {"stream": {"kind": "sine", "seed": 1}}
    assert make_client(check_config(given, "config.json")).mqtt.timeout == plain
    given["tls_ca"] = Certificates(tmp_path).ca
    assert make_client(check_config(given, "config.json")).mqtt.timeout == encrypted


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_certificate_that_can_not_be_read_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content)
    with pytest.raises(ConfigError, match="tls_ca"):
        make_client(load_config(config(tmp_path, GOOD | {"tls_ca": str(path)})))


@pytest.mark.parametrize(
    "value", ["{", GOOD | {"id": "no/name"}, GOOD | {"role": "spectator"}, GOOD | {"stream": {"kind": "x"}}]
)
def test_main_ends_with_one_line_and_code_1(tmp_path: Path, value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(config(tmp_path, value)) == 1
    out = capsys.readouterr().out
    assert out.startswith("error: ")
    assert out.count("\n") == 1


def test_main_on_micropython_ends_with_one_line_and_code_1(tmp_path: Path) -> None:
    result = run_micropython(CLIENT / "main.py", config(tmp_path, GOOD | {"port": 0}))
    assert result.returncode == 1
    assert "port lies between 1 and 65535" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
