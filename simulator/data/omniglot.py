"""Reads Omniglot as its author publishes it: two zip files of PNG drawings (Lake et al., Science 350, 2015)."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from .catalogue import Arrays, DataError
from .reading import reading

SIDE = 105
SMALL = 28
DRAWERS = 20

META_TRAIN = 1200  # characters, chosen by numpy's RandomState(0): as many as in Santoro et al. 2016 and in Reptile
_CHUNK = 2000  # drawings unpacked at a time


def read105(paths: Sequence[Path]) -> Arrays:
    """The drawings as they are: ``images`` uint8 (drawings, 1379), 105x105 bits packed row by row, 1 = ink.

    ``paths`` are the zips of the background and of the evaluation set. Raises `DataError`.
    """
    return {"images": _drawings(paths)[1]}


def read28(paths: Sequence[Path]) -> Arrays:
    """The drawings at 28x28 and what is known of them.

    ``images`` uint8 (drawings, 98) takes the nearest pixel, as Pillow resizes one-bit images and hence as Reptile's
    network saw them: rows and columns floor((k + 0.5) 105 / 28). Drawing i is of character i // 20, by drawer
    i % 20 + 1.
    ``char_part`` tells the background set, 0, from the evaluation set, 1; ``char_split`` meta-train from meta-test.
    ``paths`` are as for `read105`. Raises `DataError`.
    """
    characters, packed = _drawings(paths)
    names = [name for _, name in characters]
    alphabets = list(dict.fromkeys(name.partition("/")[0] for name in names))
    at = ((np.arange(SMALL) + 0.5) * SIDE / SMALL).astype(int)
    small = [
        np.packbits(unpack(packed[i : i + _CHUNK], SIDE)[:, at][:, :, at].reshape(-1, SMALL * SMALL), axis=1)
        for i in range(0, len(packed), _CHUNK)
    ]
    split = np.ones(len(names), np.uint8)
    split[np.random.RandomState(0).permutation(len(names))[:META_TRAIN]] = 0
    return {
        "images": np.concatenate(small),
        "char_id": np.repeat(np.arange(len(names), dtype=np.int16), DRAWERS),
        "drawer": np.tile(np.arange(1, DRAWERS + 1, dtype=np.uint8), len(names)),
        "alphabet_names": np.array(alphabets),
        "char_names": np.array(names),
        "char_alphabet": np.array([alphabets.index(name.partition("/")[0]) for name in names], np.uint8),
        "char_part": np.array([part for part, _ in characters], np.uint8),
        "char_split": split,
    }


def unpack(packed: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Drawings (n, side, side) of 0 and 1 from their packed bits (n, bytes)."""
    return np.unpackbits(packed, axis=1, count=side * side).reshape(-1, side, side)


def _drawings(paths: Sequence[Path]) -> tuple[list[tuple[int, str]], npt.NDArray[np.uint8]]:
    """The (part, "Alphabet/character") of each character, and the packed drawings, 20 a character, by drawer."""
    from PIL import Image

    characters: list[tuple[int, str]] = []
    packed = []
    for part, path in enumerate(paths):
        with reading(path), zipfile.ZipFile(path) as archive:
            members: dict[str, dict[int, str]] = {}
            for member in archive.namelist():
                place = PurePosixPath(member)
                if place.suffix == ".png" and len(place.parts) == 4 and not place.name.startswith("."):
                    drawer = int(place.stem.partition("_")[2])
                    members.setdefault("/".join(place.parts[1:3]), {})[drawer] = member
            for name, drawings in sorted(members.items()):
                if sorted(drawings) != list(range(1, DRAWERS + 1)):
                    raise DataError(
                        f"{path}: {name} has no drawing by each of the {DRAWERS} drawers; delete it and fetch it anew"
                    )
                characters.append((part, name))
                for drawer in range(1, DRAWERS + 1):
                    with Image.open(io.BytesIO(archive.read(drawings[drawer]))) as image:
                        paper = np.asarray(image.convert("1"))
                    if paper.shape != (SIDE, SIDE):
                        raise DataError(f"{path}: {drawings[drawer]} is not {SIDE}x{SIDE}; delete it and fetch it anew")
                    packed.append(np.packbits(~paper))
            if not members:
                raise DataError(f"{path}: no drawings are in it; delete it and fetch it anew")
    return characters, np.array(packed)
