"""Log-mel features: the shape of the map, and that a sound shows where it is."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import pytest

from simulator.features import FrontEnd


def tone(frequency: float, amplitude: float = 8000, begin: int = 0, end: int = 8000) -> npt.NDArray[np.int16]:
    """One clip (1, 8000) that is silent but for a tone from sample ``begin`` to ``end``."""
    at = np.arange(8000)
    samples = amplitude * np.sin(2 * np.pi * frequency * at / 8000) * ((begin <= at) & (at < end))
    return samples.astype(np.int16)[None]


def test_a_second_is_49_frames_of_20_bands() -> None:
    assert FrontEnd().frames(8000) == 49
    assert FrontEnd()(tone(1000)).shape == (1, 49, 20)


def test_frames_hop_and_bands_are_parameters() -> None:
    front_end = FrontEnd(frame=512, hop=128, bands=30)
    assert front_end(tone(1000)).shape == (1, front_end.frames(8000), 30)
    assert front_end.frames(512) == 1
    assert front_end.frames(512 + 128) == 2


@pytest.mark.parametrize("bands", [20, 40])
def test_a_tone_is_loudest_in_the_band_around_it(bands: int) -> None:
    front_end = FrontEnd(bands=bands)
    edges = 700 * (10 ** (np.linspace(31.7, 2146.1, bands + 2) / 2595) - 1)  # 20 and 4000 Hz in mel
    for frequency in (300, 700, 1500, 3000):
        loudest = int(front_end(tone(frequency))[0].mean(axis=0).argmax())
        assert edges[loudest] < frequency < edges[loudest + 2]


def test_twice_as_loud_is_two_more() -> None:
    front_end = FrontEnd()
    one, two = (front_end(tone(1000, amplitude))[0, 20].max() for amplitude in (4000, 8000))
    assert abs(two - one - 2) < 0.01


@pytest.mark.parametrize("clip", [np.zeros((1, 8000)), np.full((1, 8000), -32768), tone(4000, 32767)])
def test_features_of_extremes_are_numbers_from_0_to_31(clip: npt.NDArray[np.int16]) -> None:
    for centred in (False, True):
        features = FrontEnd(centred=centred)(clip.astype(np.int16))
        assert np.isfinite(features).all()
        assert 0 <= features.min() <= features.max() < 31


def test_silence_has_no_features() -> None:
    assert not FrontEnd()(np.zeros((1, 8000), np.int16)).any()


def test_a_sound_is_where_it_was_without_centring() -> None:
    loudness = FrontEnd(centred=False)(tone(1000, begin=1600, end=3200))[0].mean(axis=1)
    assert np.flatnonzero(loudness).tolist() == list(range(9, 20))  # the frames that overlap it


@pytest.mark.parametrize("begin", [0, 1600, 4800, 6400])
def test_centring_brings_a_sound_to_the_middle_wherever_it_was(begin: int) -> None:
    loudness = FrontEnd()(tone(1000, begin=begin, end=begin + 1600))[0].mean(axis=1)
    loud = np.flatnonzero(loudness > loudness.max() / 2)
    assert abs(loud.mean() - 24) <= 1


def test_clips_do_not_depend_on_each_other() -> None:
    clips = np.random.default_rng(1).normal(0, 3000, (300, 8000)).astype(np.int16)
    together = FrontEnd()(clips)
    np.testing.assert_array_equal(together[260:], FrontEnd()(clips[260:]))


def test_five_thousand_clips_take_seconds() -> None:
    clips = np.random.default_rng(1).integers(-3000, 3000, (500, 8000), np.int16)
    begin = time.process_time()
    FrontEnd()(clips)
    assert time.process_time() - begin < 1.0  # about 0.15


def test_a_frame_must_be_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="power of two, not 300"):
        FrontEnd(frame=300)


def test_a_band_must_have_a_bin() -> None:
    with pytest.raises(ValueError, match="120 bands are too many for frames of 256 samples"):
        FrontEnd(bands=120)
