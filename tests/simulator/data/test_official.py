"""From official archives to the arrays that tasks read; the archives here are made by the tests."""

from __future__ import annotations

import dataclasses
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simulator.data import DATA_SETS, Archive, DataError, fetch, find, load, official

from .archives import (
    TEST_SET,
    made_up_office,
    made_up_room,
    office_archive,
    omniglot_archives,
    room_archive,
    shared,
    some_characters,
    speech_archive,
)
from .server import Server

# Damage, of every kind of archive

MADE: dict[str, Callable[[Path], list[Path]]] = {
    "omniglot28": lambda folder: omniglot_archives(folder, *some_characters()),
    "omniglot105": lambda folder: omniglot_archives(folder, *some_characters()),
    "speech_commands_8k": lambda folder: [speech_archive(folder, TEST_SET)],
    "occupancy_office": lambda folder: [office_archive(folder, made_up_office())],
    "occupancy_room_nodes": lambda folder: [room_archive(folder, made_up_room(), "%Y/%m/%d")],
}


@pytest.mark.parametrize("name", MADE)
def test_an_archive_that_is_cut_off_is_a_data_error_that_names_it(name: str, tmp_path: Path) -> None:
    paths = MADE[name](tmp_path)
    official.READERS[name](paths)
    paths[-1].write_bytes(paths[-1].read_bytes()[: paths[-1].stat().st_size * 2 // 3])
    with pytest.raises(
        DataError, match=f"{paths[-1].name} is damaged or not what it should be .*; delete it and fetch"
    ):
        official.READERS[name](paths)


@pytest.mark.parametrize("name", MADE)
def test_an_archive_with_damage_inside_is_a_data_error(name: str, tmp_path: Path) -> None:
    paths = MADE[name](tmp_path)
    content = bytearray(paths[0].read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    paths[0].write_bytes(content)
    with pytest.raises(DataError, match=paths[0].name):
        official.READERS[name](paths)


@pytest.mark.parametrize("name", MADE)
def test_an_archive_of_something_else_is_a_data_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "other"
    if name.startswith("speech"):
        with tarfile.open(path, "w:gz") as tar:
            tar.addfile(tarfile.TarInfo("x.txt"))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.txt", "nothing")
    with pytest.raises(DataError, match=r"other: no .* in it; delete it and fetch it anew"):
        official.READERS[name]([path])


# Fetching


@pytest.fixture
def office(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server in UCI's place, with a made-up office."""
    server.content = office_archive(tmp_path, made_up_office()).read_bytes()
    known = DATA_SETS["occupancy_office"]
    there = dataclasses.replace(known, archives=(Archive(server.address("office.zip")),))
    monkeypatch.setitem(DATA_SETS, "occupancy_office", there)
    return server


def test_what_was_fetched_is_loaded_from_then_on(office: Server, tmp_path: Path) -> None:
    fetched = fetch("occupancy_office", tmp_path / "new" / "folder")
    assert fetched.new
    assert fetched.path == find("occupancy_office", tmp_path / "new" / "folder")
    np.testing.assert_array_equal(load("occupancy_office", fetched.path.parent)["occupied"], np.arange(60) % 2)


def test_fetching_goes_to_the_folder_that_the_environment_names(
    office: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYREPTILE_DATA", str(tmp_path / "mine"))
    assert fetch("occupancy_office").path.parent == tmp_path / "mine"


def test_a_data_set_that_is_there_is_not_fetched_again(office: Server, tmp_path: Path) -> None:
    fetch("occupancy_office", tmp_path)
    assert not fetch("occupancy_office", tmp_path).new
    assert len(office.asked) == 1


def test_a_data_set_that_was_damaged_since_is_made_anew_from_its_archive(office: Server, tmp_path: Path) -> None:
    fetch("occupancy_office", tmp_path).path.write_bytes(b"damaged")
    assert fetch("occupancy_office", tmp_path).new
    load("occupancy_office", tmp_path)
    assert len(office.asked) == 1


def test_fetching_says_whether_the_arrays_are_those_of_the_projects_file(office: Server, tmp_path: Path) -> None:
    assert fetch("occupancy_office", tmp_path).as_known is False
    office.content = office_archive(tmp_path, shared("occupancy_office")).read_bytes()
    assert fetch("occupancy_office", tmp_path / "other").as_known is True


def test_an_archive_that_arrived_damaged_is_fetched_anew_the_next_time(office: Server, tmp_path: Path) -> None:
    whole, office.content = office.content, office.content[:-100]
    with pytest.raises(DataError, match=r"office\.zip is damaged"):
        fetch("occupancy_office", tmp_path / "folder")
    assert not list((tmp_path / "folder").glob("**/office.zip*"))
    office.content = whole
    assert fetch("occupancy_office", tmp_path / "folder").new


def test_fetching_an_unknown_data_set_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"is one of omniglot28, .*, not 'x'"):
        fetch("x")


def test_a_folder_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="can't be made: Not a directory; name another folder with --folder DIR"):
        fetch("occupancy_office", tmp_path / "file")
