"""The data sets the project knows: what they are, whose, and which archives they are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from ..tasks import TaskError

Arrays = dict[str, npt.NDArray[Any]]


class DataError(TaskError):
    """A data set that is not to be had here, or is not what it should be; the text says what to do."""


@dataclass(frozen=True)
class Archive:
    """A file as its authors publish it.

    Attributes:
        address: where it is downloaded from.
        checksum: its digest as "md5:..." or "sha256:...", where one is known; else None.
        size: bytes, for display; None where it is not known.
    """

    address: str
    checksum: str | None = None
    size: int | None = None

    @property
    def name(self) -> str:
        """The file's name on this machine."""
        return self.address.rpartition("/")[2]


@dataclass(frozen=True)
class DataSet:
    """One set of arrays, kept as NAME.npz.

    Attributes:
        name: as it is given to `load` and `fetch`.
        what, licence: for people.
        size: bytes of the npz, about.
        archives: what it is made from.
        sha256: digest of the npz file that the project's figures were made with; None where there is no such file.
        content: `files.content_digest` of that file's arrays.
        full: the name of the set that this one is the smaller part of, if there is one.
    """

    name: str
    what: str
    licence: str
    size: int
    archives: tuple[Archive, ...]
    sha256: str | None = None
    content: str | None = None
    full: str | None = None


_OMNIGLOT_BY = "MIT, Lake et al. 2015"
_SPEECH_BY = "CC BY 4.0, Warden 2018"
_OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
_SPEECH = "https://storage.googleapis.com/download.tensorflow.org/data"
_UCI = "https://archive.ics.uci.edu/static/public"

# The author publishes no checksums: these MD5 sums are those that torchvision checks.
_OMNIGLOT_ARCHIVES = (
    Archive(f"{_OMNIGLOT}/images_background.zip", "md5:68d2efa1b9178cc56df9314c21c6e718"),
    Archive(f"{_OMNIGLOT}/images_evaluation.zip", "md5:6b91aef0f799c5bb55b94e3f2daec811"),
)

DATA_SETS = {
    data_set.name: data_set
    for data_set in (
        DataSet(
            "omniglot28",
            "Omniglot, 32,460 drawings of 1,623 characters, 28x28 one-bit",
            _OMNIGLOT_BY,
            871_332,
            _OMNIGLOT_ARCHIVES,
            "566d8504e5adba50ddf7535256b052a16debdbbb7da635f25928ffe3b909477c",
            "d291bf42ad04b7a96d76186a982b9a1b06d8b1bb6b4a06d0e1952d5b4b8cb15d",
        ),
        DataSet(
            "omniglot105",
            "the same drawings, 105x105 one-bit as published",
            _OMNIGLOT_BY,
            5_306_831,
            _OMNIGLOT_ARCHIVES,
            "ee2a65f0ea876458d17b965f03a321ca259a31efe3452ec8af91f14d93630a5e",
            "cf0fe3ecddfea43f1389b100e32599d5f29b33970fe07fd4b974956b6a520d8f",
        ),
        DataSet(
            "speech_commands_8k",
            "Speech Commands, the v0.02 test set: one-second clips of 36 words at 8 kHz, mu-law",
            _SPEECH_BY,
            31_154_300,
            # Nobody official publishes it; several public projects have recorded this SHA-256 independently.
            (
                Archive(
                    f"{_SPEECH}/speech_commands_test_set_v0.02.tar.gz",
                    "sha256:cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
                    112_563_277,
                ),
            ),
            "622318ff756fe2286f036f3300455773e102c2c0279e7b8ae3279966774b760a",
            "27cf595a712a8f71f4c8d606f2bbbc64d7ce6e4f077c8db465f784b34432977c",
            full="speech_commands_full_8k",
        ),
        DataSet(
            "speech_commands_full_8k",
            "Speech Commands v0.02, all 105,829 clips of 35 words at 8 kHz, mu-law",
            _SPEECH_BY,
            650_000_000,
            # The SHA-256 that torchaudio checks.
            (
                Archive(
                    f"{_SPEECH}/speech_commands_v0.02.tar.gz",
                    "sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
                    2_428_923_189,
                ),
            ),
        ),
        DataSet(
            "occupancy_office",
            "UCI 357, one office, 20,560 minutes of five features",
            "CC BY 4.0, Candanedo 2016",
            188_615,
            (Archive(f"{_UCI}/357/occupancy+detection.zip"),),
            "ea81e124cb609888a1e72033cbdf4fe75699cc5ac73262a2c2a7a547c35a33fe",
            "8e2fd65137cca72e13d781c8071596a522e2315abe2e35cf05fdc026876c3ff8",
        ),
        DataSet(
            "occupancy_room_nodes",
            "UCI 864, one room, 10,129 half-minutes of seven nodes",
            "CC BY 4.0, Singh et al. 2018",
            102_745,
            (Archive(f"{_UCI}/864/room+occupancy+estimation.zip"),),
            "ef3ec2b69eac47ff2da7a052b3a99121eaccac1549e100375bc46e723f39320e",
            "7dfb27da7aadd0ec8316b3cddd6102cdd43aa92924547d86081978cb711c3185",
        ),
    )
}

SHA256 = {name: data_set.sha256 for name, data_set in DATA_SETS.items() if data_set.sha256}
