"""`tinyreptile demo` as a user meets it: what is missing shows first, what was learned shows whatever comes after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..commands import COMMAND, Popen, tinyreptile
from ..environment import need_module, need_program

SHORT = ["demo", "--rounds", "20", "-n", "4", "--evaluators", "4"]


def without(packages: list[str], *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command where ``packages`` are not installed."""
    need_program("mosquitto")
    hide = "".join(f"sys.modules[{package!r}] = None; " for package in packages)
    return subprocess.run(
        [sys.executable, "-c", f"import sys; {hide}{COMMAND[2]}", *arguments],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_without_extras_it_shows_its_table_and_says_what_it_lacks(tmp_path: Path) -> None:
    done = without(["matplotlib", "numba"], *SHORT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "learned by the fleet" in done.stdout
    assert "of 4 devices took part: 20 updates accepted" in " ".join(done.stdout.split())
    assert done.stderr == (
        "No picture will be drawn: a picture takes matplotlib, which is not installed: "
        "pip install 'tinyreptile[swarm]'\n"
        "numba is not installed, and training takes over a hundred times the processor time without it: "
        "pip install 'tinyreptile[swarm]'\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_was_asked_for_and_cannot_be_drawn_is_told_before_anything_begins(tmp_path: Path) -> None:
    done = without(["matplotlib"], *SHORT, "--picture", "a.png", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: a picture takes matplotlib")


@pytest.mark.parametrize(
    ("picture", "complaint"),
    [
        ("file/a.png", "--picture: file/a.png can't be written: File exists"),
        ("folder.png", "--picture: folder.png can't be written: Is a directory"),
        ("a.doc", "--picture: a.doc does not end in .png, .svg or .pdf"),
    ],
)
def test_a_picture_that_cannot_be_written_is_told_before_anything_begins(
    picture: str, complaint: str, tmp_path: Path
) -> None:
    need_module("matplotlib")
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    done = tinyreptile(*SHORT, "--picture", picture, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {complaint}\n")


def test_a_picture_that_fails_at_last_does_not_take_the_table_with_it(tmp_path: Path) -> None:
    need_module("matplotlib")
    need_program("mosquitto")
    (tmp_path / "a.png").symlink_to("/dev/full")
    done = tinyreptile(*SHORT, "--picture", "a.png", cwd=tmp_path)
    assert "learned by the fleet" in done.stdout
    assert done.stderr == "error: the picture can't be written to a.png: No space left on device\n"
    assert done.returncode == 1


def test_a_lost_fleet_is_an_error_in_a_sentence(start: Callable[..., Popen]) -> None:
    need_program("mosquitto")
    psutil = need_module("psutil")
    demo = start("demo", "--rounds", 10**6, "-n", 4, "--evaluators", 4)
    assert demo.stdout
    said = ""
    for line in demo.stdout:
        said += line
        if "updates/s" in line:
            children = psutil.Process(demo.pid).children()
            next(child for child in children if "spawn_main" in " ".join(child.cmdline())).kill()
            break
    said += demo.communicate(timeout=60)[0]
    assert demo.returncode == 1
    assert "error: the process of" in said
    assert "has ended with SIGKILL; the demonstration ends after" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("stage", ["Broker:", "Fleet:", "updates/s"])
def test_ctrl_c_ends_it_at_any_stage(stage: str, start: Callable[..., Popen]) -> None:
    need_program("mosquitto")
    demo = start("demo", "--rounds", 10**6, "-n", 4, "--evaluators", 4)
    assert demo.stdout
    for line in demo.stdout:
        if stage in line:
            break
    demo.send_signal(signal.SIGINT)
    said = demo.communicate(timeout=60)[0]
    assert "Stopped after" in said
    assert "Traceback" not in said
    assert demo.returncode == 130
