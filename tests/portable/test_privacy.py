"""Private updates on a device: the noise has the law that was promised, a change its bound, a budget its end."""

from __future__ import annotations

import json
import os
import random
from array import array
from collections import Counter
from collections.abc import Callable
from decimal import Decimal, getcontext
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from simulator.offline import run_now
from tinyreptile import budget
from tinyreptile.budget import cost_of
from tinyreptile.build import make_client
from tinyreptile.episodes import no_pause
from tinyreptile.learner import Learner
from tinyreptile.model import FRACTION, Model
from tinyreptile.portable import view8, view16, view32
from tinyreptile.privacy import MOST_WIDTH, UNIT, BudgetSpent, Privacy, noise_for, ratio, width, write_chances
from tinyreptile.settings import check_config

from ..environment import run_micropython
from .networks import FORMATS, LIMITS, cells_of

pytestmark = pytest.mark.usefixtures("compiled")

SPEC = [["input", 3], ["dense", 9, "relu"], ["dense", 2], ["squared_error"]]
WIDTHS = (1, 2, 3, 7, 40, 1000, MOST_WIDTH)
DEVICE = {"id": "board-1", "host": "192.0.2.1", "stream": {"kind": "sine"}}


def made(weights: str = "int16", fraction: int = FRACTION, seed: int = 1, spread: int | None = None) -> Learner:
    """A learner whose weights have moved away from its initialization, cells of which are up to ``spread``."""
    learner = Learner(Model(SPEC, weights), encoding=weights)
    spread = spread or LIMITS[weights]
    rng = np.random.default_rng(seed)
    kind = "<i2" if weights == "int16" else "i1"
    for buffer in (learner.initialization, learner.weights):
        buffer[:] = rng.integers(-spread, spread + 1, learner.model.parameters).astype(kind).tobytes()
    learner.fractions[:] = bytes([fraction]) * len(learner.fractions)
    return learner


def changes(learner: Learner) -> Any:
    """What has changed in each cell, int64 in units of 2^-12."""
    kind = "<i2" if learner.model.weights == "int16" else "i1"
    base = np.frombuffer(learner.initialization, kind).astype(np.int64)
    ups = np.zeros(learner.model.parameters, np.int64)
    for index, fraction in enumerate(learner.fractions):
        ups[slice(*learner.model.cells(index))] = FRACTION - fraction
    return (cells_of(learner) - base) << ups


def seeded(seed: int = 1) -> Callable[[int], bytes]:
    return BytesIO(random.Random(seed).randbytes(100_000)).read


def noise(k: int, count: int, weights: str = "int16", seed: int = 1) -> Any:
    """The noise of ``count`` cells, int64 (count,)."""
    narrow = weights == "int8"
    cells = bytearray(count if narrow else 2 * count)
    chances = bytearray(16 * 43)
    write_chances(chances, k)
    source = random.Random(seed).randbytes(max(100_000, 40 * count))
    state = array("i", [0, len(source), k, (1 << (k - 1).bit_length()) - 1])
    w, sign = (view8(cells), 0x80) if narrow else (view16(cells), 0x8000)
    assert noise_for(weights).add_noise(w, 0, count, sign, view8(chances), view8(source), view32(state)) == count
    return np.frombuffer(cells, "i1" if narrow else "<i2").astype(np.int64)


def law(k: int, edges: range) -> Any:
    """Exact chances of the bins that begin at ``edges``, the last of which ends at the negative of the first."""
    reach = 12 * k + 1
    weights = {z: 2.0 ** -((z / k) ** 2) for z in range(-reach, reach + 1)}
    found = [sum(weights.get(z, 0.0) for z in range(start, start + edges.step)) for start in edges]
    return np.array(found) / sum(weights.values())


