"""Attacks of colluders: within the norm that they are allowed, and packed as a device packs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.hostile import Fleet, Kind
from coordinator.deltas import unpack
from simulator.collusion import COLLUSIONS, Attack, Known, MinMax, packed
from simulator.offline import take
from simulator.tasks.sine import Sine
from tests.commands import check_missing_data
from tinyreptile.learner import Learner
from tinyreptile.model import Model

MODEL = Model(Sine.model)
CLIP = 2.0


@pytest.fixture
def known() -> Known:
    """Twenty honest deltas of norms about 1, with something in common."""
    chance = np.random.default_rng(1)
    deltas = chance.normal(size=(20, MODEL.parameters)) + 0.3
    known = Known(MODEL.parameters, CLIP)
    known.latest = {i: delta / np.linalg.norm(delta) for i, delta in enumerate(deltas)}
    return known


def sent(attack: Attack, deltas: int = 80) -> list[np.ndarray]:
    """What an attack makes of so many honest deltas."""
    chance = np.random.default_rng(2)
    learned = chance.normal(size=(deltas, MODEL.parameters)) / MODEL.parameters**0.5 + 0.01
    return [attack.forge(i % 4, delta) for i, delta in enumerate(learned)]


@pytest.mark.parametrize("name", COLLUSIONS)
def test_what_is_sent_is_no_longer_than_is_taken_whole(name: str, known: Known) -> None:
    known.progress = 0.9
    norms = [np.linalg.norm(delta) for delta in sent(COLLUSIONS[name](known, 1))]
    assert max(norms) <= CLIP * 1.0001


@pytest.mark.parametrize("name", ["inner product", "a little", "min-max", "min-sum", "sleeper", "drift", "turncoat"])
def test_these_go_against_the_honest_mean(name: str, known: Known) -> None:
    known.progress = 0.9
    assert sent(COLLUSIONS[name](known, 1))[0] @ known.honest().mean(axis=0) < 0


def test_min_max_goes_as_far_as_honest_deltas_are_apart(known: Known) -> None:
    honest = known.honest()
    apart = max(np.linalg.norm(a - b) for a in honest for b in honest)
    farthest = max(np.linalg.norm(sent(MinMax(known, 1))[0] - a) for a in honest)
    assert farthest == pytest.approx(apart, rel=1e-6)


def test_a_sleeper_sleeps_and_a_turncoat_wants_its_standing_back(known: Known) -> None:
    honest = np.full(MODEL.parameters, 0.01)
    assert COLLUSIONS["sleeper"](known, 1).forge(0, honest) is honest
    turncoat = COLLUSIONS["turncoat"](known, 1)
    standings = iter([1.0, 0.7, 0.4, 0.7, 1.0])
    known.standing = lambda index: next(standings)
    assert [turncoat.forge(0, honest) is honest for _ in range(5)] == [False, False, True, True, False]


def test_wrong_labels_are_the_others_and_wrong_values_have_the_other_sign(known: Known) -> None:
    learner = Learner(MODEL)
    stream = Sine().train_stream(1, 1)
    take(stream, learner.x, learner.y)
    right = list(learner.y)
    attack = COLLUSIONS["labels"](known, 1)
    take(attack.stream(Sine().train_stream(1, 1)), learner.x, learner.y)
    assert list(learner.y) == [-value for value in right]


def test_any_delta_is_packed_as_exactly_as_eight_bits_can() -> None:
    delta = np.random.default_rng(1).normal(size=MODEL.parameters) * 0.1
    data, gains = packed(MODEL, delta)
    np.testing.assert_allclose(unpack(MODEL, data, 8, gains), delta, atol=np.abs(delta).max() / 127)
    data, gains = packed(MODEL, np.zeros(MODEL.parameters))
    assert not unpack(MODEL, data, 8, gains).any()


@pytest.mark.usefixtures("compiled")
def test_colluders_lose_their_standing_in_a_run(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, Kind("sine", "reputation", "inner product", 1, 600))
    while fleet.run.updates < 600:
        fleet.advance()
    standings = {i: fleet.run.standing(f"d{i}") for i in range(50)}
    fleet.close()
    assert max(standings[i] for i in fleet.hostile) < 0.2
    assert np.mean([standings[i] for i in standings if i not in fleet.hostile]) > 0.9
    assert fleet.run.events["distrust"] >= 10


def test_the_table_of_attacks_says_so_without_the_data_of_its_task(tmp_path: Path) -> None:
    check_missing_data("benchmarks.hostile", tmp_path)
