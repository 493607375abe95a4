"""The model list: what it may hold, where parameters lie, and the RAM it states."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from tinyreptile import kernels
from tinyreptile.learner import Learner
from tinyreptile.model import MAX_LAYERS, MAX_PARAMETERS, MAX_WIDTH, Model, ModelError

SINE = [["input", 1], ["dense", 32, "relu"], ["dense", 32, "relu"], ["dense", 1], ["squared_error"]]
CLASSES = [["input", 7], ["dense", 3, "relu"], ["dense", 5], ["cross_entropy"]]

MODELS = [
    SINE,
    CLASSES,
    [["input", 1], ["dense", 1], ["squared_error"]],
    [["input", MAX_WIDTH], ["dense", 3], ["squared_error"]],
    [["input", 2], *[["dense", 2, "relu"]] * (MAX_LAYERS - 1), ["dense", 2], ["cross_entropy"]],
]


def test_parameters_lie_layer_by_layer_weights_before_biases() -> None:
    model = Model(CLASSES)
    assert model.tensors == [
        ("dense0.weight", 0, (3, 7)),
        ("dense0.bias", 21, (3,)),
        ("dense1.weight", 24, (5, 3)),
        ("dense1.bias", 39, (5,)),
    ]
    assert (model.parameters, model.activations, model.inputs, model.outputs) == (44, 15, 7, 5)


def test_the_sine_network_has_the_parameters_of_the_literature() -> None:
    assert Model(SINE).parameters == 1153


def test_weights_lie_row_by_row() -> None:
    learner = Learner(Model([["input", 3], ["dense", 2], ["squared_error"]]))
    # y0 = 1 x0 + 2 x1 + 3 x2 + 0.5, y1 = -x2
    weights = [4096, 8192, 12288, 0, 0, -4096, 2048, 0]
    learner.weights[:] = array("h", weights).tobytes()
    assert list(learner.predict(array("h", [1024, 512, 256]))) == [1024 + 1024 + 768 + 512, -256]


@pytest.mark.parametrize("spec", MODELS)
def test_ram_is_to_the_byte_what_a_learner_allocates(spec: list[Any]) -> None:
    learner = Learner(Model(spec))
    buffers = [value for value in vars(learner).values() if isinstance(value, (bytearray, array))]
    assert len({id(buffer) for buffer in buffers}) == 5
    allocated = sum(len(b) * (b.itemsize if isinstance(b, array) else 1) for b in buffers)
    assert learner.model.ram() == allocated


@pytest.mark.parametrize("spec", MODELS)
def test_a_plans_cells_stay_inside_the_buffers(spec: list[Any]) -> None:
    model = Model(spec)
    plan = model.plan()
    at = kernels.HEADER
    for _ in range(plan[kernels.LAYERS]):
        n_in, n_out = plan[at + kernels.N_IN], plan[at + kernels.N_OUT]
        assert plan[at + kernels.WEIGHTS] + n_in * n_out == plan[at + kernels.BIASES]
        assert plan[at + kernels.BIASES] + n_out <= model.parameters
        assert plan[at + kernels.X] + n_in == plan[at + kernels.Y]
        assert plan[at + kernels.Y] + n_out <= model.activations
        at += kernels.FIELDS
    assert at == len(plan)
    assert plan[kernels.OUTPUT] + plan[kernels.OUTPUTS] == model.activations


def test_a_model_of_tuples_is_the_same_model() -> None:
    assert Model(tuple(tuple(item) for item in SINE)).tensors == Model(SINE).tensors


def test_the_largest_number_of_parameters_is_allowed() -> None:
    rows = MAX_PARAMETERS // 1024
    assert Model([["input", 1023], ["dense", rows], ["squared_error"]]).parameters == MAX_PARAMETERS


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (None, "a model is a list"),
        ({}, "a model is a list"),
        ([], "a model is a list"),
        ([["input", 1], ["squared_error"]], "a model is a list"),
        ([["input", 1], "dense", ["squared_error"]], "begins with a name"),
        ([["input", 1], [], ["squared_error"]], "begins with a name"),
        ([["input", 1], [3, 3], ["squared_error"]], "begins with a name"),
        ([["dense", 1], ["dense", 1], ["squared_error"]], "begins with"),
        ([["input"], ["dense", 1], ["squared_error"]], "begins with"),
        ([["input", 0], ["dense", 1], ["squared_error"]], "begins with"),
        ([["input", -1], ["dense", 1], ["squared_error"]], "begins with"),
        ([["input", True], ["dense", 1], ["squared_error"]], "begins with"),
        ([["input", 1.0], ["dense", 1], ["squared_error"]], "begins with"),
        ([["input", MAX_WIDTH + 1], ["dense", 1], ["squared_error"]], "begins with"),
        ([["input", 1, 1], ["dense", 1], ["squared_error"]], "begins with"),
        ([["input", 1], ["dense", MAX_WIDTH + 1], ["squared_error"]], "a layer is"),
        ([["input", 1], ["dense", 0], ["squared_error"]], "a layer is"),
        ([["input", 1], ["dense"], ["squared_error"]], "a layer is"),
        ([["input", 1], ["conv", 1], ["squared_error"]], "a layer is"),
        ([["input", 1], ["dense", 1, "tanh"], ["dense", 1], ["squared_error"]], "a layer is"),
        ([["input", 1], ["dense", 1, "relu", 1], ["dense", 1], ["squared_error"]], "a layer is"),
        ([["input", 1], ["dense", [1]], ["squared_error"]], "a layer is"),
        ([["input", 1], ["dense", 1], ["hinge"]], "ends with"),
        ([["input", 1], ["dense", 1], ["squared_error", 1]], "ends with"),
        ([["input", 1], ["dense", 1], ["dense", 1]], "ends with"),
        ([["input", 1], ["dense", 1, "relu"], ["squared_error"]], "last layer has no ReLU"),
        ([["input", 1], *[["dense", 1]] * (MAX_LAYERS + 1), ["squared_error"]], "at most 16 layers"),
        ([["input", 1023], ["dense", 1025], ["squared_error"]], "parameters; at most 1048576"),
    ],
)
def test_a_list_that_no_device_can_run_is_refused(spec: Any, complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        Model(spec)
