"""Downloads: what the network does to them, and what is left on disk."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest

from simulator.data import Archive, DataError
from simulator.data.download import download

from .conftest import CONTENT
from .server import Server

SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


def broken_off(server: Server, archive: Archive, folder: Path, after: int) -> None:
    """Let a first try of the download end after so many bytes."""
    server.break_after = after
    with pytest.raises(DataError, match="broke off"):
        download(archive, folder)
    server.break_after = None


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("checksum", [SHA256, MD5])
def test_an_archive_arrives_whole_and_alone(server: Server, tmp_path: Path, checksum: str) -> None:
    path = download(Archive(server.address("a.zip"), checksum), tmp_path)
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == {"a.zip"}


def test_an_archive_that_is_there_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    archive = Archive(server.address("a.zip"), SHA256)
    download(archive, tmp_path)
    download(archive, tmp_path)
    assert len(server.asked) == 1


def test_an_archive_that_is_there_but_damaged_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(CONTENT[:-1])
    assert download(Archive(server.address("a.zip"), SHA256), tmp_path).read_bytes() == CONTENT


def test_without_a_known_checksum_the_first_arrival_is_recorded_and_damage_told_later(
    server: Server, tmp_path: Path
) -> None:
    archive = Archive(server.address("a.zip"))
    path = download(archive, tmp_path)
    assert (tmp_path / "a.zip.sha256").read_text() == f"{SHA256.removeprefix('sha256:')}  a.zip\n"
    download(archive, tmp_path)
    assert len(server.asked) == 1
    path.write_bytes(b"damaged")
    assert download(archive, tmp_path).read_bytes() == CONTENT


def test_progress_is_told_from_what_is_here_to_all(server: Server, tmp_path: Path) -> None:
    archive = Archive(server.address("a.zip"), SHA256)
    broken_off(server, archive, tmp_path, 200_000)
    told: list[tuple[str, int, int | None]] = []
    download(archive, tmp_path, lambda *what: told.append(what))
    assert told[0] == ("a.zip", 200_000, len(CONTENT))
    assert told[-1] == ("a.zip", len(CONTENT), len(CONTENT))


# Interruptions


def test_an_interrupted_download_goes_on_where_it_ended(server: Server, tmp_path: Path) -> None:
    archive = Archive(server.address("a.zip"), SHA256)
    broken_off(server, archive, tmp_path, 200_000)
    assert names(tmp_path) == {"a.zip.part", "a.zip.part.mark"}
    assert download(archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=200000-"]
    assert names(tmp_path) == {"a.zip"}


def test_an_interrupted_download_goes_on_where_the_server_gives_a_date_only(server: Server, tmp_path: Path) -> None:
    server.etag, server.date = 'W/"weak"', "Wed, 11 Apr 2018 19:41:55 GMT"
    archive = Archive(server.address("a.zip"), SHA256)
    broken_off(server, archive, tmp_path, 200_000)
    assert download(archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=200000-"]


def test_ctrl_c_leaves_what_has_arrived_for_the_next_try(server: Server, tmp_path: Path) -> None:
    archive = Archive(server.address("a.zip"), SHA256)

    def stop(name: str, have: int, total: int | None) -> None:
        if have > 200_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(archive, tmp_path, stop)
    here = (tmp_path / "a.zip.part").stat().st_size
    assert 200_000 < here < len(CONTENT)
    assert download(archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={here}-"]


def test_a_download_that_ended_just_before_it_took_its_name_is_not_repeated(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    (tmp_path / "a.zip.part.mark").write_text('"one"')
    told: list[int] = []
    assert download(Archive(server.address("a.zip"), SHA256), tmp_path, lambda *what: told.append(what[1]))
    assert not told


def test_a_server_without_ranges_is_asked_for_the_whole_file(server: Server, tmp_path: Path) -> None:
    archive = Archive(server.address("a.zip"), SHA256)
    broken_off(server, archive, tmp_path, 200_000)
    server.ranges = False
    assert download(archive, tmp_path).read_bytes() == CONTENT


def test_a_file_that_has_changed_since_is_begun_anew(server: Server, tmp_path: Path) -> None:
    archive = Archive(server.address("a.zip"))
    broken_off(server, archive, tmp_path, 200_000)
    server.content, server.etag = bytes(reversed(CONTENT)), '"two"'
    assert download(archive, tmp_path).read_bytes() == bytes(reversed(CONTENT))


def test_a_file_that_has_become_shorter_than_what_is_here_is_begun_anew(server: Server, tmp_path: Path) -> None:
    archive = Archive(server.address("a.zip"))
    broken_off(server, archive, tmp_path, 200_000)
    server.content = CONTENT[:100_000]
    assert download(archive, tmp_path).read_bytes() == CONTENT[:100_000]
    assert server.asked == [None, "bytes=200000-", None]


def test_a_server_that_does_not_mark_its_file_is_asked_for_the_whole_file(server: Server, tmp_path: Path) -> None:
    server.etag = None
    archive = Archive(server.address("a.zip"))
    broken_off(server, archive, tmp_path, 200_000)
    assert download(archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, None]


# Failures: a sentence that says what to do, and nothing under the archive's name


def test_a_wrong_checksum_is_told_and_nothing_is_kept(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(DataError, match=r"a\.zip: what arrived has sha256 .* instead of .*, so it was deleted; try"):
        download(Archive(server.address("a.zip"), SHA256), tmp_path)
    assert not names(tmp_path)


def test_a_download_that_breaks_off_says_that_the_same_command_goes_on(server: Server, tmp_path: Path) -> None:
    server.break_after = 200_000
    with pytest.raises(DataError, match=r"broke off after 200,000 of 512,000 bytes: .* run the same command again"):
        download(Archive(server.address("a.zip"), SHA256), tmp_path)
    assert "a.zip" not in names(tmp_path)


def test_a_short_body_of_unknown_length_is_told_by_its_checksum(server: Server, tmp_path: Path) -> None:
    server.length, server.break_after = False, 200_000
    with pytest.raises(DataError, match="what arrived has sha256"):
        download(Archive(server.address("a.zip"), SHA256), tmp_path)
    assert "a.zip" not in names(tmp_path)


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (503, "Service Unavailable")])
def test_a_refusal_of_the_server_is_told(server: Server, tmp_path: Path, status: int, reason: str) -> None:
    server.status = status
    with pytest.raises(DataError, match=f"the server answers {status} {reason}; try again later, or put a copy"):
        download(Archive(server.address("a.zip"), SHA256), tmp_path)
    assert not names(tmp_path)


def test_a_server_that_is_not_there_is_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.zip can't be reached: .*; see to the network and try again"):
        download(Archive("http://127.0.0.1:1/a.zip", SHA256), tmp_path)


def test_a_full_disk_is_told_and_leaves_nothing_under_the_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("simulator.data.download.os.fsync", full)
    with pytest.raises(DataError, match=r"a\.zip\.part can't be written: No space left on device; make room or name"):
        download(Archive(server.address("a.zip"), SHA256), tmp_path)
    assert "a.zip" not in names(tmp_path)


def test_a_folder_that_can_not_be_written_is_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be written: No such file or directory"):
        download(Archive(server.address("a.zip"), SHA256), tmp_path / "nowhere")
