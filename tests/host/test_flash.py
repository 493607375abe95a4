"""`tinyreptile flash`, with MicroPython on the desk: from nothing to the fleet, and what stands in the way."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from boards import flash
from boards.board import Board, find_port
from boards.errors import BoardError
from boards.flash import install, plan, settings
from boards.keys import read_key
from tests.certificates import Certificates
from tests.commands import Popen, tinyreptile, wait_until
from tests.environment import ROOT, Mosquitto
from tinyreptile.device import ConfigError

from .desk import Desk
from .test_device import joined


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
    Certificates(tmp_path / "certificates")
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
        ({"id": ""}, "id has 1 to 32 characters, not ''"),
        ({"id": "kit chen"}, "id is made of letters, digits, - and _, not 'kit chen'"),
        ({"run": "k" * 40}, "run has 1 to 32 characters"),
        ({"run": "my kitchen"}, "run is made of letters"),
        ({"role": "trian"}, "role is train or evaluate, not 'trian'"),
        ({"host": ""}, "host is a name or an address alone, with the port in port, not ''"),
        ({"host": "mqtt://127.0.0.1:1883"}, "host is a name or an address alone"),
        ({"host": "127.0.0.1:1883"}, "host is a name or an address alone"),
        ({"keepalive": "30"}, "keepalive is an int, not '30'"),
        ({"wifi": {"ssid": "home", "password": 7}}, "wifi: password is a str$"),
        ({"password": 12345}, "password is a str$"),
        ({"watchdog": 1}, "watchdog is a bool, not 1"),
        ({"led": True}, "led is an int or str, not True"),
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


def test_an_id_of_the_command_line_is_checked_as_the_files_is(write_config: Callable[..., Path]) -> None:
    assert settings(write_config(host="::1"), "d-7")[0]["id"] == "d-7"
    with pytest.raises(ConfigError, match="id has 1 to 32 characters"):
        settings(write_config(), "")


def test_a_key_in_the_configuration_is_checked_as_a_key_file_is(write_config: Callable[..., Path]) -> None:
    with pytest.raises(BoardError, match=r"board\.json: key is none: 16 or more characters without spaces") as error:
        settings(write_config(key="geheim"))
    assert "geheim" not in str(error.value)


def test_a_file_that_holds_no_certificate_is_told(write_config: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate\n")
    with pytest.raises(BoardError, match=r"tls_ca: .*ca\.pem holds no certificate in PEM form"):
        settings(write_config(tls_ca="ca.pem"))


def test_a_mark_at_the_beginning_of_the_file_is_passed_over(write_config: Callable[..., Path]) -> None:
    path = write_config()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert settings(path)[0]["id"] == "desk"


def test_a_module_that_can_not_be_compiled_is_told_before_the_board_is_stopped(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "my_streams.py").write_text("class Mine:\n    def sample(self:\n")
    done = tinyreptile(
        "flash", write_config(stream={"kind": "my_streams.Mine"}), "--port", tmp_path / "none", cwd=tmp_path
    )
    assert done.returncode == 1
    assert "my_streams.py, line 2: '(' was never closed" in done.stderr


@pytest.fixture
def member(new_flash: Callable[[], Path], write_config: Callable[..., Path], run: str) -> Path:
    """The flash of a board that joins the run as kitchen-3."""
    folder = new_flash()
    (folder / "config.json").write_text(write_config(run=run, id="kitchen-3").read_text())
    return folder


def test_a_board_that_can_not_be_flashed_goes_on(
    member: Path, run: str, write_config: Callable[..., Path], tmp_path: Path, broker: Mosquitto
) -> None:
    # Python reads it, but no chip of the desk's has this assembler.
    (tmp_path / "my_streams.py").write_text("@micropython.asm_thumb\ndef f():\n    nop()\n")
    path = write_config(run=run, stream={"kind": "my_streams.Mine"})
    with Desk(member) as desk:
        joined(desk)
        done = tinyreptile("flash", path, "--port", desk.port, cwd=tmp_path)
        assert done.returncode == 1
        assert "my_streams.py does not compile for x64" in done.stderr
        assert "the board was restarted with what it had; flashing it again goes on from here" in done.stderr
        where = ("--run", run, "--broker", f"127.0.0.1:{broker.port}")
        wait_until(lambda: "joined run" in tinyreptile("device", "logs", "kitchen-3", *where, cwd=tmp_path).stdout)
        assert desk.starts == 2


def test_ctrl_c_in_the_middle_of_flashing_lets_the_board_go_on(
    member: Path, run: str, write_config: Callable[..., Path], tmp_path: Path, start: Callable[..., Popen]
) -> None:
    slot = (member / "slot").read_text()
    (member / slot / "tinyreptile" / "device.mpy").write_bytes(b"")  # so that all of the library is written anew
    spare = member / {"a": "b", "b": "a"}[slot]
    path = write_config(run=run)
    with Desk(member) as desk:
        flashing = start("flash", path, "--port", desk.port)
        wait_until(lambda: (spare / "tinyreptile" / "client.mpy").exists())
        flashing.send_signal(signal.SIGINT)
        output, _ = flashing.communicate(timeout=30)
        assert flashing.returncode == 130, output
        assert "the board was restarted with what it had" in output
        wait_until(lambda: desk.starts == 2)
        assert (member / "slot").read_text() == slot
        written = {file: file.stat().st_mtime_ns for file in (spare / "tinyreptile").glob("*.mpy")}
        done = tinyreptile("flash", path, "--port", desk.port, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert all(file.stat().st_mtime_ns == at for file, at in written.items())


@pytest.mark.parametrize("board_id", ["kitchen-3", "kitchen-4"])
def test_a_configuration_that_only_the_board_can_refuse_is_told(
    member: Path, run: str, write_config: Callable[..., Path], tmp_path: Path, board_id: str
) -> None:
    path = write_config(run=run, stream={"kind": "sine"})
    with Desk(member) as desk:
        joined(desk)
        done = tinyreptile("flash", path, "--port", desk.port, "--id", board_id, cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    assert "the board did not take this configuration, it goes on as kitchen-3" in done.stderr


def test_a_run_without_a_coordinator_is_told(
    member: Path, write_config: Callable[..., Path], tmp_path: Path, broker: Mosquitto
) -> None:
    with Desk(member) as desk:
        done = tinyreptile("flash", write_config(run="kichen"), "--port", desk.port, "--wait", "20", cwd=tmp_path)
        assert done.returncode == 1
        assert "the last that it said: desk: connected; run tinyreptile/kichen has no coordinator yet" in done.stderr
        where = ("--run", "kichen", "--broker", f"127.0.0.1:{broker.port}")
        logs = tinyreptile("device", "logs", "desk", *where, cwd=tmp_path)
    assert "connected; run tinyreptile/kichen has no coordinator yet" in logs.stdout


def test_an_id_that_another_board_has_is_told(
    member: Path, new_flash: Callable[[str], Path], run: str, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    with Desk(member) as first, Desk(new_flash("second")) as second:
        joined(first)
        done = tinyreptile(
            "flash", write_config(run=run), "--id", "kitchen-3", "--port", second.port, "--wait", "20", cwd=tmp_path
        )
    assert done.returncode == 1
    assert "the board can't join: the id kitchen-3 is already online; give each device an id of its own" in done.stderr
    assert "Traceback" not in done.stdout


def test_no_port_and_no_board_are_told(tmp_path: Path, write_config: Callable[..., Path]) -> None:
    done = tinyreptile("flash", write_config(), "--port", tmp_path / "ttyNONE", cwd=tmp_path)
    assert done.returncode == 1
    assert "is the board plugged in?" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_is_no_port(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine\n")
    with pytest.raises(BoardError, match=r"notes\.txt is no serial port"):
        Board(str(tmp_path / "notes.txt"))


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


@pytest.mark.parametrize("content", ["[" * 100_000, "9" * 5000, "{"])
def test_a_configuration_that_is_no_json_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "board.json").write_text(content)
    with pytest.raises(ConfigError, match=r"board\.json is not valid JSON: "):
        settings(tmp_path / "board.json")


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


def test_there_is_a_board_to_try_it_with(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.host.desk", str(tmp_path / "flash")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        lines = process.stdout
        assert lines
        port = lines.readline().split()[4].rstrip(";")
        with Board(port) as board:
            board.stop()
            assert board.about().chip == "x64"
            board.write("notes.txt", b"mine")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert (tmp_path / "flash" / "notes.txt").read_bytes() == b"mine"
