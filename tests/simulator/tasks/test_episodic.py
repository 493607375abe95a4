"""Few-shot streams: which samples of a draw are handed out when, on a pool whose samples say what they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from simulator.tasks.episodic import FixedEpisode, FreshEpisodes
from tinyreptile.streams import QUERY, SUPPORT, TRAIN

from ..streams import more, samples

WAYS, COUNT, CLASSES, EACH = 5, 10, 100, 20


class Numbers:
    """A pool of ``CLASSES`` classes; sample ``i`` of class ``c`` is (c, i)."""

    inputs = 2

    def draw(self, random: np.random.Generator, ways: int, count: int) -> npt.NDArray[np.int16]:
        classes = random.choice(CLASSES, ways, replace=False)
        drawn = np.stack([random.permutation(EACH)[:count] for _ in range(ways)])
        return np.stack([np.broadcast_to(classes[:, None], drawn.shape), drawn], axis=-1).astype(np.int16)


def training(seed: int = 1) -> FreshEpisodes:
    return FreshEpisodes(Numbers(), WAYS, COUNT, seed)


def unseen(seed: int = 1, shots: int = 5) -> FixedEpisode:
    return FixedEpisode(Numbers(), WAYS, shots, EACH - shots, seed)


def as_set(inputs: npt.NDArray[np.int16]) -> set[tuple[int, ...]]:
    return {tuple(row) for row in inputs.tolist()}


# Training


def test_a_piece_of_training_has_each_sample_once_and_each_label_equally_often() -> None:
    inputs, labels = samples(training(), TRAIN, WAYS * COUNT)
    assert len(as_set(inputs)) == WAYS * COUNT
    assert np.bincount(labels).tolist() == [COUNT] * WAYS


def test_a_label_stands_for_one_class_within_a_piece_of_training() -> None:
    inputs, labels = samples(training(), TRAIN, WAYS * COUNT)
    assert len({(label, number) for label, number in zip(labels.tolist(), inputs[:, 0].tolist(), strict=True)}) == WAYS


def test_training_comes_in_no_order_of_classes() -> None:
    _, labels = samples(training(), TRAIN, WAYS * COUNT)
    assert np.any(np.diff(labels[:COUNT]))
    assert any(len(set(labels[i : i + WAYS].tolist())) < WAYS for i in range(0, WAYS * COUNT, WAYS))


def test_every_piece_of_training_draws_anew() -> None:
    stream = training()
    classes = [set(samples(stream, TRAIN, WAYS * COUNT)[0][:, 0].tolist()) for _ in range(60)]
    assert len({frozenset(those) for those in classes}) == 60
    assert len(set.union(*classes)) > 0.9 * CLASSES


def test_training_goes_on_with_a_new_draw_when_more_is_asked_for() -> None:
    stream = training()
    first, _ = samples(stream, TRAIN, WAYS * COUNT)
    second, labels = more(stream, WAYS * COUNT)
    assert set(first[:, 0].tolist()) != set(second[:, 0].tolist())
    assert np.bincount(labels).tolist() == [COUNT] * WAYS


def test_the_same_class_comes_under_every_label() -> None:
    stream = training()
    seen = set()
    for _ in range(200):
        inputs, labels = samples(stream, TRAIN, WAYS * COUNT)
        seen |= set(labels[inputs[:, 0] < 3].tolist())
    assert seen == set(range(WAYS))


# Unseen devices


def test_support_and_query_share_no_sample_but_all_classes() -> None:
    support, query = (samples(unseen(), part, count)[0] for part, count in ((SUPPORT, 25), (QUERY, 75)))
    assert len(as_set(support)) == 25
    assert len(as_set(query)) == 75
    assert not as_set(support) & as_set(query)
    assert set(support[:, 0].tolist()) == set(query[:, 0].tolist())


def test_a_class_has_the_same_label_in_support_and_query() -> None:
    pairs = set()
    for part, count in ((SUPPORT, 25), (QUERY, 75)):
        inputs, labels = samples(unseen(), part, count)
        pairs |= set(zip(inputs[:, 0].tolist(), labels.tolist(), strict=True))
    assert len(pairs) == WAYS


@pytest.mark.parametrize("part", [SUPPORT, QUERY])
def test_in_either_part_every_class_has_its_turn_before_one_comes_again(part: str) -> None:
    _, labels = samples(unseen(), part, 25)
    turns = labels.reshape(-1, WAYS)
    assert all(sorted(turn) == list(range(WAYS)) for turn in turns.tolist())
    assert len({tuple(turn) for turn in turns.tolist()}) > 1  # not always in the same order


@pytest.mark.parametrize("part", [SUPPORT, QUERY])
def test_either_part_begins_anew_each_time(part: str) -> None:
    stream = unseen()
    inputs, labels = samples(stream, part, 20)
    samples(stream, QUERY, 3)
    again, same = samples(stream, part, 20)
    np.testing.assert_array_equal(inputs, again)
    np.testing.assert_array_equal(labels, same)


def test_support_goes_round_when_more_is_asked_for() -> None:
    stream = unseen()
    inputs, _ = samples(stream, SUPPORT, 50)
    np.testing.assert_array_equal(inputs[:25], inputs[25:])


def test_an_unseen_device_that_is_to_train_keeps_to_its_support() -> None:
    assert as_set(samples(unseen(), TRAIN, 50)[0]) == as_set(samples(unseen(), SUPPORT, 25)[0])


# Both


@pytest.mark.parametrize(("make", "part"), [(training, TRAIN), (unseen, SUPPORT), (unseen, QUERY)])
def test_the_seed_decides_the_samples(make: type, part: str) -> None:
    one, same, other = (samples(make(seed), part, 25)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)


@pytest.mark.parametrize("make", [training, unseen])
def test_a_stream_says_its_shape(make: type) -> None:
    assert (make().inputs, make().outputs) == (2, WAYS)
