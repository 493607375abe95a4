"""`mpremote mip install` with the package's own description: the library on a board, without this project's tools."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from boards.library import library
from tests.environment import CLIENT
from tinyreptile import __version__

from .desk import Desk


def test_the_package_has_all_files_of_the_library() -> None:
    package = json.loads((CLIENT / "package.json").read_text())
    assert package["version"] == __version__
    assert package["urls"] == [[name, name] for name in library("armv6m")]


def test_mip_installs_it(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        command = [sys.executable, "-m", "mpremote", "connect", desk.port, "resume", "mip", "--no-mpy"]
        done = subprocess.run(
            [*command, "install", str(CLIENT / "package.json")],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    for name, file in library("armv6m").items():
        assert (tmp_path / "lib" / name).read_bytes() == file.read_bytes()
