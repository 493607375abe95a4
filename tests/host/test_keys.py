"""The key of a fleet is its owner's alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from boards.keys import read_key


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o277, 0o777])
def test_nobody_but_the_owner_reads_a_new_key(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "fleet.key"
    before = os.umask(mask)
    try:
        key = read_key(path, create=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key(path) == key
