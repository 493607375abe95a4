"""From the archives that the authors of a data set publish to the arrays that `load` reads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from . import occupancy, omniglot, speech_commands
from .catalogue import DATA_SETS, Arrays, DataError
from .download import Progress, download
from .files import content_digest, find, folder_of, forget, load, save

ARCHIVES = "archives"  # the folder beside the npz files that the archives go to

READERS: dict[str, Callable[[Sequence[Path]], Arrays]] = {
    "omniglot28": omniglot.read28,
    "omniglot105": omniglot.read105,
    "speech_commands_8k": speech_commands.read,
    "speech_commands_full_8k": speech_commands.read,
    "occupancy_office": occupancy.read_office,
    "occupancy_room_nodes": occupancy.read_room_nodes,
}
# Packages that they import besides.
_PACKAGES = {"omniglot28": "PIL", "omniglot105": "PIL"}


@dataclass(frozen=True)
class Fetched:
    """A data set that `load` finds now.

    Attributes:
        path: its npz file.
        new: whether it was made now; False: a whole one was there already.
        as_known: whether its arrays are those that the project's figures were made with; None where there are no such
            figures. Speech Commands from its archive never is: the project's own file has further clips.
    """

    path: Path
    new: bool
    as_known: bool | None


def fetch(name: str, folder: Path | None = None, progress: Progress | None = None) -> Fetched:
    """Download the archives of data set ``name`` and make its npz file in the folder where `find` looks for it.

    A file that is there and whole is left as it is. Archives stay in the folder's subfolder ``archives`` and are not
    downloaded again. Raises `DataError`; run again it goes on where it ended.
    """
    if name not in DATA_SETS:
        raise DataError(f"a data set is one of {', '.join(DATA_SETS)}, not {name!r}")
    known = DATA_SETS[name]
    with contextlib.suppress(DataError):
        return Fetched(find(name, folder), False, _as_known(load(name, folder), known.content))
    if name in _PACKAGES and find_spec(_PACKAGES[name]) is None:  # before anything is downloaded
        raise DataError(f"the drawings of {name} are read with Pillow: pip install 'tinyreptile[study]'")
    place = folder_of(folder)[0]
    try:
        (place / ARCHIVES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the folder {place / ARCHIVES} can't be made: {error.strerror}; name another folder with --folder DIR"
        ) from None
    paths = [download(archive, place / ARCHIVES, progress) for archive in known.archives]
    if progress:
        progress(f"{name}.npz", 0, None)
    try:
        arrays = READERS[name](paths)
    except DataError:
        # With a checksum an archive is as published; without one it may have arrived damaged: it is to come anew.
        for archive, path in zip(known.archives, paths, strict=True):
            if archive.checksum is None:
                forget(path)
        raise
    return Fetched(save(name, arrays, place), True, _as_known(arrays, known.content))


def _as_known(arrays: Arrays, content: str | None) -> bool | None:
    return None if content is None else content_digest(arrays) == content
