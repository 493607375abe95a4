"""Finding data sets on this machine, and vouching for them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from simulator.data import (
    DATA_SETS,
    ENVIRONMENT,
    SHA256,
    Arrays,
    DataError,
    content_digest,
    files,
    find,
    load,
    save,
)
from simulator.tasks import TaskError, make_task

from ...environment import require

NAMES = tuple(DATA_SETS)


def arrays() -> Arrays:
    return {
        "numbers": np.arange(6, dtype=np.int16).reshape(2, 3),
        "names": np.array(["a", "bcd"]),
        "one": np.array(8000, np.int32),
    }


# Finding


@pytest.mark.parametrize("name", NAMES)
def test_a_data_set_is_in_the_given_folder_before_the_environment_before_the_cache(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / part for part in ("given", "environment", "cache")]
    for folder in folders:
        folder.mkdir()
        (folder / f"{name}.npz").touch()
    monkeypatch.setenv(ENVIRONMENT, str(folders[1]))
    monkeypatch.setattr(files, "CACHE", folders[2])
    assert find(name, folders[0]).parent == folders[0]
    assert find(name).parent == folders[1]
    monkeypatch.delenv(ENVIRONMENT)
    assert find(name).parent == folders[2]


def test_an_absent_folder_is_an_error_that_says_who_named_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"occupancy_office: there is no folder .*nowhere, which --data names"):
        load("occupancy_office", tmp_path / "nowhere")
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="which TINYREPTILE_DATA names"):
        load("occupancy_office")


def test_an_absent_file_is_an_error_that_says_how_to_get_it(tmp_path: Path) -> None:
    advice = "with --data DIR or TINYREPTILE_DATA, or get it with tinyreptile data fetch occupancy_office$"
    with pytest.raises(DataError, match=f"office.npz does not exist; .* {advice}"):
        load("occupancy_office", tmp_path)


def test_an_unknown_data_set_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"is one of omniglot28, .*, occupancy_room_nodes, not 'x'"):
        find("x")


@pytest.mark.parametrize(
    ("task", "name"),
    [("presence", "occupancy_office"), ("omniglot", "omniglot28"), ("keywords", "speech_commands_8k")],
)
def test_a_task_without_its_data_is_a_task_error(task: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=f"data set {name}"):
        make_task(task, tmp_path)


# Vouching


def test_a_damaged_file_is_an_error_that_gives_both_checksums(tmp_path: Path) -> None:
    (tmp_path / "occupancy_office.npz").write_bytes(b"")
    with pytest.raises(DataError, match="begins with e3b0c44298fc instead of ea81e124cb60"):
        load("occupancy_office", tmp_path)


def test_an_unreadable_file_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "occupancy_office.npz").mkdir()
    with pytest.raises(DataError, match="can't be read"):
        load("occupancy_office", tmp_path)


def test_arrays_are_read_as_they_were_saved(tmp_path: Path) -> None:
    path = save("omniglot28", arrays(), tmp_path)
    assert path == tmp_path / "omniglot28.npz"
    read = load("omniglot28", tmp_path)
    assert content_digest(read) == content_digest(arrays())
    assert {key: value.dtype for key, value in read.items()} == {key: value.dtype for key, value in arrays().items()}
    assert {path.name for path in tmp_path.iterdir()} == {"omniglot28.npz", "omniglot28.npz.sha256"}


def test_a_saved_file_that_was_damaged_since_is_an_error(tmp_path: Path) -> None:
    path = save("omniglot28", arrays(), tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    expected = hashlib.sha256(content).hexdigest()[:12]
    with pytest.raises(DataError, match=f"instead of {SHA256['omniglot28'][:12]} or {expected}; replace the file"):
        load("omniglot28", tmp_path)


def test_a_file_of_which_nobody_knows_the_checksum_is_not_read(tmp_path: Path) -> None:
    save("speech_commands_full_8k", arrays(), tmp_path).with_name("speech_commands_full_8k.npz.sha256").unlink()
    with pytest.raises(DataError, match="instead of one that is recorded beside it"):
        load("speech_commands_full_8k", tmp_path)


def test_a_file_that_can_not_be_written_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(DataError, match=r"omniglot28\.npz can't be written: No space left on device; make room"):
        save("omniglot28", arrays(), tmp_path)
    assert not list(tmp_path.iterdir())


CHANGES: dict[str, Arrays] = {
    "value": {"numbers": np.array([[0, 1, 2], [3, 4, 6]], np.int16)},
    "shape": {"numbers": np.arange(6, dtype=np.int16).reshape(3, 2)},
    "dtype": {"numbers": np.arange(6, dtype=np.uint16).reshape(2, 3)},
    "key": {"number": np.arange(6, dtype=np.int16).reshape(2, 3)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_content_digest_tells_every_change(change: str) -> None:
    assert content_digest(arrays() | CHANGES[change]) != content_digest(arrays())


def test_the_content_digest_knows_neither_order_nor_byte_order() -> None:
    turned = {key: value.astype(value.dtype.newbyteorder(">")) for key, value in reversed(arrays().items())}
    assert content_digest(turned) == content_digest(arrays())


@pytest.mark.parametrize("name", SHA256)
def test_the_projects_files_hold_what_the_catalogue_says(name: str) -> None:
    try:
        path = find(name)
    except DataError as error:
        require(False, str(error))
    assert DATA_SETS[name].content == content_digest(load(name))
    assert abs(path.stat().st_size - DATA_SETS[name].size) < 0.1 * DATA_SETS[name].size
