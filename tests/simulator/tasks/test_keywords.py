"""Keywords: people and words of unseen devices are new, no clip is met twice, and the features tell words apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from simulator.data import DataError, find, load, save
from simulator.features import FrontEnd
from simulator.tasks import TaskError, make_task, task_settings
from simulator.tasks.keywords import HELD_OUT, UNSEEN, Clips, Keywords, Shifted, Spliced, network
from tinyreptile.learner import ONE
from tinyreptile.model import Model
from tinyreptile.streams import QUERY, SUPPORT, TRAIN

from ...environment import require
from ..streams import distances, samples

# The pool


def made_up(each: int = 3) -> Clips:
    """Four words, the last said once only, by ten people who say the others ``each`` times; a row is its number."""
    words = np.repeat([0, 1, 2], 10 * each)
    speakers = np.tile(np.repeat(np.arange(10), each), 3)
    words, speakers = np.append(words, 3), np.append(speakers, 0)
    return Clips(np.arange(len(words), dtype=np.int16)[:, None], words, speakers)


def test_a_draw_has_different_clips_of_each_word() -> None:
    rows = made_up().draw(np.random.default_rng(1), 3, 12)[:, :, 0]
    assert rows.shape == (3, 12)
    assert len(set(rows.reshape(-1).tolist())) == 36
    assert {tuple(set((row // 30).tolist())) for row in rows} == {(0,), (1,), (2,)}


def test_clips_are_chosen_for_the_words_that_are_named() -> None:
    chosen = made_up().choose(np.random.default_rng(1), np.array([2, 0, 2]), 12)
    np.testing.assert_array_equal(chosen // 30, np.repeat([[2], [0], [2]], 12, axis=1))
    assert all(len(set(row.tolist())) == 12 for row in chosen)


@pytest.mark.parametrize(("count", "people"), [(3, 1), (4, 2), (12, 4), (30, 10)])
def test_a_draws_clips_are_by_no_more_people_than_it_takes(count: int, people: int) -> None:
    for seed in range(20):
        chosen = made_up().draw(np.random.default_rng(seed), 3, count)
        assert len(set((chosen % 30 // 3).reshape(-1).tolist())) <= people


def test_every_person_comes_into_some_group() -> None:
    chosen = [made_up().draw(np.random.default_rng(seed), 3, 3) for seed in range(60)]
    assert set((np.concatenate(chosen) % 30 // 3).reshape(-1).tolist()) == set(range(10))


def test_words_with_too_few_clips_are_not_drawn() -> None:
    assert made_up().enough(1).tolist() == [0, 1, 2, 3]
    assert made_up().enough(2).tolist() == [0, 1, 2]


def test_a_shifted_clip_is_moved_by_no_more_than_is_allowed_and_its_edge_repeated() -> None:
    shape = frames, bands = 7, 5
    numbers = np.arange(frames * bands, dtype=np.int16)
    pool = Clips(np.tile(numbers, (3, 1)), np.arange(3), np.zeros(3, int))
    shifted = Shifted(pool, shape, 2, 1)
    assert shifted.inputs == pool.inputs
    allowed = {
        numbers.reshape(shape)[np.clip(np.arange(frames) + down, 0, 6)][:, np.clip(np.arange(bands) + right, 0, 4)]
        .astype(np.int16)
        .tobytes(): (down, right)
        for down in range(-2, 3)
        for right in range(-1, 2)
    }
    random = np.random.default_rng(1)
    drawn = [clip for _ in range(60) for clip in shifted.draw(random, 3, 1).reshape(3, -1)]
    assert {allowed[clip.tobytes()] for clip in drawn} == set(allowed.values())


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_spliced_word_begins_like_one_and_ends_like_another_by_the_same_people(share: float) -> None:
    said = made_up()
    shape = 5, 2
    pool = Clips(np.repeat(said.rows, 10, axis=1), said.words, said.speakers)
    spliced = Spliced(pool, shape, share)
    assert spliced.inputs == pool.inputs
    random = np.random.default_rng(1)
    seen = set()
    for _ in range(30):
        drawn = spliced.draw(random, 3, 3).reshape(3, 3, *shape)
        np.testing.assert_array_equal(drawn[:, :, :2], drawn[:, :, :1, :1] + np.zeros((2, 2), np.int16))
        np.testing.assert_array_equal(drawn[:, :, 2:], drawn[:, :, 4:, :1] + np.zeros((3, 2), np.int16))
        first, second = drawn[:, :, 0, 0], drawn[:, :, 4, 0]
        pairs = {(a, b) for a, b in zip((first // 30).reshape(-1), (second // 30).reshape(-1), strict=True)}
        assert len(pairs) == 3
        whole = first // 30 == second // 30
        np.testing.assert_array_equal(first[whole], second[whole])
        assert len(set((first % 30 // 3).reshape(-1)) | set((second % 30 // 3).reshape(-1))) == 1
        seen |= pairs
    assert seen == {(a, b) for a in range(3) for b in range(3) if share == 0.5 or (a != b) == share}


# The task on its data


def need() -> None:
    try:
        find("speech_commands_8k")
    except DataError as error:
        require(False, str(error))


@pytest.fixture(scope="module", params=UNSEEN)
def keywords(request: pytest.FixtureRequest) -> Keywords:
    need()
    return Keywords(unseen=request.param)


def clips(rows: npt.NDArray[np.int16]) -> set[bytes]:
    return {row.tobytes() for row in rows}


def names(pool: Clips) -> tuple[set[str], set[str]]:
    """The words and the speakers of a pool."""
    known = load("speech_commands_8k")
    return set(known["words"][pool.words].tolist()), set(known["speakers"][pool.speakers].tolist())


def test_nobody_who_is_heard_by_unseen_devices_is_heard_in_training(keywords: Keywords) -> None:
    training, unseen = names(keywords.train)[1], names(keywords.unseen)[1]
    assert len(training) <= 167
    assert len(unseen) <= 72
    assert not training & unseen


def test_held_out_words_are_in_no_training() -> None:
    need()
    task = Keywords(unseen="words")
    assert names(task.unseen)[0] == set(HELD_OUT)
    assert not names(task.train)[0] & set(HELD_OUT)


def test_words_of_unseen_people_are_words_of_training() -> None:
    need()
    task = Keywords(unseen="speakers")
    usable = load("speech_commands_8k")["words"][task.unseen.enough(15)].tolist()
    assert usable == ["down", "left", "no", "off", "on", "right", "up", "yes"]
    assert set(usable) <= names(task.train)[0]


def test_silence_is_no_word(keywords: Keywords) -> None:
    assert "_silence_" not in names(keywords.train)[0] | names(keywords.unseen)[0]


def test_no_recording_is_twice_in_the_pools(keywords: Keywords) -> None:
    rows = np.concatenate([keywords.train.rows, keywords.unseen.rows])
    assert len(clips(rows)) == len(rows)


def test_streams_give_clips_of_their_own_pool(keywords: Keywords) -> None:
    for index in range(10):
        assert clips(samples(keywords.train_stream(index, 1), TRAIN, 80)[0]) <= clips(keywords.train.rows)
        unseen = keywords.unseen_stream(index, 1)
        support, query = (clips(samples(unseen, part, n)[0]) for part, n in ((SUPPORT, 20), (QUERY, 40)))
        assert (len(support), len(query)) == (20, 40)
        assert support | query <= clips(keywords.unseen.rows)
        assert not support & query


@pytest.mark.parametrize("arguments", [{"time_shift": 3, "frequency_shift": 1}, {"spliced": 1.0}])
def test_only_trainings_clips_are_changed(arguments: dict[str, Any]) -> None:
    need()
    plain, changed = Keywords(), Keywords(**arguments)
    training = clips(samples(changed.train_stream(0, 1), TRAIN, 40)[0])
    assert len(training - clips(plain.train.rows)) > 25
    for part in (SUPPORT, QUERY):
        ours, theirs = (samples(task.unseen_stream(0, 1), part, 20)[0] for task in (changed, plain))
        np.testing.assert_array_equal(ours, theirs)


def test_every_word_of_an_unseen_device_is_asked_equally_often(keywords: Keywords) -> None:
    _, labels = samples(keywords.unseen_stream(0, 1), QUERY, 40)
    assert np.bincount(labels).tolist() == [10] * 4


def test_devices_and_fleets_differ(keywords: Keywords) -> None:
    for make, part in ((keywords.train_stream, TRAIN), (keywords.unseen_stream, SUPPORT)):
        first = [samples(make(index, seed), part, 20)[0].tobytes() for index, seed in ((0, 1), (1, 1), (0, 2))]
        assert len(set(first)) == 3


def test_features_are_normal_over_training_and_clipped(keywords: Keywords) -> None:
    maps = keywords.train.rows.reshape(-1, 49, 20) / ONE
    np.testing.assert_allclose(maps.mean(axis=(0, 1)), 0, atol=0.01)
    np.testing.assert_allclose(maps.std(axis=(0, 1)), 1, atol=0.01)
    assert np.abs(keywords.unseen.rows).max() <= 4 * ONE
    assert np.all(keywords.unseen.rows.std(axis=1) > 0)


def test_the_front_end_is_the_studys_to_choose() -> None:
    need()
    front_end = FrontEnd(bands=30, hop=256)
    task = Keywords(front_end=front_end)
    assert task.train_stream(0, 1).inputs == front_end.frames(8000) * 30


def test_features_are_computed_once() -> None:
    need()
    assert Keywords(unseen="words").train is Keywords(unseen="speakers").train


def test_the_nearest_centroid_is_above_chance_on_unseen_people_and_words(keywords: Keywords) -> None:
    right = []
    for index in range(200):
        stream = keywords.unseen_stream(index, 1)
        support, labels = samples(stream, SUPPORT, 20)
        query, answers = samples(stream, QUERY, 40)
        centroids = np.stack([support[labels == label].mean(axis=0) for label in range(4)])
        right.append(np.mean(distances(query, centroids).argmin(axis=1) == answers))
    assert 0.46 < np.mean(right) < 0.55  # chance is 0.25; without centring, 0.31


# Model, settings, mistakes


def test_the_model_takes_the_streams_samples(keywords: Keywords) -> None:
    model = Model(keywords.model)
    stream = keywords.train_stream(0, 1)
    assert (model.inputs, model.outputs) == (stream.inputs, stream.outputs)


def test_other_ways_and_front_ends_have_models_of_their_own() -> None:
    model = Model(network(6, FrontEnd(bands=30)))
    assert (model.inputs, model.outputs) == (49 * 30, 6)


def test_the_settings_adapt_to_all_of_the_support_and_ask_all_of_the_query() -> None:
    evaluation = task_settings("keywords")["evaluation"]
    assert (evaluation["shots"], evaluation["queries"]) == (4 * 5, 4 * 10)


def test_the_task_is_known_by_its_name() -> None:
    need()
    assert isinstance(make_task("keywords"), Keywords)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"ways": 1}, "2 ways or more"),
        ({"queries": 0}, "a query"),
        (
            {"time_shift": 49},
            "49 frames and 20 bands are shifted by 0 or more, and fewer, not by 49 frames and 0 bands",
        ),
        ({"spliced": 1.5}, "a share of the words is spliced, 0 to 1, not 1.5"),
        ({"frequency_shift": -1}, "not by 0 frames and -1 bands"),
        ({"unseen": "people"}, "one of speakers, words that are unseen, not 'people'"),
    ],
)
def test_impossible_parameters_are_told_before_anything_is_read(
    parameters: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match=sentence):
        Keywords(tmp_path, **parameters)


def test_more_than_the_data_set_has_is_told() -> None:
    need()
    with pytest.raises(DataError, match="only 2 words of unseen words have 65 clips or more, and 4 are needed; take"):
        Keywords(unseen="words", queries=60)


def test_the_official_test_set_alone_does_for_unseen_people_but_not_for_unseen_words(tmp_path: Path) -> None:
    need()
    known = load("speech_commands_8k")
    per_clip = ("audio", "word", "label12", "speaker", "utterance", "source", "first_copy")
    official = {key: known[key][known["source"] == 0] for key in per_clip}
    save("speech_commands_8k", known | official, tmp_path)
    assert len(Keywords(tmp_path).unseen.enough(15)) == 8
    with pytest.raises(DataError, match="only 2 words of unseen words have 15 clips or more, and 4 are needed"):
        Keywords(tmp_path, unseen="words")
