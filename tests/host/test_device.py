"""`tinyreptile device`, and what keeps a board going, with MicroPython on the desk."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from boards.board import Board
from boards.errors import BoardError
from boards.library import compiled
from command_line.app import app
from tests.commands import Popen, lines_until, tinyreptile, wait_until
from tests.environment import Mosquitto
from tinyreptile import __version__

from .desk import Desk

KEY = "0123456789abcdef"


def joined(desk: Desk, count: int = 1, seconds: float = 60) -> list[str]:
    """What the board says until it has joined ``count`` times."""
    said = []
    with Board(desk.port) as board:
        for line in board.follow(seconds):
            if line:
                said.append(line)
            count -= "joined run" in line
            if not count:
                return said
    raise AssertionError(f"it never joined: {said}")


@pytest.fixture
def board(new_flash: Callable[[], Path], write_config: Callable[..., Path], run: str) -> Path:
    """The flash of a board that is to join the run."""
    folder = new_flash()
    (folder / "config.json").write_text(write_config(run=run, key=KEY).read_text())
    return folder


@pytest.fixture
def where(broker: Mosquitto, run: str) -> tuple[str, ...]:
    """The options that name run and broker."""
    return ("--run", run, "--broker", f"127.0.0.1:{broker.port}")


def test_how_long_a_board_may_take_for_a_command_can_be_set(board: Path, tmp_path: Path) -> None:
    with Desk(board) as desk:
        joined(desk)
        with Board(desk.port, 1) as impatient:
            impatient.stop()
            with pytest.raises(BoardError, match=r"has not answered for 1 s; --timeout gives it more time"):
                impatient._run("import time\ntime.sleep(9)")
        with Board(desk.port, 10) as patient:
            patient.stop()
            assert patient._run("import time\ntime.sleep(2)\nprint('done')").strip() == "done"
            with pytest.raises(BoardError, match=r"an answer of the board at .* is damaged"):
                patient._value("print('[' * 300)")
            patient.restart()
        shown = tinyreptile("device", "config", "--port", desk.port, "--timeout", 30, cwd=tmp_path)
        assert (shown.returncode, '"id": "desk"' in shown.stdout) == (0, True), shown.stderr


def test_its_log_can_be_read_over_mqtt(board: Path, where: tuple[str, ...], tmp_path: Path) -> None:
    (board / "ended").write_text("MemoryError: memory allocation failed")
    with Desk(board) as desk:
        joined(desk)
        done = tinyreptile("device", "logs", "desk", *where, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the last start was ended by MemoryError: memory allocation failed" in done.stdout
    assert "joined run" in done.stdout
    assert KEY not in done.stdout
    assert not (board / "ended").exists()


def test_it_restarts_when_asked_to(board: Path, where: tuple[str, ...], tmp_path: Path) -> None:
    with Desk(board) as desk:
        joined(desk)
        done = tinyreptile("device", "reset", "desk", *where, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "desk is online again" in done.stdout
        assert desk.starts == 2
        done = tinyreptile("device", "reset", "--port", desk.port, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        wait_until(lambda: desk.starts == 3)


def test_it_predicts_while_it_works_for_the_fleet(
    board: Path, where: tuple[str, ...], start: Callable[..., Popen]
) -> None:
    content = json.loads((board / "config.json").read_text())
    (board / "config.json").write_text(json.dumps(content | {"predict": 0.05}))
    with Desk(board) as desk:
        joined(desk)
        watching = start("device", "predictions", "desk", *where)
        lines = lines_until(watching, lambda lines: len(lines) > 10)
    assert lines[0] == "listening to desk, which is online; Ctrl-C ends it"
    assert re.fullmatch(r"-?\d+\.\d{3}; loss of late \d+\.\d{4}; \d+ samples since version \d+", lines[-1])


def test_a_board_that_is_not_there_is_told(where: tuple[str, ...], tmp_path: Path) -> None:
    done = tinyreptile("device", "logs", "nobody", *where, cwd=tmp_path)
    assert done.returncode == 1
    assert "nobody does not answer" in done.stderr


def test_its_configuration_is_shown_without_secrets(board: Path, tmp_path: Path) -> None:
    content = json.loads((board / "config.json").read_text())
    (board / "config.json").write_text(
        json.dumps(
            content
            | {"wifi": {"ssid": "home", "password": "geheim"}, "password": "verborgen", "client_id": "thing-{id}"}
        )
    )
    with Desk(board) as desk:
        done = tinyreptile("device", "config", "--port", desk.port, cwd=tmp_path)
        wait_until(lambda: desk.starts == 2)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["id"], shown["client_id"]) == ("desk", "thing-{id}")
    assert (shown["key"], shown["password"]) == ("(secret)", "(secret)")
    assert shown["wifi"] == {"ssid": "home", "password": "(secret)"}
    for secret in ("geheim", "verborgen", KEY):
        assert secret not in done.stdout + done.stderr


def test_what_it_prints_can_be_watched(board: Path, start: Callable[..., Popen], run: str) -> None:
    with Desk(board) as desk:
        watching = start("device", "monitor", "--port", desk.port)
        assert watching.stdout
        assert watching.stdout.readline() == f"watching {desk.port}; Ctrl-C ends it\n"
        desk.cut_power()  # what it printed before nobody read
        lines_until(watching, lambda lines: lines[-1] == f"desk: joined run tinyreptile/{run}")


def test_a_corrupt_configuration_gives_way_to_the_last_good_one(
    board: Path, where: tuple[str, ...], tmp_path: Path
) -> None:
    with Desk(board) as desk:
        joined(desk)
    good = (board / "config.json").read_text()
    (board / "config.json").write_text(good[: len(good) // 2])
    with Desk(board) as desk:
        said = joined(desk)
        assert any("config.json is not valid JSON; the last good configuration is taken" in line for line in said)
        status = tinyreptile("status", *where, cwd=tmp_path)
    assert "config.json is not valid JSON" in status.stdout


def test_without_any_good_configuration_the_board_waits_at_its_prompt(board: Path) -> None:
    (board / "config.json").write_text('{"id": "desk", "stream": {"kind": "sine", "seed": 1}}')
    with Desk(board) as desk, Board(desk.port) as connection:
        assert any(line == "error: config.json: host is missing" for line in connection.follow(30))
        connection.stop()
        assert desk.starts == 1


def test_an_update_over_mqtt_is_taken_and_a_bad_one_given_up(
    board: Path, where: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "fleet.key").write_text(KEY + "\n")
    (tmp_path / "other.key").write_text(KEY[::-1] + "\n")
    before = (board / "slot").read_text()
    with Desk(board) as desk:
        joined(desk)
        done = tinyreptile("device", "update", "--key-file", "other.key", "--wait", "5", *where, cwd=tmp_path)
        assert done.returncode == 1
        assert "not updated within 5 s: desk" in done.stderr
        assert (
            "is not signed with this board's key" in tinyreptile("device", "logs", "desk", *where, cwd=tmp_path).stdout
        )
        done = tinyreptile("device", "update", "--key-file", "fleet.key", *where, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1 of 1 boards that are online run version" in done.stdout
        after = (board / "slot").read_text()
        assert after != before
        assert desk.starts == 2
        done = tinyreptile("device", "update", "--key-file", "other.key", "--wait", "5", *where, cwd=tmp_path)
        assert done.returncode == 1
        assert "which boards of the run have taken, is signed with another key" in " ".join(done.stderr.split())
        done = tinyreptile("device", "update", "--key-file", "fleet.key", *where, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_version_that_does_not_come_up_is_told(
    board: Path, where: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fleet.key").write_text(KEY)

    def broken(files: dict[str, Path], chip: str, progress: Callable[[str], None]) -> dict[str, bytes]:
        return compiled(files, chip, progress=progress) | {"tinyreptile/device.mpy": b"M\x05of another release"}

    monkeypatch.setattr("command_line.device.compiled", broken)
    before = int((board / (board / "slot").read_text() / "version").read_text())
    with Desk(board) as desk:
        joined(desk)
        result = CliRunner().invoke(app, ["device", "update", "--key-file", str(tmp_path / "fleet.key"), *where])
        assert isinstance(result.exception, BoardError), result.output
        assert str(result.exception).startswith("it did not come up, and the one before runs again, on desk;")
        number = int((board / "failed").read_text())
        sentence = f"version {number} of the library did not come up; {before} runs again"
        assert sentence in tinyreptile("device", "logs", "desk", *where, cwd=tmp_path).stdout
        status = tinyreptile("status", *where, cwd=tmp_path, COLUMNS="250").stdout
        assert sentence in status
        assert f"{__version__} {before}" in status


def test_updates_need_a_board_that_takes_them(where: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "fleet.key").write_text(KEY)
    done = tinyreptile("device", "update", "--key-file", "fleet.key", *where, cwd=tmp_path)
    assert done.returncode == 1
    assert "takes updates: flash them with --key-file" in done.stderr
