"""Passwords of accounts, and what a broker keeps of them: PBKDF2-SHA512, as Mosquitto writes it."""

from __future__ import annotations

import hashlib
import secrets
from base64 import b64decode, b64encode
from dataclasses import dataclass

# As mosquitto_passwd has it. Our passwords have 192 random bits: more rounds would protect nothing, and the broker
# checks each connection's in its only thread.
ITERATIONS = 101
_SALT_BYTES = 12


@dataclass(frozen=True)
class Hash:
    """A password's hash and the salt in it, both in base64."""

    salt: str
    digest: str


def new_password() -> str:
    """32 characters that nobody guesses."""
    return secrets.token_urlsafe(24)


def hashed(password: str, salt: bytes | None = None) -> Hash:
    """The hash of ``password`` with ``salt``, or with one of its own."""
    salt = salt or secrets.token_bytes(_SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return Hash(b64encode(salt).decode(), b64encode(digest).decode())


def line(user: str, password: str, before: str = "") -> str:
    """The line of Mosquitto's password file for ``user``: the one ``before`` if that is of the same password."""
    parts = before.split("$")
    made = hashed(password, b64decode(parts[3]) if len(parts) == 5 else None)
    return f"{user}:$7${ITERATIONS}${made.salt}${made.digest}"
