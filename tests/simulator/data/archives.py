"""Archives in their authors' layouts, made by the tests, and the project's own files beside them."""

from __future__ import annotations

import io
import tarfile
import wave
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from simulator.data import Arrays, DataError, find, load, occupancy

from ...environment import require


def shared(name: str) -> Arrays:
    """The project's own file; the test is skipped where there is none."""
    try:
        find(name)
    except DataError as error:
        require(False, str(error))
    return load(name)


def png(ink: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(ink == 0).save(file, "PNG")  # one bit a pixel, paper is white
    return file.getvalue()


def omniglot_archives(folder: Path, characters: dict[str, list[str]], images: npt.NDArray[np.uint8]) -> list[Path]:
    """Zips in the official layout; each root of ``characters`` has its names, each with its next 20 ``images``."""
    paths = []
    at = 0
    for root, names in characters.items():
        paths.append(folder / f"{root}.zip")
        with zipfile.ZipFile(paths[-1], "w") as archive:
            archive.writestr(f"{root}/", "")
            archive.writestr(f"__MACOSX/{root}/{names[0]}/._0001_01.png", b"no picture")
            members = [(f"{name}/{i:04}_{by:02}.png", i, by) for i, name in enumerate(names) for by in range(1, 21)]
            for member, i, by in reversed(members):  # the order in an archive means nothing
                archive.writestr(f"{root}/{member}", png(images[at + 20 * i + by - 1]))
        at += 20 * len(names)
    return paths


def some_characters() -> tuple[dict[str, list[str]], npt.NDArray[np.uint8]]:
    names = {
        "images_background": ["Balinese/character01", "Balinese/character02", "Greek/character01"],
        "images_evaluation": ["Angelic/character01"],
    }
    return names, np.random.default_rng(1).integers(0, 2, (80, 105, 105), np.uint8)


def wav(samples: npt.NDArray[np.int16], rate: int = 16_000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(rate)
        recording.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


def noise(seed: int, length: int = 16_000) -> npt.NDArray[np.int16]:
    return np.random.default_rng(seed).normal(0, 3000, length).astype(np.int16)


def speech_archive(folder: Path, members: dict[str, bytes]) -> Path:
    path = folder / "speech.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


TEST_SET = {
    "README.md": b"words",
    "yes/0c40e715_nohash_1.wav": wav(noise(1)),
    "yes/022cd682_nohash_0.wav": wav(noise(2, 9000)),
    "_unknown_/bird_a4383927_nohash_0.wav.wav": wav(noise(3)),
    "_silence_/0.wav": wav(noise(4)),
    "yes/022cd682_nohash_4.wav": wav(noise(2, 9000)),
}


def office_archive(folder: Path, known: Arrays) -> Path:
    """The text files of UCI 357, written from arrays."""
    path = folder / "office.zip"
    names = '"date",' + ",".join(f'"{name}"' for name in known["feature_names"]) + ',"Occupancy"'
    with zipfile.ZipFile(path, "w") as archive:
        for part, name in enumerate(occupancy.OFFICE_FILES):
            lines = [names]
            for i in np.flatnonzero(known["part"] == part):
                date = datetime.fromtimestamp(int(known["unix_time"][i]), UTC).strftime("%Y-%m-%d %H:%M:%S")
                values = ",".join(repr(float(value)) for value in known["features"][i])
                lines.append(f'"{i}","{date}",{values},{known["occupied"][i]}')
            archive.writestr(name, "\n".join(lines) + "\n")
    return path


def room_archive(folder: Path, known: Arrays, date_format: str) -> Path:
    """The text file of UCI 864, written from arrays."""
    path = folder / "room.zip"
    lines = ["Date,Time," + ",".join(known["feature_names"]) + ",Room_Occupancy_Count"]
    for features, count, time in zip(known["features"], known["count"], known["unix_time"], strict=True):
        date = datetime.fromtimestamp(int(time), UTC).strftime(f"{date_format},%H:%M:%S")
        lines.append(f"{date},{','.join(repr(float(value)) for value in features)},{count}")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a folder/" + occupancy.ROOM_FILE, "\r\n".join(lines) + "\r\n")
    return path


def made_up_office() -> Arrays:
    return {
        "feature_names": np.array(["Temperature", "Humidity", "Light", "CO2", "HumidityRatio"]),
        "features": np.random.default_rng(1).normal(size=(60, 5)).astype(np.float32),
        "occupied": np.arange(60) % 2,
        "unix_time": 1_423_000_000 + 60 * np.arange(60),
        "part": np.arange(60) // 20,
    }


def made_up_room() -> Arrays:
    return {
        "feature_names": np.array([f"S{i}" for i in range(16)]),
        "features": np.random.default_rng(1).normal(size=(60, 16)).astype(np.float32),
        "count": np.arange(60) % 4,
        "unix_time": 1_513_939_781 + 30 * np.arange(60),
    }