def counted(drawn: Any, edges: range) -> Any:
    bins = Counter((int(z) - edges.start) // edges.step for z in drawn)
    return np.array([bins[i] for i in range(len(edges))])


# The law of the noise


@pytest.mark.parametrize("k", WIDTHS)
def test_every_chance_is_the_exact_one_to_2_to_the_minus_127(k: int) -> None:
    getcontext().prec = 90
    chances = bytearray(16 * 43)
    write_chances(chances, k)
    tails = [sum(Decimal(2) ** (-j * j) for j in range(i, 30)) for i in range(13)]
    exact = [tails[i + 1] / tails[i] for i in range(11)]
    exact += [Decimal(0)] + [Decimal(2) ** (-(Decimal(2) ** j) / (k * k)) for j in range(31)]
    for row, wanted in enumerate(exact):
        found = Decimal(int.from_bytes(chances[16 * row : 16 * row + 16], "big")) / 2**128
        assert abs(found - wanted) < Decimal(2) ** -127


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("k", [1, 2, 3, 7, 40])
def test_the_noise_has_the_law_of_the_discrete_gaussian(k: int, weights: str) -> None:
    step = max(1, k // 4)
    most = min(3 * k, 126) // step * step
    edges = range(-most, most + 1, step)
    drawn = noise(k, 60_000, weights, seed=k)
    observed, expected = counted(drawn, edges), law(k, edges)
    beyond = len(drawn) - observed.sum(), 1 - expected.sum()
    assert chisquare([*observed, beyond[0]], np.array([*expected, beyond[1]]) * len(drawn)).pvalue > 0.01
    narrower = law(k + 1, edges)  # the test would find the law next to it
    wrong = np.array([*narrower, 1 - narrower.sum()]) * len(drawn)
    assert k > 7 or chisquare([*observed, beyond[0]], wrong).pvalue < 1e-6


@pytest.mark.parametrize("k", [1000, MOST_WIDTH])
def test_wide_noise_has_the_law_of_the_discrete_gaussian(k: int) -> None:
    step = k // 4
    edges = range(-3 * step * 4, 12 * step, step)
    drawn = noise(k, 60_000, seed=k)
    observed, expected = counted(drawn, edges), law(k, edges)
    beyond = len(drawn) - observed.sum(), 1 - expected.sum()
    assert chisquare([*observed, beyond[0]], np.array([*expected, beyond[1]]) * len(drawn)).pvalue > 0.01
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02


@pytest.mark.parametrize("clip_times_noise", [1e-5, 0.01, 0.3, 1.69])
@pytest.mark.parametrize("fraction", [4, 8, 12])
def test_the_deviation_is_never_less_than_what_was_asked_for(clip_times_noise: float, fraction: int) -> None:
    sigma = width(clip_times_noise, fraction) / (2 * np.log(2)) ** 0.5 / 2**fraction
    assert clip_times_noise <= sigma < 1.0002 * clip_times_noise + 1 / 2**fraction


@pytest.mark.parametrize("weights", FORMATS)
def test_noise_that_leaves_the_format_is_saturated(weights: str) -> None:
    learner = made(weights)
    learner.weights[:] = learner.initialization[:] = (b"\xff\x7f" if weights == "int16" else b"\x7f") * 56
    run_now(Privacy(1.0, 1.6, source=seeded()).protect(learner, no_pause))
    limit = LIMITS[weights]
    cells = cells_of(learner)
    assert cells.max() == limit
    assert cells.min() >= -limit


def test_the_noise_is_the_same_however_the_random_bytes_come() -> None:
    learner = made(spread=100)
    privacy = Privacy(7.9, 0.05, source=seeded())
    before = changes(learner)
    run_now(privacy.protect(learner, no_pause))
    k = width(7.9 * 0.05, FRACTION)
    assert (changes(learner) - before).tolist() == noise(k, learner.model.parameters).tolist()


def test_a_device_has_its_noise_from_the_system() -> None:
    first, second = made(), made()
    for learner in (first, second):
        run_now(Privacy(0.5, 0.5).protect(learner, no_pause))
    assert bytes(first.weights) != bytes(second.weights)


# Clipping


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 30), st.sampled_from(FORMATS), st.floats(0.000_25, 7.99), st.integers(4, 12))
def test_no_change_is_longer_than_its_bound(seed: int, weights: str, clip: float, fraction: int) -> None:
    rng = random.Random(seed)
    learner = made(weights, FRACTION if weights == "int16" else fraction)
    limit = LIMITS[weights]
    spread = rng.choice((1, 9, limit))
    for buffer in (learner.initialization, learner.weights):
        cells = [rng.choice((limit, -limit, 0, rng.randint(-spread, spread))) for _ in range(56)]
        buffer[:] = np.array(cells, "<i2" if weights == "int16" else "i1").tobytes()
    before = np.clip(changes(learner), -32767 << FRACTION - learner.fractions[0], 32767 << FRACTION)
    run_now(Privacy(clip, 1e-6, source=seeded())._clip(learner, no_pause))
    after = changes(learner)
    length = sum(int(change) ** 2 for change in after)
    assert length <= int(clip * 4096) ** 2
    assert all(0 <= a <= b or b <= a <= 0 for a, b in zip(after.tolist(), before.tolist(), strict=True))


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("clip", [0.01, 0.1])
def test_a_change_that_is_too_long_is_brought_to_its_bound(weights: str, clip: float) -> None:
    learner = made(weights)
    run_now(Privacy(clip, 1e-6, source=seeded())._clip(learner, no_pause))
    lost = 56**0.5 / 4096  # each cell is rounded towards zero
    assert clip - lost < np.linalg.norm(changes(learner)) / 4096 <= clip


