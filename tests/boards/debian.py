"""Packages of another release of Debian, for any architecture, fetched and unpacked beside the system's own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class DebianError(Exception):
    """A package is not to be had here; the text says why."""


class Debian:
    """The packages of ``release``, for ``architecture``, from the mirror that this machine's own apt is set to.

    ``folder`` takes the lists of packages; the system's own are not touched. Signatures are checked as usual. Raises
    `DebianError` where there is no apt, no mirror, or no network.
    """

    def __init__(self, folder: Path, architecture: str, release: str = "trixie") -> None:
        if not shutil.which("apt-get"):
            raise DebianError("there is no apt-get: packages of Debian are to be had on Debian only")
        self._folder = folder / f"{release}-{architecture}"
        for name in ("lists", "cache"):
            (self._folder / name / "partial").mkdir(parents=True, exist_ok=True)
        sources = self._folder / "sources.list"
        kinds = ("deb", "deb-src")
        sources.write_text("".join(f"{kind} [signed-by={KEYRING}] {_mirror()} {release} main\n" for kind in kinds))
        self._options = [
            f"-oAPT::Architecture={architecture}",
            f"-oAPT::Architectures={architecture}",
            f"-oDir::Etc::sourcelist={sources}",
            "-oDir::Etc::sourceparts=/dev/null",
            f"-oDir::State::Lists={self._folder / 'lists'}",
            f"-oDir::Cache={self._folder / 'cache'}",
            "-oAPT::Sandbox::User=",
            # Lists by their hashes: by their names they may be newer than the release file that a mirror has kept.
            "-oAcquire::By-Hash=force",
            "-oAcquire::Retries=3",
        ]
        self._apt("update", self._folder)

    def unpack(self, packages: Sequence[str], root: Path) -> None:
        """Put what is in ``packages`` under ``root``; nothing is configured."""
        downloads = self._folder / "downloads"
        downloads.mkdir(exist_ok=True)
        self._apt("download", downloads, *packages)
        for package in packages:
            (file,) = downloads.glob(f"{package}_*.deb")
            _run(["dpkg", "-x", str(file), str(root)], root.parent)
        shutil.rmtree(downloads)

    def source(self, package: str, folder: Path) -> Path:
        """The source tree of ``package`` as its authors released it, unpacked under ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        self._apt("source", folder, "--download-only", package)
        (archive,) = folder.glob(f"{package}_*.orig.tar.*")
        _run(["tar", "xf", archive.name], folder)
        (tree,) = (path for path in folder.iterdir() if path.is_dir())
        return tree

    def _apt(self, command: str, folder: Path, *arguments: str) -> None:
        _run(["apt-get", "-qq", *self._options, command, *arguments], folder)


def _mirror() -> str:
    """The address of this machine's mirror of Debian."""
    format_ = "$(REPO_URI) $(CODENAME) $(ORIGIN)"
    lines = _run(["apt-get", "indextargets", "--format", format_, "Identifier: Packages"], Path.cwd()).splitlines()
    for line in lines:
        address, codename, origin = (*line.split(), "", "")[:3]
        if origin == "Debian" and not codename.endswith(("-security", "-updates", "-backports")):
            return address
    raise DebianError("this machine's apt knows no mirror of Debian; is this Debian, and has apt-get update been run?")


def _run(command: list[str], folder: Path) -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    if result.returncode:
        raise DebianError(f"{' '.join(command[:1] + command[-2:])} failed: {(result.stderr or result.stdout)[-500:]}")
    return result.stdout
