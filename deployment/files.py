"""A fleet's files: each written whole or not at all, for nobody's eyes but the owner's."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from .errors import DeploymentError


def write(path: Path, content: bytes | str) -> None:
    """Put ``content`` in the place of ``path``, mode 0600; raises `DeploymentError`, and leaves what was there then."""
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                os.fchmod(file.fileno(), 0o600)  # whatever the umask
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DeploymentError(f"{path} can't be written: {error.strerror}") from None


def write_changed(path: Path, content: str) -> bool:
    """`write`, if ``content`` is not what ``path`` holds; returns whether it was written."""
    if path.exists() and read(path) == content.encode():
        return False
    write(path, content)
    return True


def read(path: Path) -> bytes:
    """What ``path`` holds; raises `DeploymentError`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DeploymentError(f"{path} can't be read: {error.strerror}") from None


def remove(path: Path) -> None:
    """Delete ``path`` if it is there; raises `DeploymentError`."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DeploymentError(f"{path} can't be deleted: {error.strerror}") from None


def make_folder(path: Path) -> None:
    """``path`` as a folder, with those above it, mode 0700; one that is there stays as it is."""
    if path.is_dir():
        return
    make_folder(path.parent)
    try:
        path.mkdir(mode=0o700)
        path.chmod(0o700)  # whatever the umask
    except OSError as error:
        raise DeploymentError(f"the folder {path} can't be made: {error.strerror}") from None
