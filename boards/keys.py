"""The key of a fleet: boards get it when they are flashed, and take updates only that are signed with it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from .errors import BoardError

SHORTEST = 16  # characters


def read_key(path: Path, *, create: bool = False) -> str:
    """The key in the file ``path``; with ``create`` a new one is made if there is no such file.

    Raises `BoardError` for a file that can't be read or written or holds no key.
    """
    try:
        if create and not path.exists():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                os.fchmod(file.fileno(), 0o600)  # whatever the umask
                file.write(secrets.token_hex(32) + "\n")
        key = path.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise BoardError(f"{path}: {error.strerror}") from None
    except UnicodeError:
        raise BoardError(f"{path} holds no key") from None
    return check_key(key, f"{path} holds no key")


def check_key(key: str, complaint: str) -> str:
    """``key`` if it is one, else `BoardError` that begins with ``complaint``."""
    if len(key) < SHORTEST or len(key.split()) != 1:
        raise BoardError(f"{complaint}: {SHORTEST} or more characters without spaces")
    return key
