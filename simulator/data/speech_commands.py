"""Reads Speech Commands as Google publishes it: a tar.gz of 16 kHz WAV files (Warden, arXiv 1804.03209)."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from .catalogue import Arrays, DataError
from .reading import reading

RATE = 8000
SILENCE, UNKNOWN = "_silence_", "_unknown_"
LABELS = (SILENCE, UNKNOWN, "yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")

# The people of the test set that the project's own file holds out: the same are held out whichever way the data came.
_HELD_OUT = """
    0c40e715 0cb74144 0d53e045 0ea0e2f4 105a0eea 1538beb7 1cb788bc 2005ca25 37fc5d97 3d86b69a 412c675c 422d3197
    48a8a69d 4c6167ca 553f1a79 563aa4e6 5eb5fc74 5f01c798 5f814c23 5ff3f9a1 6021f08b 7192fddc 798f702a 81dc4a94
    82b99576 840c366d 8625475c 863880b7 87070229 8769c34c 881583a6 8a325749 8c0e5970 8c7f81df 8fe52b97 90b94017
    964e8cfd 9a7c1f83 9b3ea809 9d171fee 9d4bab4f a2473d62 a8e25ebb a9f54d8d aa233654 af130f12 af405b69 b1f8326d
    b4877f8e b7e9f841 b83c1acf bb31b82b bfd26d6b c518d1b1 c7124b73 c781f251 c9b5ff26 cd85758f cfbedff9 d056d4d8
    d0faf7e4 d9e9f554 dcb57584 e0c782d5 e1469561 e49428d9 e71b4ce6 ea37ca08 f264e0df f428ca69 f5496439 f6af2457
"""
META_TEST = frozenset(_HELD_OUT.split())

_TESTING = "testing_list.txt"  # of the full archive: the clips of the people that are kept for tests
_CLIP = re.compile(r"(?:(?P<word>[a-z]+)_)?(?P<speaker>[0-9a-f]{8})_nohash_(?P<take>\d+)\.wav(?:\.wav)?")
_MU = 255
_PEAK = 32767
_TAPS = 20  # on each side of the filter's middle


@dataclass(frozen=True)
class _Clip:
    """One recording: its codes, and what its path says of it."""

    label: str
    path: str
    word: str
    speaker: str
    take: int
    identity: bytes
    codes: npt.NDArray[np.uint8]


def read(paths: Sequence[Path]) -> Arrays:
    """The arrays of a Speech Commands archive, of the test set or of the full one; ../shared/data/README.md's keys.

    ``audio`` uint8 (clips, 8000), codes of ``mulaw_table``; ``word`` in ``words``, ``label12`` in ``labels12``,
    ``speaker`` in ``speakers``, -1 for silence; ``utterance`` the take; ``first_copy`` the first clip with the same
    samples; ``speaker_split`` 1 for the people of meta-test; ``source`` 0 throughout; ``sample_rate``. Clips are in the
    order of their labels and paths. In the test set meta-test is `META_TEST`; in the full set, everybody whom the
    authors keep for tests. Raises `DataError`.
    """
    (path,) = paths
    clips: list[_Clip] = []
    held_out = META_TEST
    # Unpacked by gzip, because tarfile does not look at the checksum when it reads a stream.
    with reading(path), gzip.open(path) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as archive:
        for member in archive:
            place = PurePosixPath(member.name)
            file = archive.extractfile(member) if member.isfile() else None
            if file and place.name == _TESTING:
                held_out = frozenset(re.findall(r"/([0-9a-f]{8})_", file.read().decode()))
            elif file and place.suffix == ".wav" and not place.parent.name.startswith("_background"):
                clips.append(_clip(place, file.read()))
        while unpacked.read(1 << 20):
            pass  # the checksum comes last
    if not clips:
        raise DataError(f"{path}: no clips are in it; delete it and fetch it anew")
    return _arrays(sorted(clips, key=lambda clip: (LABELS.index(clip.label), clip.path)), held_out)


def mulaw_table() -> npt.NDArray[np.int16]:
    """The linear samples int16 (256,) that the codes stand for."""
    y = np.arange(_MU + 1) / _MU * 2 - 1
    samples: npt.NDArray[np.float64] = np.sign(y) * ((1 + _MU) ** np.abs(y) - 1) / _MU * _PEAK
    return np.rint(samples).astype(np.int16)


def encode(samples: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Mu-law codes of ``samples`` in the range of int16."""
    x = np.clip(samples / _PEAK, -1, 1)
    y: npt.NDArray[np.float64] = np.sign(x) * np.log1p(_MU * np.abs(x)) / np.log1p(_MU)
    return np.floor((y + 1) / 2 * _MU + 0.5).astype(np.uint8)


def halve(samples: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Every second sample behind a low-pass at half the band: what ``scipy.signal.resample_poly(x, 1, 2)`` gives.

    That is a windowed sinc of 41 taps, Kaiser with beta 5, zeros beyond the ends.
    """
    n = np.arange(-_TAPS, _TAPS + 1)
    taps = np.sinc(n / 2) * np.kaiser(2 * _TAPS + 1, 5.0)
    return np.convolve(samples, taps / taps.sum())[_TAPS : _TAPS + len(samples) : 2]


def _clip(place: PurePosixPath, content: bytes) -> _Clip:
    with wave.open(io.BytesIO(content)) as recording:
        if (recording.getframerate(), recording.getnchannels(), recording.getsampwidth()) != (2 * RATE, 1, 2):
            raise ValueError(f"{place} is no 16 kHz mono of 16 bits")
        samples = np.frombuffer(recording.readframes(2 * RATE), "<i2")
    samples = np.pad(samples, (0, 2 * RATE - len(samples)))
    folder = place.parent.name
    found = _CLIP.fullmatch(place.name)
    word, speaker, take = SILENCE, "", 0
    if folder != SILENCE:
        if not found:
            raise ValueError(f"{place} does not name its speaker")
        word, speaker, take = found["word"] or folder, found["speaker"], int(found["take"])
    label = folder if folder in LABELS else UNKNOWN
    identity = hashlib.sha256(samples.tobytes()).digest()
    return _Clip(label, str(place), word, speaker, take, identity, encode(halve(samples)))


def _arrays(clips: list[_Clip], held_out: frozenset[str]) -> Arrays:
    words = sorted({clip.word for clip in clips})
    speakers = sorted({clip.speaker for clip in clips} - {""})
    word_at = {word: i for i, word in enumerate(words)}
    speaker_at = {speaker: i for i, speaker in enumerate(speakers)} | {"": -1}
    first: dict[bytes, int] = {}
    index = np.int16 if len(clips) < 1 << 15 else np.int32
    return {
        "audio": np.stack([clip.codes for clip in clips]),
        "mulaw_table": mulaw_table(),
        "words": np.array(words),
        "word": np.array([word_at[clip.word] for clip in clips], np.uint8),
        "labels12": np.array(LABELS),
        "label12": np.array([LABELS.index(clip.label) for clip in clips], np.uint8),
        "speakers": np.array(speakers),
        "speaker": np.array([speaker_at[clip.speaker] for clip in clips], np.int16),
        "utterance": np.array([clip.take for clip in clips], np.uint8),
        "source": np.zeros(len(clips), np.uint8),
        "first_copy": np.array([first.setdefault(clip.identity, i) for i, clip in enumerate(clips)], index),
        "speaker_split": np.array([speaker in held_out for speaker in speakers], np.uint8),
        "sample_rate": np.array(RATE, np.int32),
    }
