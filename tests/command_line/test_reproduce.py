"""`tinyreptile reproduce` as a user types it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("compiled")

COMMAND = [sys.executable, "-c", "from command_line.main import main; main()", "reproduce"]
ENVIRONMENT = os.environ | {"COLUMNS": "200"}
TINY = ("sine", "--quick", "--seeds", "2", "--only", "tinyreptile", "--only", "scratch", "--jobs", "2")


def reproduce(*arguments: object, cwd: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT | ({"PYTHONPATH": path} if path else {}),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder in which a tiny study has been run, and what was said."""
    folder = tmp_path_factory.mktemp("study")
    return folder, reproduce(*TINY, "--rounds", 20, cwd=folder)


def test_it_ends_with_tables_and_files(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, result = done
    assert result.returncode == 0, result.stderr
    assert "sine: loss on unseen devices" in result.stdout
    assert "TinyReptile against from scratch" in result.stdout
    out = folder / "out" / "reproduce-quick"
    assert sorted(path.name for path in out.iterdir()) == [
        "curves.csv",
        "plots",
        "results.csv",
        "results.json",
        "results.md",
        "runs",
    ]
    command = "tinyreptile reproduce sine --quick --seeds=2 --rounds=20"
    assert json.loads((out / "results.json").read_text())["command"] == command
    assert sorted(path.name for path in (out / "runs").iterdir()) == [
        f"sine-{name}-{seed}.json" for name in ("scratch", "tinyreptile") for seed in (1, 2)
    ]


def test_what_is_there_is_not_run_again(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, first = done
    runs = folder / "out" / "reproduce-quick" / "runs"
    before = {path.name: path.stat().st_mtime_ns for path in runs.iterdir()}
    (folder / "docs").mkdir()
    result = reproduce(*TINY, "--rounds", 20, "--docs", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "All 4 runs are in out/reproduce-quick/runs." in result.stdout
    assert {path.name: path.stat().st_mtime_ns for path in runs.iterdir()} == before
    tables = [said.stdout[said.stdout.index("sine: loss") : said.stdout.rindex("└")] for said in (first, result)]
    assert tables[0] == tables[1]
    assert (folder / "docs" / "results.md").read_text().count("](results/sine-") == 5
    assert (folder / "docs" / "results" / "sine-learning.svg").exists()


def test_the_page_has_what_an_earlier_command_has_run(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = done
    result = reproduce(*TINY[:4], "--only", "scratch", "--rounds", 20, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "TinyReptile" not in result.stdout
    page = (folder / "out" / "reproduce-quick" / "results.md").read_text()
    assert "| TinyReptile |" in page
    assert "Not run: Reptile, TinyMetaFed, FedAvg," in page


def test_a_sweep_is_shown_beside_what_was_there(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = done
    options = ("--only", "tinyreptile", "--set", "device.beta=0.001,0.01", "--set", "device.bits=4")
    result = reproduce(*TINY[:4], "--rounds", 20, *options, cwd=folder)
    assert result.returncode == 0, result.stderr
    page = (folder / "out" / "reproduce-quick" / "results.md").read_text()
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| TinyReptile")]
    assert {"| TinyReptile", "| TinyReptile, beta 0.001, bits 4", "| TinyReptile, beta 0.01, bits 4"} <= set(rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("presence", "--data", "nowhere"), "nowhere"),
        (("sine", "--scheduler", "tcp://127.0.0.1:1"), "no Dask scheduler answers"),
        (("sine", "--docs"), "--docs writes into the folder docs of the project, and there is none here"),
    ],
)
def test_a_mistake_costs_no_result_that_is_there(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    there = [runs / f"{arguments[0]}-scratch-1.{ending}" for ending in ("json", "npz")]
    for path in there:
        path.write_text("precious")
    result = reproduce(*arguments, "--only", "scratch", "--seeds", 1, "--fresh", "--out", tmp_path, cwd=tmp_path)
    assert result.returncode == 1
    assert words in " ".join(result.stderr.split())
    assert [path.read_text() for path in there] == ["precious"] * 2


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_folder_that_can_not_be_written_to_is_told_before_anything_runs(out: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = reproduce("sine", "--only", "scratch", "--seeds", 1, "--fresh", "--out", out, cwd=tmp_path)
    assert result.returncode == 1
    assert "can't be written into" in result.stderr
    assert "name another folder with --out" in " ".join(result.stderr.split())


def test_other_settings_are_refused_until_they_are_wanted_afresh(
    done: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = done
    result = reproduce(*TINY, "--rounds", 21, cwd=folder)
    assert result.returncode == 1
    assert "rounds is 20 there and 21 here" in result.stderr
    assert "--out" in result.stderr
    assert "--fresh" in result.stderr
    elsewhere = reproduce("sine", "--rounds", 2, "--quick", "--seeds", 1, "--only", "scratch", "--out", "b", cwd=folder)
    assert elsewhere.returncode == 0, elsewhere.stderr
    again = ("--rounds", 3, "--quick", "--seeds", 1, "--only", "scratch", "--out", "b", "--fresh")
    assert reproduce("sine", *again, cwd=folder).returncode == 0
    stored = json.loads((folder / "b" / "runs" / "sine-scratch-1.json").read_text())
    assert stored["settings"]["rounds"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cosine",), "there is an experiment for sine"),
        (("sine", "--only", "maml"), "sine has no variant 'maml'"),
        (("sine", "--algorithm", "maml"), "an algorithm is one of tinyreptile"),
        (("sine", "--set", "device.beta=1,hot"), "device.beta: must be a valid number, not 'hot'"),
        (("sine", "--set", "device.bits=٤"), "device.bits: must be "),
        (("sine", "--set", "device.beta=0.01\nx=1"), "device.beta: must be a valid number, not '0.01"),
        (("presence", "--data", "nowhere"), "nowhere"),
        (("sine", "--only", "scratch", "--scheduler", "tcp://127.0.0.1"), "no Dask scheduler answers"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    result = reproduce(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("setting", ["device.beta", "device.beta=", "=1", "device.beta=1,,2"])
def test_a_setting_without_a_value_is_a_usage_error(setting: str, tmp_path: Path) -> None:
    result = reproduce("sine", "--set", setting, cwd=tmp_path)
    assert result.returncode == 2
    assert "NAME=VALUE,VALUE" in result.stderr


@pytest.mark.parametrize(
    "end",
    [
        lambda process: os.killpg(process.pid, signal.SIGINT),  # as a terminal does: the whole group
        lambda process: process.terminate(),  # as a service manager does
    ],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_what_ends_it_keeps_what_there_is_and_the_same_command_goes_on(end: Any, tmp_path: Path) -> None:
    arguments = ["sine", "--rounds", "2000000", "--seeds", "1", "--only", "tinyreptile", "--only", "scratch"]
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    runs = tmp_path / "out" / "reproduce" / "runs"
    assert process.stdout
    next(line for line in process.stdout if "sine-tinyreptile-1" in line)
    end(process)
    _, stderr = process.communicate(timeout=40)
    assert process.returncode == 130
    assert "the same command goes on from there" in " ".join(stderr.split())
    assert "Traceback" not in stderr
    assert (runs / "sine-tinyreptile-1.npz").exists()
    assert not (runs / "sine-tinyreptile-1.json").exists()


DOCUMENT = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of docs/extending.md, as a reader saves them."""
    folder = tmp_path_factory.mktemp("examples")
    text = DOCUMENT.read_text()
    for name, code in re.findall(r"as `(\w+\.py)`:\n\n```python\n(.*?)```", text, re.DOTALL):
        assert len(code.splitlines()) < 60
        (folder / name).write_text(code)
    assert sorted(path.name for path in folder.iterdir()) == ["momentum.py", "thermostat.py"]
    return folder


def test_a_task_as_documented_is_compared(examples: Path) -> None:
    arguments = ("thermostat.Thermostat", "--rounds", 300, "--seeds", 1, "--only", "tinyreptile", "--only", "scratch")
    result = reproduce(*arguments, cwd=examples, path=str(examples))
    assert result.returncode == 0, result.stderr
    rows = json.loads((examples / "out" / "reproduce" / "results.json").read_text())["runs"]
    after = {row["variant"]: row["loss_after"] for row in rows}
    assert after["tinyreptile"] < 0.5 * after["scratch"]


def test_an_algorithm_as_documented_joins_the_comparison(examples: Path) -> None:
    arguments = (
        "sine",
        "--algorithm",
        "momentum.Momentum",
        "--only",
        "scratch",
        "--quick",
        "--seeds",
        1,
        "--rounds",
        300,
    )
    result = reproduce(*arguments, cwd=examples, path=str(examples))
    assert result.returncode == 0, result.stderr
    rows = json.loads((examples / "out" / "reproduce-quick" / "results.json").read_text())["runs"]
    after = {row["variant"]: row["loss_after"] for row in rows}
    assert after["momentum"] < after["scratch"]