def test_a_change_within_its_bound_stays_as_it_is() -> None:
    learner = made(spread=20)
    before = bytes(learner.weights)
    run_now(Privacy(np.linalg.norm(changes(learner)) / 4096 + 0.001, 1e-6)._clip(learner, no_pause))
    assert bytes(learner.weights) == before


@given(st.integers(1, 1 << 30), st.integers(2, 1 << 52))
def test_a_ratio_is_never_too_large(bound: int, total: int) -> None:
    if bound * bound >= total:
        total = bound * bound + 1
    mantissa, shift = ratio(bound, total)
    assert 0 <= mantissa < 1 << 15
    assert 0 <= shift <= 30
    assert mantissa**2 * total <= (bound << shift) ** 2
    assert shift == 30 or mantissa >= 1 << 14


# The budget


def counting(path: Path, noise: float = 2.0, updates: int = 3) -> Privacy:
    return Privacy(0.1, noise, updates, str(path / "count.json"), seeded())


def test_a_budget_holds_across_restarts(tmp_path: Path) -> None:
    for _ in range(3):
        privacy = counting(tmp_path)
        assert privacy.end() is None
        run_now(privacy.protect(made(), no_pause))
    assert privacy.end() == "its privacy budget of 3 updates is used up"
    learner = made()
    before = bytes(learner.weights)
    with pytest.raises(BudgetSpent):
        run_now(counting(tmp_path).protect(learner, no_pause))
    assert bytes(learner.weights) == before


def test_updates_count_before_there_is_a_budget(tmp_path: Path) -> None:
    free = counting(tmp_path, updates=0)
    for _ in range(2):
        run_now(free.protect(made(), no_pause))
    assert free.end() is None
    assert counting(tmp_path, updates=2).end() == "its privacy budget of 2 updates is used up"
    assert counting(tmp_path, updates=3).end() is None


def test_an_update_is_on_the_ledger_before_anything_is_done(tmp_path: Path) -> None:
    life = counting(tmp_path).protect(made(), no_pause)

    async def end() -> None:
        raise KeyboardInterrupt

    life.close()  # never begun
    assert counting(tmp_path).made == 0
    with pytest.raises(KeyboardInterrupt):
        run_now(counting(tmp_path).protect(made(), end))
    assert counting(tmp_path).made == 1


def test_a_ledger_tells_updates_and_what_they_cost_together(tmp_path: Path) -> None:
    for noise in (2.0, 2.0, 1.0):
        run_now(counting(tmp_path, noise).protect(made(), no_pause))
    status: dict[str, Any] = {}
    counting(tmp_path, 4.0).describe(status)
    assert status == {"clip": 0.1, "noise": 4.0, "private": 3, "rho": 2 / 4 + 2 / 4 + 2}


@given(st.floats(1e-6, 1e6))
def test_no_cost_is_less_than_it_is(noise: float) -> None:
    exact = Fraction(2) / Fraction(noise) ** 2
    assert 0 <= Fraction(cost_of(noise), UNIT) - exact <= Fraction(1, UNIT) + exact / 10**6


