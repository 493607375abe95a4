"""Presence detection: the data behind it is what it should be, nothing of the unseen days leaks, and learning helps."""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt
import pytest

from coordinator.evaluation import EvaluationRound
from coordinator.initialization import random_weights
from coordinator.rules import Weights
from simulator.algorithms.fleet import Fleet
from simulator.algorithms.tinyreptile import TinyReptile
from simulator.data import DataError, find, load
from simulator.offline import IntegerDevice, evaluate, take
from simulator.tasks.presence import Presence, PresenceStream, Slice, slices
from tinyreptile.model import Model
from tinyreptile.streams import QUERY, SUPPORT, TRAIN, Stream

from .environment import require

NAMES = ("occupancy_office", "occupancy_room_nodes")


@pytest.fixture(scope="module")
def presence() -> Presence:
    for name in NAMES:
        try:
            find(name)
        except DataError as error:
            require(False, str(error))
    return Presence()


def samples(stream: Stream, part: str, count: int) -> npt.NDArray[np.int16]:
    """``count`` samples, each its inputs and its label."""
    stream.begin(part)
    x, y = memoryview(array("h", bytes(2 * stream.inputs))), array("h", [0])
    result = np.empty((count, stream.inputs + 1), np.int16)
    for row in result:
        take(stream, x, y)
        row[:-1], row[-1] = x, y[0]
    return result


