"""Downloads an archive, whatever the network does: what has arrived stays, and the next try goes on from there."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import IO

from .catalogue import Archive, DataError
from .files import forget, record, recorded

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, the bytes of it that are here, and how many there will be, None if nobody knows."""

_BLOCK = 1 << 17
_SECONDS = 30.0  # without a byte, then the server is given up


def download(archive: Archive, folder: Path, progress: Progress | None = None) -> Path:
    """Bring ``archive`` into ``folder`` and return its path; one that is there and whole is taken as it is.

    An archive with a known checksum must have it. Of another one the SHA-256 is recorded in NAME.sha256 when it first
    arrives, and it must have that from then on: so later damage is told, but nothing vouches for the first download.

    What arrives is kept in NAME.part, and the server's mark of the file (its ETag, or its date) in NAME.part.mark. The
    next try asks for the rest of that very file (HTTP Range and If-Range, RFC 9110, section 14); a server that can't,
    or that has another file by now, sends it whole, and it is begun anew.

    Raises `DataError` for whatever goes wrong with network, server or disk, and for a wrong checksum; then nothing is
    left under the archive's own name.
    """
    path = folder / archive.name
    if path.exists():
        if _checksum_error(archive, path, recorded(path)) is None:
            return path
        forget(path)
    part = folder / f"{archive.name}.part"
    mark = folder / f"{archive.name}.part.mark"
    try:
        _receive(archive, part, mark, progress or _silent)
        if wrong := _checksum_error(archive, part, None):
            _drop(part, mark)
            raise DataError(
                f"{archive.address}: what arrived {wrong}, so it was deleted; try again, and if that does not help, "
                "the file there has changed or something on the way changes it"
            )
        if archive.checksum is None:
            record(path, _digest(part, "sha256"))
        part.replace(path)
        mark.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{part} can't be written: {error.strerror or error}; make room or name another folder with --folder DIR, "
            "then run the same command again"
        ) from None
    return path


def _receive(archive: Archive, part: Path, mark: Path, progress: Progress) -> None:
    """Append the rest of ``archive`` to ``part``, or begin it anew; raises `DataError`, or OSError of the disk."""
    have = part.stat().st_size if part.exists() and mark.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": mark.read_text(encoding="latin-1")}
    request = urllib.request.Request(archive.address, headers=headers)  # noqa: S310 - addresses of the catalogue
    try:
        response = urllib.request.urlopen(request, timeout=_SECONDS)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return None  # the last try was ended when all had arrived
            _drop(part, mark)
            return _receive(archive, part, mark, progress)
        raise DataError(
            f"{archive.address}: the server answers {error.code} {error.reason}; try again later, or put a copy of "
            f"the file into {part.parent}"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{archive.address} can't be reached: {reason}; see to the network and try again") from None
    with response:
        if not _continues(response, have):
            have = 0
            _drop(part, mark)  # before the new mark is there: it would vouch for the old part
        _keep_mark(response, mark)
        with part.open("ab" if have else "wb") as file:
            return _copy(archive, response, file, have, progress)


def _copy(archive: Archive, response: http.client.HTTPResponse, file: IO[bytes], have: int, progress: Progress) -> None:
    """Write what ``response`` holds to ``file``, which holds ``have`` bytes; raises `DataError` if it breaks off."""
    rest = response.headers.get("Content-Length")
    total = have + int(rest) if rest and rest.isdigit() else None
    progress(archive.name, have, total)
    reason = "the connection was closed"
    while True:
        try:
            block = response.read(_BLOCK)
        except (OSError, http.client.HTTPException) as error:
            block, reason = b"", str(error) or type(error).__name__
            total = total or have + 1  # without a length only the error says that something is missing
        if not block:
            break
        file.write(block)
        have += len(block)
        progress(archive.name, have, total)
    file.flush()
    os.fsync(file.fileno())
    if total is not None and have < total:
        raise DataError(
            f"{archive.address} broke off after {have:,} of {total:,} bytes: {reason}; run the same command again, "
            "it goes on from there"
        )


def _continues(response: http.client.HTTPResponse, have: int) -> bool:
    """Whether ``response`` begins at byte ``have``; any other holds the file from its beginning."""
    begins = response.headers.get("Content-Range", "")
    return response.status == HTTPStatus.PARTIAL_CONTENT and begins.startswith(f"bytes {have}-")


def _keep_mark(response: http.client.HTTPResponse, mark: Path) -> None:
    """Keep the server's mark of the file, if it gives a strong one; a part without is not continued."""
    tag = response.headers.get("ETag", "")
    value = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
    if value:
        mark.write_text(value, encoding="latin-1")


def _checksum_error(archive: Archive, path: Path, sha256: str | None) -> str | None:
    """What is wrong with the file, or None; ``sha256`` is its recorded digest, for archives without a checksum."""
    expected = archive.checksum or (f"sha256:{sha256}" if sha256 else None)
    if expected is None:
        return None
    kind, _, digest = expected.partition(":")
    actual = _digest(path, kind)
    if actual == digest:
        return None
    return f"has {kind} {actual[:12]}... instead of {digest[:12]}..."


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _drop(part: Path, mark: Path) -> None:
    part.unlink(missing_ok=True)
    mark.unlink(missing_ok=True)


def _silent(name: str, have: int, total: int | None) -> None:
    """Nobody watches."""
