"""The integer log-mel front-end: within int32 and its tables, and as good as one in floats."""

from __future__ import annotations

import itertools
from array import array
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from simulator.features import FrontEnd
from tinyreptile import mel
from tinyreptile.mel import LogMel, middle

from .watching import Guarded, OverflowInt32, cells, watched

FRAMES = (64, 128, 256, 512)
WATCHED = watched("mel")
KERNELS = ("push", "load_frame", "combine", "separate", "square", "sum_bands", "normalize")


class Watched(LogMel):
    """`LogMel` in plain Python: an integer that leaves int32, or a cell that is not a table's own, raises."""

    def __init__(self, frame: int, bands: int, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(8000, frame, bands, 0, 4000)
        for name in KERNELS:
            monkeypatch.setattr(mel, name, WATCHED[name])
        self._t = Guarded(self.tables, 0, len(self.tables))
        self._z = Guarded(array("i", bytes(4 * frame)), 0, frame, 0, frame)

    def frame(self, samples: list[int]) -> array[int]:
        """The features of a frame."""
        out = array("H", bytes(2 * self.bands))
        x = Guarded(cells(samples), 0, len(samples))
        self.features(x, Guarded(out, 0, 0, 0, self.bands), 0)
        return out


def extremes(frame: int) -> dict[str, list[int]]:
    """What drives a transform as far as it goes: everything in one bin, everywhere, or at one moment."""
    at = np.arange(frame)
    signs = {f"square wave {k}": np.where(np.sin(2 * np.pi * k * (at + 0.5) / frame) < 0, -1, 1) for k in range(1, 9)}
    signs |= {
        f"square wave {k}": np.where(np.cos(2 * np.pi * k * at / frame + 0.1) < 0, -1, 1)
        for k in (frame // 16, frame // 8, frame // 4, frame // 2 - 1, frame // 2)
    }
    random = np.random.default_rng(frame)
    signs |= {f"random {i}": random.choice([-1, 1], frame) for i in range(4)}
    signs |= {"level": np.ones(frame, int), "negative level": -np.ones(frame, int), "click": (at == frame // 2) * 1}
    sounds = {name: np.where(sign < 0, -32768, 32767 * sign).tolist() for name, sign in signs.items()}
    return sounds | {"silence": [0] * frame, "one": [1] * frame, "minus one": [-1] * frame}


# Within int32


@pytest.mark.parametrize("frame", FRAMES)
def test_no_number_of_a_frame_leaves_int32(frame: int, monkeypatch: pytest.MonkeyPatch) -> None:
    log_mel = Watched(frame, {64: 8, 128: 13, 256: 20, 512: 30}[frame], monkeypatch)
    for samples in extremes(frame).values():
        for shift in (0, 3, 9):
            log_mel.frame([sample >> shift for sample in samples])


@pytest.mark.parametrize("frame", FRAMES)
def test_no_stage_of_the_transform_leaves_int32_whatever_it_is_given(frame: int) -> None:
    tables = Guarded(LogMel(8000, frame, 8, 0, 4000).tables, 0, 2 * frame)
    stages = frame.bit_length() - 2
    random = np.random.default_rng(frame)
    largest = 0
    # What a stage can leave: components so long that the next one shifts by 0, 1 or 2.
    for shift, stage in itertools.product(range(3), range(stages)):
        limit = min((32768 << shift) - 1, 79_999)
        for draw in ([-limit - 1, limit], [-limit - 1], [limit], [0, limit]):
            z = array("i", (random.choice(draw, frame) + mel.BIAS).tolist())
            WATCHED["combine"](tables, Guarded(z, 0, frame, 0, frame), stage, shift)
            largest = max(largest, *(abs(value - mel.BIAS) for value in z))
            z = array("i", (random.choice(draw, frame) + mel.BIAS).tolist())
            WATCHED["separate"](tables, Guarded(z, 0, frame, 0, frame), shift)
    assert 70_000 < largest < 80_000


@pytest.mark.parametrize("bands", [20, 1])
def test_no_sum_of_a_band_leaves_int32(bands: int) -> None:
    log_mel = LogMel(8000, 128, bands, 0, 4000)
    power = 1 << 29  # of every bin, the largest
    for exponent in (-40, -30, -5, 0, 20):
        out = array("H", bytes(2 * bands))
        WATCHED["sum_bands"](log_mel.tables, array("i", [power] * 128), exponent, out)


def test_the_watch_finds_a_band_that_is_too_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mel, "_LIMIT", 1 << 20)
    log_mel = LogMel(8000, 512, 1, 0, 4000)
    with pytest.raises(OverflowInt32):
        WATCHED["sum_bands"](log_mel.tables, array("i", [(1 << 29) - 1] * 512), 0, array("H", [0]))


def test_no_sample_and_no_input_leaves_int32() -> None:
    for gain, value in itertools.product(range(9), (0x7FFF, -0x8000, 0, -1)):
        x = cells([0] * 3)
        WATCHED["push"](x, cells([0xFFFF, value]), 3 << 16 | 1, gain)
        assert x[2] == max(-32768, min(32767, value << gain | 0xFFFF >> 16 - gain)) & 0xFFFF
    log_mel = LogMel(8000, 256, 2, 0, 4000)
    for mean, deviation, feature in itertools.product((0, 65535), (513, 65535), (0, 65535)):
        log_mel.normal([mean] * 2, [deviation] * 2)
        x = cells([0, 0])
        WATCHED["normalize"](log_mel.tables, 0, cells([feature] * 2), x)
        exact = max(-4.0, min(4.0, (feature - mean) / deviation))
        assert (x[0] ^ 0x8000) - 0x8000 == pytest.approx(1024 * exact, abs=3)


@pytest.mark.parametrize("frame", FRAMES)
def test_the_watched_source_computes_what_the_compiled_one_does(frame: int, monkeypatch: pytest.MonkeyPatch) -> None:
    front_end = FrontEnd(frame=frame, hop=frame, bands=8, low=0, integer=True, centred=False)
    samples = np.random.default_rng(1).normal(0, 9000, frame).clip(-32768, 32767).astype(np.int16)
    compiled = front_end(samples[None])[0, 0] * 1024
    assert Watched(frame, 8, monkeypatch).frame(samples.tolist()).tolist() == compiled.tolist()


# As floats would have it


def difference(sound: npt.NDArray[np.int16], **options: Any) -> tuple[Any, Any]:
    """By how much features in integers differ from those in floats, and how far each is below its frame's loudest."""
    exact, ours = (FrontEnd(centred=False, integer=integer, **options)(sound[None]) for integer in (False, True))
    return np.abs(ours - exact), exact.max(axis=2, keepdims=True) - exact


@pytest.mark.parametrize("deviation", [1, 10, 100, 1000, 10000])
@pytest.mark.parametrize(
    "options",
    [{}, {"frame": 64, "hop": 40, "bands": 8}, {"frame": 512, "hop": 320, "bands": 40, "rate": 16000, "high": 8000}],
)
def test_noise_of_any_level_has_the_features_that_floats_give(deviation: float, options: dict[str, Any]) -> None:
    sound = np.random.default_rng(1).normal(0, deviation, 16000).clip(-32768, 32767).astype(np.int16)
    assert difference(sound, **options)[0].max() < 0.01


@pytest.mark.parametrize("amplitude", [10, 1000, 32767])
@pytest.mark.parametrize("frequency", [50, 300, 1000, 3500])
def test_a_tone_has_the_features_that_floats_give_down_to_48_db(frequency: float, amplitude: float) -> None:
    random = np.random.default_rng(1)
    tone = amplitude * np.sin(2 * np.pi * frequency * np.arange(8000) / 8000) + random.normal(0, 1, 8000)
    wrong, below = difference(tone.clip(-32768, 32767).astype(np.int16))
    assert wrong[below < 16].max() < 0.05


def test_features_do_not_depend_on_the_sign() -> None:
    sound = np.random.default_rng(1).integers(-32767, 32768, (1, 2000), np.int16)
    front_end = FrontEnd(integer=True)
    np.testing.assert_allclose(front_end(sound), front_end(-sound), atol=0.01)


def test_maps_are_centred_where_floats_centre_them() -> None:
    random = np.random.default_rng(1)
    moved = []
    for begin in random.integers(0, 6000, 20):
        sound = random.normal(0, 20, 8000)
        sound[begin : begin + 2000] *= 100
        exact, ours = (FrontEnd(integer=integer)(sound.astype(np.int16)[None])[0] for integer in (False, True))
        shifts = [np.abs(np.roll(ours, by, axis=0)[3:-3] - exact[3:-3]).max() for by in (-1, 0, 1)]
        moved.append(int(np.argmin(shifts)) - 1)
        assert min(shifts) < 0.03
    assert np.count_nonzero(moved) <= 2  # a half is rounded one way or the other


@pytest.mark.parametrize(
    ("loudness", "moved"),
    [
        ([0] * 5, 0),
        ([7] * 5, 0),
        ([0, 0, 0, 0, 9000], 2),
        ([9000, 0, 0, 0, 0], -2),
        ([0, 0, 9000, 0, 0], 0),
        ([9000, 0, 0, 0, 0, 0], -2),  # two and a half
        ([0, 0, 0, 0, 0, 9000], 3),
    ],
)
def test_the_middle_of_what_is_loud(loudness: list[int], moved: int) -> None:
    assert middle(loudness) == moved


def test_triangles_are_those_of_floats() -> None:
    for options in ({}, {"frame": 512, "rate": 16000, "high": 7600, "bands": 40}):
        front_end = FrontEnd(**options)
        frame, bands = front_end.frame, front_end.bands
        tables = LogMel(front_end.rate, frame, bands, 20, int(front_end.high)).tables
        weights = mel.COSINES + frame // 2 + 1
        edges = weights + frame // 2
        ours = np.zeros((frame // 2 + 1, bands))
        for band in range(bands):
            rises, falls, end = tables[edges + band : edges + band + 3]
            ours[rises:falls, band] = tables[weights + rises : weights + falls]
            ours[falls:end, band] = 1024 - np.array(tables[weights + falls : weights + end])
        np.testing.assert_allclose(ours / 1024, front_end.triangles(), atol=0.001)


# What can't be


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((8000, 300, 20, 20, 4000), "a frame has 64, 128, 256 or 512 samples, not 300"),
        ((8000, 256, 0, 20, 4000), "there are 1 to 64 bands, not 0"),
        ((8000, 256, 20, 20, 4001), "bands lie between 0 and 4000 Hz, not from 20 to 4001"),
        ((8000, 256, 20, 300, 300), "not from 300 to 300"),
        ((8000, 64, 40, 20, 4000), "40 bands are too many for frames of 64 samples; take fewer"),
        ((8000, 512, 1, 20, 4000), "1 bands are too few for frames of 512 samples; take more"),
    ],
)
def test_features_that_can_not_be_are_told(arguments: tuple[int, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        LogMel(*arguments)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"low": 20.5}, "whole Hz, not at 20.5"), ({"frame": 1024}, "64, 128, 256 or 512 samples, not 1024")],
)
def test_a_front_end_that_boards_can_not_have_is_told(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        FrontEnd(integer=True, **options)
