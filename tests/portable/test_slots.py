"""Two slots for the library: whatever happens while one is filled and tried, a whole version starts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import slots
from tinyreptile.software import Image, pack

OLD, NEW = 3, 4
FILES = {"tinyreptile/__init__.py": b"new", "tinyreptile/client.py": b"x" * 3000, "version": str(NEW).encode()}


class PowerCut(BaseException):
    """No code of the board's survives it."""


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A flash with version OLD in folder a."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "tinyreptile").mkdir(parents=True)
    (tmp_path / "a" / "tinyreptile" / "__init__.py").write_bytes(b"old")
    (tmp_path / "a" / "version").write_text(str(OLD))
    (tmp_path / "slot").write_text("a")
    return tmp_path


def install() -> None:
    """What a board does with an image that has arrived."""
    packed = pack(FILES)
    image = Image(NEW, len(packed))
    for index in range(0, len(packed), 1024):
        image.add(index // 1024, NEW, packed[index : index + 1024])
    folder = slots.spare()
    image.unpack(folder)
    image.close()
    slots.begin(folder, NEW)


def running(folder: str) -> int:
    """The version in ``folder``; fails if that is not whole."""
    path = Path(folder)
    number = int((path / "version").read_text())
    if number == NEW:
        assert {name: (path / name).read_bytes() for name in FILES} == FILES
    else:
        assert (path / "tinyreptile" / "__init__.py").read_bytes() == b"old"
    return number


def test_without_slots_nothing_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert slots.choose() == ""
    assert slots.version() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_comes_up_stays(board: Path) -> None:
    install()
    assert slots.version() == NEW
    assert running(slots.choose()) == NEW
    slots.confirm()
    for _ in range(5):
        assert running(slots.choose()) == NEW
    assert slots.spare() == "a"
    assert not (board / "trial").exists()


def test_a_version_that_never_comes_up_gives_way_and_is_not_installed_again(board: Path) -> None:
    install()
    assert [running(slots.choose()) for _ in range(slots.TRIES + 2)] == [NEW] * slots.TRIES + [OLD] * 2
    slots.confirm()  # the old one comes up, which confirms nothing
    assert running(slots.choose()) == OLD
    assert slots.version() == NEW


@pytest.mark.parametrize("content", ["", "b", "c 4 3", "b four 3", "b 4 -1", "b 4 3 2", "\x00\xff"])
@pytest.mark.parametrize("name", ["trial", "failed"])
def test_a_damaged_note_is_none(board: Path, name: str, content: str) -> None:
    (board / name).write_bytes(content.encode("latin-1"))
    assert running(slots.choose()) == OLD
    assert slots.version() >= OLD


def test_a_damaged_slot_is_none(board: Path) -> None:
    (board / "slot").write_text("/etc")
    assert slots.choose() == ""


class Flash:
    """Counts what is done to the file system, and cuts the power at operation number ``cut``."""

    def __init__(self, cut: int, torn: bool) -> None:
        self.count = 0
        self.cut = cut
        self.torn = torn  # a write that the power cut ends has written half

    def strike(self) -> bool:
        self.count += 1
        return self.count == self.cut

    def watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            if self.strike():
                raise PowerCut
            return function(*arguments, **options)

        return watched

    def open(self, path: str, mode: str = "r") -> Any:
        file = Path(path).open(mode)  # noqa: SIM115 - it is handed on
        if "w" in mode:
            return Written(file, self)
        return file


class Written:
    """A file whose writes may be cut."""

    def __init__(self, file: Any, flash: Flash) -> None:
        self._file = file
        self._flash = flash

    def write(self, data: Any) -> Any:
        if self._flash.strike():
            if self._flash.torn:
                self._file.write(data[: len(data) // 2])
            self._file.close()
            raise PowerCut
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@pytest.fixture
def cutting(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, bool], Flash]:
    """Sets up a power cut."""
    names = ("rename", "remove", "mkdir", "rmdir")
    originals = {name: getattr(os, name) for name in names}

    def set_up(cut: int, torn: bool) -> Flash:
        flash = Flash(cut, torn)
        for name in names:
            monkeypatch.setattr(os, name, flash.watch(originals[name]))
        for module in ("slots", "tinyreptile.software"):
            monkeypatch.setattr(f"{module}.open", flash.open, raising=False)
        return flash

    return set_up


def test_a_file_system_that_does_not_rename_on_to_files_keeps_its_slot(
    board: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def careful(source: str, target: str) -> None:
        if Path(target).exists():
            raise FileExistsError(target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", careful)
    install()
    assert running(slots.choose()) == NEW
    remove = os.remove

    def cut(path: str) -> None:
        remove(path)
        if path == "slot":
            raise PowerCut

    monkeypatch.setattr(os, "remove", cut)
    with pytest.raises(PowerCut):
        slots.confirm()
    monkeypatch.setattr(os, "remove", remove)
    assert not Path("slot").exists()
    assert running(slots.choose()) == NEW
    slots.confirm()
    assert running(slots.choose()) == NEW


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files that the power cut left open
@pytest.mark.parametrize("torn", [False, True])
def test_a_power_cut_anywhere_leaves_a_version_that_starts(
    board: Path, tmp_path_factory: pytest.TempPathFactory, cutting: Any, torn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def life() -> None:
        install()
        assert running(slots.choose()) == NEW
        slots.confirm()

    cut = 0
    while True:
        cut += 1
        fresh = tmp_path_factory.mktemp("flash")
        shutil.copytree(board, fresh, dirs_exist_ok=True)
        monkeypatch.chdir(fresh)
        flash = cutting(cut, torn)
        with suppress(PowerCut):
            life()
        if flash.count < cut:
            break
        cutting(0, torn)
        # It starts, however often; and what was cut short can be done again.
        versions = [running(slots.choose()) for _ in range(slots.TRIES + 1)]
        assert set(versions) <= {OLD, NEW}
        if versions[-1] == OLD and slots.version() == OLD:
            life()
            assert running(slots.choose()) == NEW
    assert flash.count > 20