def made_up(place: str = "room") -> Slice:
    """A slice whose rows are all different: the first channel is the row's number."""
    rows = np.zeros((200, 5), np.int16)
    rows[:, 0] = np.arange(200)
    time = np.arange(200)
    return Slice(place, "S1", 0, rows, (1024, 0, 1024, 0, 0), (time % 50 > 30).astype(np.uint8), time // 20 % 2 == 0)


# Streams


def test_support_and_query_share_no_row() -> None:
    stream = PresenceStream(made_up(), seed=3)
    support, query = (set(samples(stream, part, 400)[:, 0].tolist()) for part in (SUPPORT, QUERY))
    assert support
    assert query
    assert not support & query


@pytest.mark.parametrize("part", [SUPPORT, QUERY])
def test_support_and_query_begin_anew_each_time(part: str) -> None:
    stream = PresenceStream(made_up(), seed=3)
    first = samples(stream, part, 30)
    samples(stream, TRAIN, 5)
    np.testing.assert_array_equal(samples(stream, part, 30), first)
    assert len(np.unique(first, axis=0)) == 30


def test_support_has_either_class_in_turn() -> None:
    assert samples(PresenceStream(made_up(), seed=3), SUPPORT, 6)[:, -1].tolist() == [0, 1, 0, 1, 0, 1]


def test_the_seed_decides_the_samples() -> None:
    for part in (TRAIN, SUPPORT, QUERY):
        one, same, other = (samples(PresenceStream(made_up(), seed), part, 20) for seed in (3, 3, 4))
        np.testing.assert_array_equal(one, same)
        assert np.any(one != other)


def test_training_draws_from_all_rows_and_goes_on() -> None:
    stream = PresenceStream(made_up(), seed=3)
    assert np.any(samples(stream, TRAIN, 20) != samples(stream, TRAIN, 20))
    assert set(samples(stream, TRAIN, 4000)[:, 0].tolist()) == set(range(200))


def test_an_input_is_the_readings_and_what_the_node_is_fitted_with() -> None:
    sample = samples(PresenceStream(made_up(), seed=3), TRAIN, 1)[0]
    assert sample[1:-1].tolist() == [0, 0, 0, 0, 1024, 0, 1024, 0, 0]


# The split of the real data


def test_unseen_days_are_later_than_every_training_day_of_their_place(presence: Presence) -> None:
    for place in ("office", "room"):
        train, unseen = ({s.day for s in side if s.place == place} for side in (presence.train, presence.unseen))
        assert max(train) < min(unseen)


def test_all_nodes_of_an_unseen_day_are_unseen(presence: Presence) -> None:
    nodes = {day: {s.node for s in presence.unseen if s.day == day} for day in {s.day for s in presence.unseen}}
    assert sorted(map(sorted, nodes.values())) == [["S1", "S2", "S3", "S4"], *[["air", "all", "light"]] * 2]


def test_normalisation_is_the_same_whatever_the_unseen_rows_are(presence: Presence) -> None:
    office, room = (load(name) for name in NAMES)
    unseen_days = {s.day for s in presence.unseen}
    for arrays in (office, room):
        later = arrays["unix_time"] // 86_400 >= min(unseen_days & set(arrays["unix_time"] // 86_400))
        arrays["features"][later] += 1000
    train, unseen = slices(office, room)
    for one, other in zip(presence.train, train, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
    assert any(np.any(one.rows != other.rows) for one, other in zip(presence.unseen, unseen, strict=True))


def test_training_inputs_are_about_standard_and_0_where_the_sensor_is_not_fitted(presence: Presence) -> None:
    rows = np.concatenate([s.rows for s in presence.train]) / 1024
    fitted = np.concatenate([np.broadcast_to(np.array(s.fitted) > 0, s.rows.shape) for s in presence.train])
    assert np.abs(rows).max() <= 4
    assert not rows[~fitted].any()
    for channel in range(rows.shape[1]):
        values = rows[fitted[:, channel], channel]
        assert abs(values.mean()) < 0.05  # not quite 0 and 1: sound has rare loud readings, which are clipped
        assert 0.65 < values.std() < 1.05


def test_queries_of_every_unseen_device_hold_both_classes(presence: Presence) -> None:
    queries = presence.settings["evaluation"]["queries"]
    for index in range(presence.evaluators or 0):
        assert set(samples(presence.unseen_stream(index, 1), QUERY, queries)[:, -1].tolist()) == {0, 1}


def test_every_device_has_a_stream_that_fits_the_model(presence: Presence) -> None:
    model = Model(presence.model)
    streams = [presence.train_stream(i, 1) for i in range(presence.devices or 0)]
    streams += [presence.unseen_stream(i, 1) for i in range(presence.evaluators or 0)]
    assert len(streams) == 72
    for stream in streams:
        assert (stream.inputs, stream.outputs) == (model.inputs, model.outputs)
        assert set(samples(stream, TRAIN, 50)[:, -1].tolist()) <= {0, 1}


# Learning


def accuracy_after_adaptation(presence: Presence, weights: Weights, beta: float) -> float:
    """Balanced accuracy over all unseen devices, adapted as the task's settings say but with learning rate ``beta``."""
    settings = presence.settings["evaluation"]
    device = IntegerDevice(Model(presence.model), beta=beta, bits=8)
    unseen = [presence.unseen_stream(index, 1) for index in range(presence.evaluators or 0)]
    results = evaluate(device, weights, unseen, **{name: settings[name] for name in ("steps", "shots", "queries")})
    summary = EvaluationRound(0, 0, results=results).summary()
    return float(summary["balanced_accuracy_after"])


@pytest.mark.usefixtures("compiled")
def test_the_learned_initialization_adapts_better_than_a_random_start_at_its_own_best_rate(presence: Presence) -> None:
    model = Model(presence.model)
    settings = presence.settings["learning"]
    device = IntegerDevice(model, beta=settings["beta"], bits=settings["bits"])
    start = random_weights(model, 1)
    learned = start.copy()
    algorithm = TinyReptile(
        Fleet(presence, device, 1), {name: settings[name] for name in ("steps", "alpha", "alpha_end")}, 2000
    )
    for number in range(1, 2001):
        algorithm.round(learned, number)
    random = max(accuracy_after_adaptation(presence, start, beta) for beta in (0.02, 0.05, 0.1, 0.2, 0.4))
    assert accuracy_after_adaptation(presence, learned, settings["beta"]) > max(0.88, random + 0.05)