def test_a_ledger_lies_beside_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = DEVICE | {"stream": {"kind": "sine", "seed": 1}, "privacy": {"clip": 0.1, "noise": 2.0}}
    config = check_config(given, "board.json")
    (tmp_path / "elsewhere").mkdir()
    run_now(make_client(config, folder="elsewhere/")._privacy.protect(made(), no_pause))
    assert make_client(config, folder=f"{tmp_path}/elsewhere/")._privacy.made == 1


def test_what_was_sent_with_less_noise_counts_for_more(tmp_path: Path) -> None:
    privacy = counting(tmp_path, noise=1.0)
    for _ in range(2):
        run_now(privacy.protect(made(), no_pause))
    assert counting(tmp_path, noise=2.0, updates=8).end() is not None  # 2 (2 / 1)^2 of them
    assert counting(tmp_path, noise=2.0, updates=9).end() is None
    assert counting(tmp_path, noise=0.5, updates=2).end() is None


def test_a_count_that_was_being_replaced_is_found(tmp_path: Path) -> None:
    (tmp_path / "count.json.new").write_text(json.dumps({"updates": 3, "cost": 3 * cost_of(2.0)}))
    assert counting(tmp_path).end() is not None


def test_a_board_ends_a_replacement_before_it_begins_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.dumps({"updates": 3, "cost": 3 * cost_of(2.0)})
    (tmp_path / "count.json.new").write_text(content)
    monkeypatch.setattr(budget, "os", SimpleNamespace(rename=os.rename))  # as a board's, which knows no environment
    monkeypatch.setattr("tinyreptile.privacy.lock", None)  # nor other processes
    assert counting(tmp_path).made == 3
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("count.json", content)]


DAMAGED = {
    "empty": b"",
    "cut off": b'{"updates": 3, "cost": 300',
    "more than one": b'{"updates": 3, "cost": 300}{"updates": 1, "cost": 100}',
    "no text": b'{"updates": 3, "cost": 300, "\xff\xfe": 1}',
    "zeros": bytes(4096),
    "a list": b"[1]",
    "nested": b"[" * 100_000,
    "nested maps": b'{"updates":' * 50_000,
    "nested in a field": b'{"cost": 300, "updates": ' + b"[" * 30 + b"]" * 30 + b"}",
    "long": b'{"updates": 1, "cost": 300' + b" " * 1000 + b"}",
    "without a count": b'{"cost": 300}',
    "a count before any": b'{"updates": 0, "cost": 300}',
    "a count below none": b'{"updates": -1000, "cost": 300}',
    "too large a count": b'{"updates": 4294967296, "cost": 300}',
    "a fraction": b'{"updates": 0.5, "cost": 300}',
    "a text for a count": b'{"updates": "1", "cost": 300}',
    "a truth for a count": b'{"updates": true, "cost": 300}',
    "without a cost": b'{"updates": 1}',
    "of the time before costs": b'{"noise": 2.0, "updates": 3}',
    "no cost": b'{"updates": 1, "cost": 0}',
    "a cost below none": b'{"updates": 1, "cost": -300}',
    "a cost beyond all": b'{"updates": 1, "cost": 1' + b"0" * 40 + b"}",
    "a cost without an end": b'{"updates": 3, "cost": 1e999}',
    "a cost that is no number": b'{"updates": 3, "cost": NaN}',
    "a truth for a cost": b'{"updates": 3, "cost": true}',
    "a text for a cost": b'{"updates": 3, "cost": "x"}',
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("name", ["count.json", "count.json.new"])
def test_a_damaged_count_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="does not say how many private updates were made; only its owner can tell"):
        counting(tmp_path)
    assert (tmp_path / name).read_bytes() == content


def test_a_count_that_can_not_be_read_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "count.json").mkdir()
    with pytest.raises(ValueError, match=r"the count of private updates, can't be read: .* Is a directory"):
        counting(tmp_path)


