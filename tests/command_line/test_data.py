"""`tinyreptile data`, as a user types it; a server of the test's own stands in for the authors' ones."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from simulator.data import DATA_SETS, load, save
from simulator.features import FrontEnd

from ..commands import tinyreptile, wait_until
from ..simulator.data.server import Server

# The command, with the office's archive at another address.
SCRIPT = """
import dataclasses, os
from simulator.data import DATA_SETS, Archive
name = "occupancy_office"
DATA_SETS[name] = dataclasses.replace(DATA_SETS[name], archives=(Archive(os.environ["ADDRESS"], os.environ["SUM"]),))
from command_line.main import main
main()
"""
HEADER = '"date","Temperature","Humidity","Light","CO2","HumidityRatio","Occupancy"\n'


def office() -> bytes:
    """An archive in the layout of UCI 357, with something large beside what is needed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("padding", np.random.default_rng(1).bytes(2_000_000))
        for part, name in enumerate(("datatraining.txt", "datatest.txt", "datatest2.txt")):
            archive.writestr(name, f'{HEADER}"1","2015-02-0{part + 2} 14:19:00",23.7,26.2,585,749,0.004,{part % 2}\n')
    return file.getvalue()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server(office())
    yield running
    running.close()


def environment(server: Server) -> dict[str, str]:
    digest = hashlib.sha256(server.content).hexdigest()
    here = {"ADDRESS": server.address("office.zip"), "SUM": f"sha256:{digest}", "COLUMNS": "200"}
    return os.environ | here


def fetch(server: Server, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, "data", "fetch", "occupancy_office", "--folder", folder],
        env=environment(server),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# Listing


def test_the_list_has_every_data_set_its_licence_and_its_place(tmp_path: Path) -> None:
    (tmp_path / "omniglot28.npz").touch()
    done = tinyreptile("data", "list", "--folder", tmp_path, cwd=tmp_path)
    assert done.returncode == 0
    lines = {name: next(line for line in done.stdout.splitlines() if f" {name} " in line) for name in DATA_SETS}
    assert "MIT" in lines["omniglot28"]
    assert "CC BY 4.0" in lines["speech_commands_8k"]
    assert "absent, 113 MB to fetch" in lines["speech_commands_8k"]
    assert "absent" in lines["omniglot105"]
    assert "absent" not in lines["omniglot28"]
    assert "tinyreptile data fetch NAME" in done.stdout


def test_the_list_looks_where_the_environment_says(tmp_path: Path) -> None:
    (tmp_path / "omniglot28.npz").touch()
    done = tinyreptile("data", "list", cwd=tmp_path, TINYREPTILE_DATA=str(tmp_path))
    assert "absent" not in next(line for line in done.stdout.splitlines() if " omniglot28 " in line)


@pytest.mark.parametrize("columns", ["0", "00", "-5", "\u00b2", "nope", ""])
def test_a_width_that_is_none_is_not_set(columns: str, tmp_path: Path) -> None:
    done = tinyreptile("data", "list", cwd=tmp_path, COLUMNS=columns, TERM="dumb", LC_ALL="nope")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) > 80


@pytest.mark.parametrize("command", ["list", "fetch", "bands"])
def test_the_help_of_a_data_command_shows_an_example(command: str, tmp_path: Path) -> None:
    done = tinyreptile("data", command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"Example: tinyreptile data {command}" in done.stdout


# Bands


def test_the_bands_of_a_data_set_are_printed_as_a_board_takes_them(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    known = {
        "audio": random.integers(0, 256, (30, 8000), np.uint8),
        "mulaw_table": np.linspace(-32000, 32000, 256).astype(np.int16),
        "word": np.zeros(30, np.int64),
        "words": np.array(["yes", "_silence_"]),
        "speaker": np.zeros(30, np.int64),
        "speaker_split": np.zeros(1, np.int64),
        "first_copy": np.arange(30),
    }
    save("speech_commands_8k", known, tmp_path)
    done = tinyreptile("data", "bands", "--folder", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    maps = FrontEnd()(known["mulaw_table"][known["audio"]])
    np.testing.assert_allclose(printed["means"], maps.mean(axis=(0, 1)) * 1024, atol=3)
    np.testing.assert_allclose(printed["deviations"], maps.std(axis=(0, 1)) * 1024, atol=3)


def test_a_data_set_without_words_has_no_bands(tmp_path: Path) -> None:
    save("omniglot28", {"images": np.zeros(3)}, tmp_path)
    done = tinyreptile("data", "bands", "omniglot28", "--folder", tmp_path, cwd=tmp_path)
    assert done.stderr.startswith(
        "error: bands are those of spoken words, as in speech_commands_8k, and omniglot28 has"
    )
    assert done.returncode == 1


# Fetching


def test_a_fetched_data_set_is_there_to_load(server: Server, tmp_path: Path) -> None:
    done = fetch(server, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"occupancy_office: {tmp_path / 'occupancy_office.npz'}" in done.stdout
    assert "expect other figures" in done.stdout  # the server's rows are made up
    assert load("occupancy_office", tmp_path)["occupied"].tolist() == [0, 1, 0]
    again = fetch(server, tmp_path)
    assert "occupancy_office is here already" in again.stdout
    assert len(server.asked) == 1


def test_ctrl_c_leaves_a_part_from_which_the_same_command_goes_on(server: Server, tmp_path: Path) -> None:
    server.hold_after = 1_000_000
    command = [sys.executable, "-c", SCRIPT, "data", "fetch", "occupancy_office", "--folder", str(tmp_path)]
    part = tmp_path / "archives" / "office.zip.part"
    process = subprocess.Popen(command, env=environment(server), stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: part.exists() and part.stat().st_size > 500_000)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert told == "Stopped; the same command goes on from here.\n"
    here = part.stat().st_size
    server.hold_after = None
    assert fetch(server, tmp_path).returncode == 0
    assert server.asked == [None, f"bytes={here}-"]


def test_a_download_that_fails_is_told_in_a_sentence(server: Server, tmp_path: Path) -> None:
    server.status = 404
    done = fetch(server, tmp_path)
    assert done.stderr.startswith("error: http://127.0.0.1:")
    assert "the server answers 404 Not Found" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing"], "error: a data set is one of omniglot28, "),
        (["omniglot28", "--full"], "error: --full goes with speech_commands_8k, not with 'omniglot28'"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    done = tinyreptile("data", "fetch", *arguments, cwd=tmp_path)
    assert done.stderr.startswith(sentence)
    assert done.returncode == 1
