"""Omniglot: nothing of the unseen characters is trained on, and the protocol gives the figures known for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from simulator.data import DataError, find, load
from simulator.data.omniglot import unpack
from simulator.tasks import TaskError, task_settings
from simulator.tasks.omniglot import Drawings, Omniglot, area, network
from tinyreptile.learner import ONE
from tinyreptile.model import Model
from tinyreptile.streams import QUERY, SUPPORT, TRAIN

from ...environment import require
from ..streams import distances, samples


@pytest.fixture(scope="module")
def omniglot() -> Omniglot:
    need("omniglot28")
    return Omniglot(pixels="binary", scale=1.0)


def need(name: str) -> None:
    try:
        find(name)
    except DataError as error:
        require(False, str(error))


def drawings(split: int, turns: tuple[int, ...]) -> set[bytes]:
    """Every drawing of a side of the split in the given quarter turns, as a stream would give it."""
    known = load("omniglot28")
    images = unpack(known["images"], 28)[known["char_split"][known["char_id"]] == split] * np.int16(ONE)
    turned = (np.rot90(images, turn, axes=(1, 2)).reshape(-1, 784) for turn in turns)
    return {row.tobytes() for rows in turned for row in rows}


# The pool


def made_up() -> npt.NDArray[np.uint8]:
    """Three characters whose drawings are all different: rows of ``4 c + d`` under a corner that tells what is up."""
    codes = np.zeros((3, 20, 4, 4), np.uint8)
    codes[:, :, 0, 0] = 200
    codes[:, :, 3, :] = (20 * np.arange(3)[:, None] + np.arange(20))[:, :, None]
    return codes


def test_a_class_is_drawings_of_one_character_in_one_turn_by_different_people() -> None:
    pool = Drawings(made_up(), np.arange(256, dtype=np.int16), 4)
    assert (pool.inputs, pool.classes) == (16, 12)
    corners = {0: (0, 0), 1: (3, 0), 2: (3, 3), 3: (0, 3)}
    for rows in pool.draw(np.random.default_rng(1), 12, 20):
        images = rows.reshape(20, 4, 4)
        turns = [turn for turn, at in corners.items() if np.all(images[:, at[0], at[1]] == 200)]
        assert len(turns) == 1
        feet = np.rot90(images, -turns[0], axes=(1, 2))[:, 3, 1]
        assert len(set(feet.tolist())) == 20
        assert len(set((feet // 20).tolist())) == 1


def test_every_turn_is_a_class_of_its_own() -> None:
    rows = Drawings(made_up(), np.arange(256, dtype=np.int16), 4).draw(np.random.default_rng(1), 12, 20)
    assert len({row.tobytes() for row in rows.reshape(-1, 16)}) == 12 * 20


# Training and unseen devices


def test_training_draws_from_all_turns_of_the_meta_train_characters(omniglot: Omniglot) -> None:
    assert omniglot.train.classes == 4 * 1200
    given = {row.tobytes() for i in range(20) for row in samples(omniglot.train_stream(i, 1), TRAIN, 50)[0]}
    assert given <= drawings(0, (0, 1, 2, 3))
    for turn in range(4):
        assert given & drawings(0, (turn,))


def test_unseen_devices_have_upright_meta_test_characters(omniglot: Omniglot) -> None:
    assert omniglot.unseen.classes == 423
    streams = [omniglot.unseen_stream(i, 1) for i in range(20)]
    given = {
        row.tobytes() for s in streams for part, n in ((SUPPORT, 25), (QUERY, 75)) for row in samples(s, part, n)[0]
    }
    assert given <= drawings(1, (0,))
    blank = {bytes(2 * 784)}
    assert not given & drawings(0, (0, 1, 2, 3)) - blank


def test_an_unseen_device_has_all_drawings_of_its_characters(omniglot: Omniglot) -> None:
    stream = omniglot.unseen_stream(0, 1)
    given = [samples(stream, part, n)[0] for part, n in ((SUPPORT, 25), (QUERY, 75))]
    assert len({row.tobytes() for row in np.concatenate(given)}) == 100


def test_devices_and_fleets_differ(omniglot: Omniglot) -> None:
    streams = [omniglot.train_stream(0, 1), omniglot.train_stream(1, 1), omniglot.train_stream(0, 2)]
    first = [samples(stream, TRAIN, 50)[0].tobytes() for stream in streams]
    assert len(set(first)) == 3
    streams = [omniglot.unseen_stream(0, 1), omniglot.unseen_stream(1, 1), omniglot.unseen_stream(0, 2)]
    first = [samples(stream, SUPPORT, 25)[0].tobytes() for stream in streams]
    assert len(set(first)) == 3


def test_ways_shots_and_drawings_are_the_studys_to_choose(omniglot: Omniglot) -> None:
    task = Omniglot(ways=20, shots=1, drawings=4)
    _, labels = samples(task.train_stream(0, 1), TRAIN, 80)
    assert np.bincount(labels).tolist() == [4] * 20
    _, labels = samples(task.unseen_stream(0, 1), QUERY, 380)
    assert np.bincount(labels).tolist() == [19] * 20


# Pixels


def test_a_binary_pixel_is_one_for_ink_and_zero_for_paper(omniglot: Omniglot) -> None:
    assert set(np.unique(samples(omniglot.train_stream(0, 1), TRAIN, 50)[0]).tolist()) == {0, ONE}


def test_pixels_are_moved_and_scaled(omniglot: Omniglot) -> None:
    moved = Omniglot(pixels="binary", offset=0.25, scale=2.0)
    assert set(np.unique(samples(moved.train_stream(0, 1), TRAIN, 50)[0]).tolist()) == {-ONE // 2, 3 * ONE // 2}


def test_an_area_pixel_is_the_share_of_ink() -> None:
    images = np.zeros((2, 105, 105), np.uint8)
    images[0, :3, :3] = 1  # a whole pixel of 35x35
    images[0, 3, 3] = 1  # a ninth of another
    images[1] = 1
    packed = np.packbits(images.reshape(2, -1), axis=1)
    grey = area(packed, 35)
    assert (grey[0, 0, 0], grey[0, 1, 1], int(grey[0].sum())) == (255, 28, 283)
    for side in (28, 35, 105):
        assert area(packed, side)[1].min() == 255


def test_area_pixels_keep_the_ink_of_a_drawing() -> None:
    need("omniglot105")
    packed = load("omniglot105")["images"][:50]
    ink = unpack(packed, 105).mean(axis=(1, 2))
    np.testing.assert_allclose(area(packed, 28).mean(axis=(1, 2)) / 255, ink, atol=1e-3)


# The figures known for it: nearest neighbour on raw pixels, meta-test characters (README of the data)


@pytest.mark.parametrize(
    ("parameters", "known"),
    [
        ({"ways": 5, "shots": 1, "pixels": "binary"}, 0.376),
        ({"ways": 5, "shots": 5, "pixels": "binary"}, 0.540),
        ({"ways": 20, "shots": 1, "pixels": "binary"}, 0.178),
        ({"ways": 5, "shots": 1, "pixels": "area", "side": 35}, 0.423),
    ],
)
def test_the_nearest_neighbour_scores_what_it_is_known_to(parameters: dict[str, Any], known: float) -> None:
    for name in ("omniglot28", "omniglot105"):
        need(name)
    task = Omniglot(**parameters)
    right = []
    for i in range(400):
        stream = task.unseen_stream(i, 1)
        support, labels = samples(stream, SUPPORT, task.ways * task.shots)
        query, answers = samples(stream, QUERY, task.ways * (20 - task.shots))
        right.append(np.mean(labels[distances(query, support).argmin(axis=1)] == answers))
    assert abs(np.mean(right) - known) < 0.018  # four standard errors of the mean of 400 devices


# Model, settings, mistakes


def test_the_model_takes_the_streams_samples(omniglot: Omniglot) -> None:
    model = Model(omniglot.model)
    stream = omniglot.train_stream(0, 1)
    assert (model.inputs, model.outputs) == (stream.inputs, stream.outputs)


def test_other_ways_and_sides_have_models_of_their_own() -> None:
    model = Model(network(20, 35))
    assert (model.inputs, model.outputs) == (35 * 35, 20)


def test_the_settings_adapt_to_all_of_the_support_and_ask_all_of_the_query() -> None:
    evaluation = task_settings("omniglot")["evaluation"]
    assert (evaluation["shots"], evaluation["queries"]) == (5 * 5, 5 * 15)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"ways": 1}, "2 ways or more"),
        ({"shots": 20}, "1 to 19 shots"),
        ({"drawings": 21}, "1 to 20 drawings"),
        ({"pixels": "grey"}, "one of binary, area, not 'grey'"),
        ({"pixels": "binary", "side": 14}, "28x28, or with pixels='area'"),
        ({"pixels": "area", "side": 106}, "not 106x106"),
    ],
)
def test_impossible_parameters_are_told_before_anything_is_read(
    parameters: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match=sentence):
        Omniglot(tmp_path, **parameters)