def test_micropython_makes_the_same_of_every_count(tmp_path: Path) -> None:
    paths = []
    for index, content in enumerate(
        [*DAMAGED.values(), *(b'{"updates": %d, "cost": %d}' % (n, n * cost_of(2.0)) for n in (3, 2))]
    ):
        paths.append(tmp_path / f"{index}.json")
        paths[-1].write_bytes(content)
    (tmp_path / "folder").mkdir()
    done = run_micropython(
        Path(__file__).with_name("budget_session.py"), *paths, tmp_path / "absent", tmp_path / "folder", heap="256k"
    )
    assert done.returncode == 0, done.stderr
    *damaged, spent, left, absent, folder = json.loads(done.stdout)
    assert damaged == [
        f"{path} does not say how many private updates were made; only its owner can tell" for path in paths[:-2]
    ]
    assert (spent, left, absent) == ("its privacy budget of 3 updates is used up", None, None)
    assert folder.startswith(f"{tmp_path / 'folder'}, the count of private updates, can't be read: ")


def test_nothing_is_made_of_an_update_that_can_not_be_counted(tmp_path: Path) -> None:
    privacy = Privacy(0.1, 2.0, 3, str(tmp_path / "absent" / "count.json"), seeded())
    learner = made()
    before = bytes(learner.weights)
    with pytest.raises(OSError, match="absent"):
        run_now(privacy.protect(learner, no_pause))
    assert bytes(learner.weights) == before


# The configuration


@pytest.mark.parametrize(
    ("privacy", "role", "complaint"),
    [
        ({"clip": 0.5}, "train", "privacy has clip and noise"),
        ({"clip": 0.5, "noise": 1.0, "epsilon": 8}, "train", "privacy has clip and noise"),
        ({"clip": 0, "noise": 1.0}, "train", "clip is a number from 0.000001 to 1000000, not 0"),
        ({"clip": "1", "noise": 1.0}, "train", "clip is a number from 0.000001 to 1000000, not '1'"),
        ({"clip": 0.5, "noise": -1.0}, "train", "noise is a number from 0.000001 to 1000000, not -1.0"),
        ({"clip": 0.5, "noise": float("nan")}, "train", "noise is a number from 0.000001 to 1000000, not nan"),
        ({"clip": 0.5, "noise": True}, "train", "noise is a number from 0.000001 to 1000000, not True"),
        ({"clip": 0.0001, "noise": 1.0}, "train", "clip is at least 0.000244141"),
        ({"clip": 8.0, "noise": 0.1}, "train", "clip is below 8, the largest weight, not 8.0"),
        ({"clip": 1.0, "noise": 1.7}, "train", "clip times noise is at most 1.698, not 1.7"),
        ({"clip": 0.5, "noise": 1.0, "updates": -1}, "train", "updates is how many may be made"),
        ({"clip": 0.5, "noise": 1.0, "updates": 2.5}, "train", "updates is how many may be made"),
        ({"clip": 0.5, "noise": 1.0}, "evaluate", "a held-out device tells what its samples say"),
        ([0.5, 1.0], "train", "privacy is a dict"),
    ],
)
def test_a_configuration_that_can_not_be_used_is_refused(privacy: Any, role: str, complaint: str) -> None:
    from tinyreptile.device import ConfigError

    with pytest.raises(ConfigError) as told:
        check_config(DEVICE | {"privacy": privacy, "role": role}, "board.json")
    assert complaint in str(told.value)


def test_the_largest_noise_that_may_be_asked_for_can_be_made() -> None:
    run_now(Privacy(1.0, 1.698, source=seeded()).protect(made(), no_pause))


# Memory

SINE = [["input", 1], ["dense", 32, "relu"], ["dense", 32, "relu"], ["dense", 1], ["squared_error"]]
DIGITS = [
    ["input", 12, 12, 1],
    ["conv2d", 8, 3, 2, 1, "relu"],
    *[["conv2d", 8, 3, 1, 1, "relu"]] * 3,
    ["flatten"],
    ["dense", 4],
    ["cross_entropy"],
]


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("model", [SINE, DIGITS], ids=["sine", "digits"])
def test_a_private_devices_heap_grows_by_little_and_by_nothing_with_an_update(model: Any, weights: str) -> None:
    session = Path(__file__).with_name("privacy_session.py")
    done = run_micropython(session, json.dumps(model), weights)
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout)
    assert grown["loaded"] <= 9100  # on 64 bits; names that other modules have brought along are not counted again
    assert grown["left"] <= 256
