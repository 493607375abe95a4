"""Reading the archives of Speech Commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulator.data import DataError, speech_commands

from .archives import TEST_SET, noise, shared, speech_archive, wav


def test_speech_commands_test_set_says_what_each_clip_is(tmp_path: Path) -> None:
    arrays = speech_commands.read([speech_archive(tmp_path, TEST_SET)])
    assert arrays["words"][arrays["word"]].tolist() == ["_silence_", "bird", "yes", "yes", "yes"]
    assert arrays["labels12"][arrays["label12"]].tolist() == ["_silence_", "_unknown_", "yes", "yes", "yes"]
    assert arrays["speakers"].tolist() == ["022cd682", "0c40e715", "a4383927"]
    assert arrays["speaker"].tolist() == [-1, 2, 0, 0, 1]
    assert arrays["utterance"].tolist() == [0, 0, 0, 4, 1]
    assert arrays["first_copy"].tolist() == [0, 1, 2, 2, 4]
    assert arrays["speaker_split"].tolist() == [0, 1, 0]
    assert int(arrays["sample_rate"]) == 8000


def test_speech_commands_clips_are_halved_in_rate_and_coded(tmp_path: Path) -> None:
    arrays = speech_commands.read([speech_archive(tmp_path, TEST_SET)])
    assert arrays["audio"].shape == (5, 8000)
    decoded = arrays["mulaw_table"][arrays["audio"][4]].astype(float)
    exact = speech_commands.halve(noise(1))
    assert np.abs(decoded - exact).max() < 0.03 * np.abs(exact).max()
    assert 10 * np.log10(np.mean(exact**2) / np.mean((decoded - exact) ** 2)) > 35  # dB
    short = arrays["mulaw_table"][arrays["audio"][2]]
    assert np.abs(short[4600:]).max() <= 3  # a clip that is too short ends in silence


def test_the_full_archive_holds_out_the_people_of_its_testing_list(tmp_path: Path) -> None:
    members = {
        "testing_list.txt": b"bird/11111111_nohash_0.wav\n",
        "_background_noise_/white.wav": wav(noise(1, 40_000)),
        "bird/11111111_nohash_0.wav": wav(noise(2)),
        "bird/0c40e715_nohash_0.wav": wav(noise(3)),
        "yes/11111111_nohash_0.wav": wav(noise(4)),
    }
    arrays = speech_commands.read([speech_archive(tmp_path, members)])
    assert arrays["words"][arrays["word"]].tolist() == ["bird", "bird", "yes"]
    assert arrays["labels12"][arrays["label12"]].tolist() == ["_unknown_", "_unknown_", "yes"]
    assert arrays["speakers"][arrays["speaker_split"] == 1].tolist() == ["11111111"]


def test_halving_the_rate_gives_what_scipy_gives() -> None:
    samples = np.array([1000, -2000, 3000, 12, 7, -900, 450, 32767, -32768, 5])
    by_scipy = [
        -1309.227133,
        2773.472594,
        -3382.771038,
        10205.113965,
        -5853.393513,
    ]  # 1.17, resample_poly(samples, 1, 2)
    np.testing.assert_allclose(speech_commands.halve(samples), by_scipy, atol=1e-5)


def test_a_code_stands_for_the_sample_that_it_is_the_code_of() -> None:
    table = speech_commands.mulaw_table()
    np.testing.assert_array_equal(speech_commands.encode(table), np.arange(256))
    assert speech_commands.encode(np.array([-40_000.0, 40_000.0])).tolist() == [0, 255]


def test_the_codes_and_the_held_out_people_are_those_of_the_projects_file() -> None:
    known = shared("speech_commands_8k")
    np.testing.assert_array_equal(known["mulaw_table"], speech_commands.mulaw_table())
    assert set(known["speakers"][known["speaker_split"] == 1].tolist()) == speech_commands.META_TEST
    assert known["labels12"].tolist() == list(speech_commands.LABELS)


@pytest.mark.parametrize(
    ("name", "content"),
    [("yes/022cd682_nohash_0.wav", wav(noise(1), rate=8000)), ("yes/nobody.wav", wav(noise(1)))],
    ids=["rate", "name"],
)
def test_a_clip_that_is_not_what_it_should_be_is_an_error(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(DataError, match=f"speech.tar.gz is damaged or not what it should be .*{name}"):
        speech_commands.read([speech_archive(tmp_path, {name: content})])
