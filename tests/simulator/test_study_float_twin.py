from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from coordinator.initialization import random_weights
from simulator.offline import IntegerDevice
from simulator.study import StudyError
from simulator.study.devices import make_device
from tinyreptile.learner import ONE
from tinyreptile.model import Model

from ..environment import need_module

SETTINGS: dict[str, Any] = {"format": "float32", "encoding": "int16", "bits": 16, "top": 1.0, "beta": 0.05}
SPECS: dict[str, list[list[Any]]] = {
    "dense": [["input", 6], ["dense", 8, "relu"], ["dense", 2], ["squared_error"]],
    "conv2d": [["input", 8, 8, 2], ["conv2d", 4, 3, 2, 1, "relu"], ["flatten"], ["dense", 3], ["cross_entropy"]],
    "depthwise2d": [
        ["input", 7, 6, 3],
        ["depthwise2d", 3, 1, 1, "relu"],
        ["conv2d", 5, 1, 1, 0, "relu"],
        ["average"],
        ["dense", 3],
        ["cross_entropy"],
    ],
    "conv1d": [["input", 12, 3], ["conv1d", 6, 3, 2, 1, "relu"], ["average"], ["dense", 3], ["cross_entropy"]],
}


def samples(model: Model, count: int) -> list[tuple[list[int], list[int]]]:
    rng = np.random.default_rng(7)
    return [
        (
            rng.integers(-ONE, ONE, model.inputs).tolist(),
            [int(rng.integers(model.outputs))]
            if model.loss == "cross_entropy"
            else rng.integers(-ONE, ONE, model.outputs).tolist(),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("name", list(SPECS))
@pytest.mark.usefixtures("compiled")
def test_the_twin_learns_what_the_integer_learner_does_up_to_its_rounding(name: str) -> None:
    need_module("torch")
    model = Model(SPECS[name])
    twin, device = make_device(SPECS[name], SETTINGS), IntegerDevice(model, beta=0.05, bits=16)
    weights = random_weights(model, 1)
    losses = []
    for one in (twin, device):
        one.load(weights, 1)
        for cells, target in samples(model, 40):
            one.learner.x[:] = memoryview(np.array(cells, np.int16).data).cast("B").cast("h")
            for i, value in enumerate(target):
                one.learner.y[i] = value
            before, label = one.learner.evaluate(one.learner.x, one.learner.y)
            assert one.learner.step(one.learner.x, one.learner.y) == pytest.approx(before, abs=0.01)
            losses.append((before, label))
    for (loss, _), (other, _) in zip(losses[:40], losses[40:], strict=True):
        assert loss == pytest.approx(other, abs=0.02)
    here, there = twin.delta(), device.delta()
    assert np.linalg.norm(here - there) < 0.15 * np.linalg.norm(here)


def test_the_twin_takes_weights_and_gives_them_back() -> None:
    need_module("torch")
    model = Model(SPECS["conv2d"])
    twin = make_device(SPECS["conv2d"], SETTINGS)
    weights = random_weights(model, 1)
    twin.load(weights, 1)
    np.testing.assert_allclose(twin.learner.get_weights(), weights, rtol=1e-6)
    assert not twin.delta().any()
    assert twin.sent == twin.received == 4 * model.parameters
    assert twin.ram() > 8 * model.parameters


def test_without_pytorch_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(StudyError, match=r"pip install torch==.*--only"):
        make_device(SPECS["dense"], SETTINGS)


def test_a_device_that_there_is_not_is_refused() -> None:
    with pytest.raises(StudyError, match="format is int16, int8 or float32, not 'int4'"):
        make_device(SPECS["dense"], SETTINGS | {"format": "int4"})
    with pytest.raises(StudyError, match="stores no samples"):
        make_device(SPECS["dense"], SETTINGS, shots=4)


@pytest.mark.parametrize(("settings", "size"), [({"bits": 4}, 0.5), ({"bits": 4, "top": 0.1}, 0.2)])
@pytest.mark.usefixtures("compiled")
def test_what_a_device_sends_follows_its_settings(settings: dict[str, Any], size: float) -> None:
    device = make_device(SPECS["conv2d"], SETTINGS | {"format": "int8"} | settings)
    model = device.learner.model
    device.load(random_weights(model, 1), 1)
    device.learner.step([ONE] * model.inputs, [1])
    device.delta()
    assert 0 < device.sent <= size * model.parameters + 1
    assert device.received == model.parameters + len(model.offsets)
