"""`tinyreptile flash`, with MicroPython on the desk: from nothing to the fleet, and what stands in the way."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from boards import flash
from boards.board import Board, find_port
from boards.errors import BoardError
from boards.flash import install, plan, settings
from boards.keys import read_key
from tests.commands import tinyreptile
from tinyreptile.device import ConfigError

from .desk import Desk


def hashes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bare_board_becomes_a_member_of_the_fleet(
    run: str, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    config = write_config(run=run)
    folder = tmp_path / "bare"
    folder.mkdir()
    with Desk(folder) as desk:
        done = tinyreptile("flash", config, "--port", desk.port, "--id", "d-7", "--key-file", "fleet.key", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "x64" in done.stdout
    assert "it starts as d-7" in done.stdout
    assert f"d-7: joined run tinyreptile/{run}" in done.stdout
    key = tmp_path / "fleet.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    on_board = json.loads((folder / "config.json").read_text())
    assert (on_board["id"], on_board["key"]) == ("d-7", key.read_text().strip())
    assert on_board["key"] not in done.stdout + done.stderr
    assert (folder / "config.last").read_text() == (folder / "config.json").read_text()


def test_flashing_again_writes_what_is_different(new_flash: Callable[[], Path]) -> None:
    folder = new_flash()
    with Desk(folder) as desk, Board(desk.port) as board:
        board.stop()
        about = board.about()
        config = {"id": "desk"}
        install(board, plan(about, config, {}))
        before = hashes_of(folder)
        assert install(board, plan(about, config, {})) == 0
        assert hashes_of(folder) == before
        assert install(board, plan(about, {"id": "other"}, {})) == len(json.dumps({"id": "other"}, indent=1))
    changed = {name for name, content in hashes_of(folder).items() if before.get(name) != content}
    assert changed == {"config.json"}


def test_another_version_goes_to_the_other_folder(new_flash: Callable[[], Path]) -> None:
    folder = new_flash()
    old = (folder / "slot").read_text()
    (folder / old / "tinyreptile" / "device.mpy").write_bytes(b"of another version")
    other = {"a": "b", "b": "a"}[old]
    (folder / other).mkdir()
    (folder / other / "left.mpy").write_bytes(b"over")
    (folder / "trial").write_text(f"{other} 5 3")
    with Desk(folder) as desk, Board(desk.port) as board:
        board.stop()
        install(board, plan(board.about(), {"id": "desk"}, {}))
    assert (folder / "slot").read_text() == other
    assert (folder / old / "tinyreptile" / "device.mpy").read_bytes() == b"of another version"
    assert not (folder / other / "left.mpy").exists()
    assert not (folder / "trial").exists()


def test_a_board_that_loses_power_while_it_is_flashed_starts_as_before(new_flash: Callable[[], Path]) -> None:
    folder = new_flash()
    slot = (folder / "slot").read_text()
    (folder / slot / "tinyreptile" / "device.mpy").write_bytes(b"of another version")
    with Desk(folder) as desk, Board(desk.port) as board:
        board.stop()
        made = plan(board.about(), {"id": "desk"}, {})

        def cut(name: str, done: int, total: int) -> None:
            if done > total // 2:
                desk.cut_power()

        with pytest.raises(BoardError, match=r"connection to .* was lost|the board says"):
            install(board, made, cut)
    assert (folder / "slot").read_text() == slot
    assert not (folder / "trial").exists()
    assert (folder / slot / "tinyreptile" / "device.mpy").read_bytes() == b"of another version"


def test_what_the_owner_had_on_the_board_is_kept(new_flash: Callable[[], Path]) -> None:
    folder = new_flash()
    (folder / "main.py").write_text("print('blink')\n")
    (folder / "notes.txt").write_text("mine\n")
    with Desk(folder) as desk, Board(desk.port) as board:
        board.stop()
        install(board, plan(board.about(), {"id": "desk"}, {}))
    assert (folder / f"main.py{flash.KEPT}").read_text() == "print('blink')\n"
    assert (folder / "notes.txt").read_text() == "mine\n"
    assert not (folder / f"boot.py{flash.KEPT}").exists()


def test_a_file_that_arrives_damaged_is_not_switched_to(new_flash: Callable[[], Path]) -> None:
    folder = new_flash()
    slot = (folder / "slot").read_text()
    (folder / slot / "tinyreptile" / "device.mpy").unlink()
    with Desk(folder) as desk, Board(desk.port) as board:
        board.stop()
        made = plan(board.about(), {"id": "desk"}, {})

        def damage(name: str, done: int, total: int) -> None:
            if name.endswith("msgpack.mpy"):
                path = folder / (name + ".new")
                path.write_bytes(path.read_bytes()[:-1] + b"?")

        with pytest.raises(BoardError, match="arrived damaged"):
            install(board, made, damage)
    assert (folder / "slot").read_text() == slot


def test_files_that_the_configuration_names_go_along(write_config: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "certificates").mkdir()
    (tmp_path / "certificates" / "ca.pem").write_text("-----BEGIN CERTIFICATE-----")
    (tmp_path / "my_streams.py").write_text("class Mine: pass\n")
    path = write_config(tls_ca="certificates/ca.pem", stream={"kind": "my_streams.Mine"})
    config, files = settings(path)
    assert config["tls_ca"] == "ca.pem"
    assert files == {"ca.pem": tmp_path / "certificates" / "ca.pem", "my_streams.py": tmp_path / "my_streams.py"}
    (tmp_path / "rows.csv").write_text("1,2\n")
    config, files = settings(write_config(stream={"kind": "rows", "path": "rows.csv", "inputs": 1, "outputs": 1}))
    assert files == {"rows.csv": tmp_path / "rows.csv"}


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"hots": "x"}, "unknown key hots"),
        ({"port": 0}, "port lies between 1 and 65535"),
        ({"wifi": {"ssid": "home", "pasword": "geheim"}}, "unknown key pasword of wifi"),
        ({"wifi": {"password": "geheim"}}, "wifi: ssid is missing"),
        ({"wifi": {"ssid": "home", "password": 7}}, "wifi: password is a str$"),
        ({"password": 12345}, "password is a str$"),
        ({"watchdog": 1}, "watchdog is a bool, not 1"),
        ({"led": True}, "led is a int or str, not True"),
    ],
)
def test_a_configuration_that_is_wrong_is_told_before_a_board_is_touched(
    write_config: Callable[..., Path], fields: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        settings(write_config(**fields))


def test_a_file_that_is_not_there_is_named(write_config: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(BoardError, match=r"board\.json names .*ca\.pem, which is not there"):
        settings(write_config(tls_ca="ca.pem"))
    with pytest.raises(ConfigError, match=r"no-such\.json can't be read: No such file"):
        settings(tmp_path / "no-such.json")
    (tmp_path / "torn.json").write_text('{"id": ')
    with pytest.raises(ConfigError, match="not valid JSON"):
        settings(tmp_path / "torn.json")


def test_no_port_and_no_board_are_told(tmp_path: Path, write_config: Callable[..., Path]) -> None:
    done = tinyreptile("flash", write_config(), "--port", tmp_path / "ttyNONE", cwd=tmp_path)
    assert done.returncode == 1
    assert "is the board plugged in?" in done.stderr
    assert "Traceback" not in done.stderr


def test_several_boards_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Port:
        def __init__(self, device: str, vid: int | None) -> None:
            self.device = device
            self.vid = vid

    def plugged(*ports: Port) -> None:
        monkeypatch.setattr("boards.board.list_ports.comports", lambda: list(ports))

    plugged(Port("/dev/ttyS0", None))
    with pytest.raises(BoardError, match="no board is plugged in"):
        find_port()
    plugged(Port("/dev/ttyS0", None), Port("/dev/ttyACM1", 0x2E8A))
    assert find_port() == "/dev/ttyACM1"
    plugged(Port("/dev/ttyACM1", 0x2E8A), Port("/dev/ttyUSB0", 0x10C4))
    with pytest.raises(BoardError, match="2 boards are plugged in; name one of them with --port: /dev/ttyACM1, /dev/"):
        find_port()


def test_a_port_that_something_else_has_open_is_busy(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk, Board(desk.port), pytest.raises(BoardError, match="is busy: close the terminal"):
        Board(desk.port)


def test_what_does_not_answer_as_micropython_is_told() -> None:
    master, slave = os.openpty()
    try:
        with Board(os.ttyname(slave)) as board, pytest.raises(BoardError, match="does not answer as MicroPython does"):
            board.stop()
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (
            ("micropython", (1, 22, 0), "Pico", 0x1206, "", 9**6, 200_000),
            "runs MicroPython 1.22.0; put 1.24 or a later",
        ),
        (
            ("micropython", (1, 25, 0), "Pico", 0x1206, "", 9**6, 200_000),
            "runs MicroPython 1.25.0; put 1.24 or a later",
        ),
        (("circuitpython", (9, 0, 0), "Pico", 0x1306, "", 9**6, 200_000), "runs circuitpython 9.0.0, not MicroPython"),
    ],
    ids=["old", "format", "circuitpython"],
)
def test_a_board_that_can_not_run_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: tuple[object, ...], complaint: str
) -> None:
    monkeypatch.setattr("boards.board._ABOUT", f"print({said!r})")
    with Desk(tmp_path) as desk, Board(desk.port) as board:
        board.stop()
        with pytest.raises(BoardError, match=complaint):
            board.about()


def test_a_board_without_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Desk(tmp_path) as desk, Board(desk.port) as board:
        board.stop()
        about = board.about()
        with pytest.raises(BoardError, match=r"has 65,536 bytes of heap; the client needs 98,304"):
            plan(type(about)(**(vars(about) | {"heap": 65536})), {}, {})
        made = plan(type(about)(**(vars(about) | {"flash": 100_000})), {}, {})
        with pytest.raises(BoardError, match=r"has 100,000 bytes of flash free; \d+,\d+ are needed"):
            install(board, made)
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_made_once_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "fleet.key"
    with pytest.raises(BoardError, match="No such file"):
        read_key(path)
    key = read_key(path, create=True)
    assert len(key) == 64
    assert read_key(path, create=True) == key
    path.write_text("short\n")
    with pytest.raises(BoardError, match="holds no key: 16 or more"):
        read_key(path)
