"""The power fails at any moment of an update: the board starts with the old version or with the new one, whole.

On an emulated RP2040, with its MicroPython, its littlefs, its flash. One life is written down, from the installation to
the start that confirms it; then boards are started from what the flash held at many moments of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
import random
import re
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgpack
import pytest

from boards.library import library, start_files
from boards.updates import Offer, make_offer
from tinyreptile.software import signature

from ..environment import require
from .debian import DebianError
from .files import compiled, littlefs, unpacked
from .firmware import BuildError
from .power import Operation, Pico
from .runners import RUNNERS

pytestmark = pytest.mark.timeout(1800)
DEVICE = Path(__file__).parent / "device"
KEY = b"a key of this fleet"
OLD, NEW = 1, 2
# What an installation needs, and some more: all of the library would take five times as long.
MODULES = ("__init__", "messages", "msgpack", "portable", "software", "updates", "learner", "model", "kernels")
CUTS = int(os.environ.get("TINYREPTILE_POWER_CUTS", "6"))  # moments of the installation, and as many torn operations


@dataclass(frozen=True)
class Life:
    """An update from its offer to its confirmation.

    ``before`` is the file system's image before it, ``after`` after it; the first ``unpacked`` of the ``operations``
    only put the new version's files beside the old ones. ``versions`` are the files of either.
    """

    before: bytes
    after: bytes
    operations: list[Operation]
    unpacked: int
    versions: dict[int, dict[str, bytes]]

    def at(self, cut: int, torn: bool) -> bytes:
        """What is in the flash when the power fails before operation ``cut``, or in the middle of it."""
        flash = bytearray(self.before)
        for operation in self.operations[:cut]:
            operation.apply(flash)
        if torn:
            self.operations[cut].apply(flash, random.Random(cut))
        return bytes(flash)

    def moments(self) -> list[tuple[int, bool]]:
        """(operation, whether it is torn): some of those that unpack, all of those that decide."""
        chance = random.Random(7)
        some = sorted(chance.sample(range(self.unpacked), min(CUTS, self.unpacked)))
        every = range(self.unpacked, len(self.operations))
        return [(cut, torn) for cut in [*some, *every] for torn in (False, True)]


@pytest.fixture(scope="module")
def life() -> Life:
    pico = RUNNERS["rp2040"]
    try:
        pico.obtain()
    except (DebianError, BuildError) as error:
        require(False, f"rp2040: {error}")
    versions = {number: _library(pico.chip, number) for number in (OLD, NEW)}
    offer = make_offer(pico.chip, NEW, {name: data for name, data in versions[NEW].items() if name != "version"})
    before = littlefs(
        {f"a/{name}": data for name, data in versions[OLD].items()}
        | {name: data for name, data in start_files().items() if name != "main.py"}
        | {"main.py": (DEVICE / "updating.py").read_bytes(), "slot": b"a", "key": KEY}
        | {"offered": offer.image, "manifest": _manifest(offer)}
    )
    return asyncio.run(_live(before, versions))


async def _live(before: bytes, versions: dict[int, dict[str, bytes]]) -> Life:
    """The update of the board with that file system, written down."""
    async with Pico(before) as board:
        await board.tell("", "version 1 (old) runs for good.", 100)
        await board.tell("install", "version 2 is installed", 400)
        unpacked = len(board.operations)
        await board.tell("", "version 2 (new) runs on trial.", 100)
        await board.tell("confirm", "version 2 (new) runs for good.", 100)
        return Life(before, board.files, board.operations, unpacked, versions)


def _library(chip: str, number: int) -> dict[str, bytes]:
    """The files of version ``number`` of the library."""
    files = {name: file for name, file in library(chip).items() if Path(name).stem in MODULES}
    with tempfile.TemporaryDirectory() as folder:
        init = Path(folder) / "__init__.py"
        init.write_text(f'__version__ = "{"old" if number == OLD else "new"}"\n')
        return {**compiled({**files, "tinyreptile/__init__.py": init}, chip), "version": str(number).encode()}


def _manifest(offer: Offer) -> bytes:
    digest = hashlib.sha256(offer.image).digest()
    signed = signature(KEY, offer.number, offer.chip, len(offer.image), digest)
    fields = {"version": offer.number, "chip": offer.chip, "bytes": len(offer.image)}
    return bytes(msgpack.packb({**fields, "sha256": digest, "signature": signed}))


async def _start(flash: bytes) -> tuple[int, bytes]:
    """Turn the power on; the version that the board says it runs, and its flash after that."""
    async with Pico(flash) as board:
        said = await board.tell("", " runs ", 200)
        version = re.search(r"version (\d) \((old|new)\) runs", said)
        assert version, said
        assert version.group(2) == ("old" if version.group(1) == str(OLD) else "new"), said
        return int(version.group(1)), board.files


def _fault(life: Life, moment: tuple[int, bool]) -> str:
    """What is wrong with a board whose power failed at that ``moment``; "" if nothing is."""
    try:
        version, flash = asyncio.run(_start(life.at(*moment)))
    except (TimeoutError, AssertionError) as error:
        return f"{moment}: {error}"
    folder = "a" if version == OLD else "b"
    if unpacked(flash, folder) != life.versions[version]:
        return f"{moment}: version {version} is not whole"
    return ""


def test_what_is_written_down_is_what_happens(life: Life) -> None:
    assert life.at(len(life.operations), False) == life.after
    assert unpacked(life.after, "b") == life.versions[NEW]
    assert len(life.operations) - life.unpacked > 4, "begin, choose and confirm each write"


def test_a_power_cut_at_any_moment_leaves_a_board_that_starts(life: Life) -> None:
    moments = life.moments()
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        faults = [fault for fault in pool.map(partial(_fault, life), moments) if fault]
    assert not faults, f"{len(faults)} of {len(moments)}: " + "\n".join(faults[:5])


def test_an_installation_that_was_cut_off_can_be_done_again(life: Life) -> None:
    async def again() -> bytes:
        async with Pico(life.at(life.unpacked // 2, True)) as board:
            await board.tell("", "version 1 (old) runs for good.", 100)
            await board.tell("install", "version 2 (new) runs on trial.", 400)
            return board.files

    assert unpacked(asyncio.run(again()), "b") == life.versions[NEW]
