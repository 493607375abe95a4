"""The model list: what it may hold, where parameters lie, and the RAM it states."""

from __future__ import annotations

from array import array
from typing import Any

import pytest
from hypothesis import given, settings

from tinyreptile import plan as fields
from tinyreptile.batch import BatchLearner
from tinyreptile.geometry import layers, multiplications, tensors
from tinyreptile.layers import MAX_LAYERS, MAX_PARAMETERS, MAX_SUM
from tinyreptile.learner import Learner
from tinyreptile.model import Model, ModelError

from .networks import FORMATS, random_models

SINE = [["input", 1], ["dense", 32, "relu"], ["dense", 32, "relu"], ["dense", 1], ["squared_error"]]
CLASSES = [["input", 7], ["dense", 3, "relu"], ["dense", 5], ["cross_entropy"]]
IMAGES = [
    ["input", 9, 8, 2],
    ["conv2d", 6, 3, 2, 1, "relu"],
    ["depthwise2d", 3, 1, 1],
    ["average"],
    ["dense", 5],
    ["cross_entropy"],
]
SERIES = [
    ["input", 20, 3],
    ["depthwise1d", 5, 2, 2],
    ["conv1d", 4, 3, 3, 0],
    ["flatten"],
    ["dense", 2],
    ["squared_error"],
]

MODELS = [
    SINE,
    CLASSES,
    IMAGES,
    SERIES,
    [["input", 1], ["dense", 1], ["squared_error"]],
    [["input", MAX_SUM], ["dense", 3], ["squared_error"]],
    [["input", 2], *[["dense", 2, "relu"]] * (MAX_LAYERS - 1), ["dense", 2], ["cross_entropy"]],
]

weights_of = pytest.mark.parametrize("weights", FORMATS)
encoding_of = pytest.mark.parametrize(
    ("weights", "encoding"), [("int16", "int16"), ("int16", "int8"), ("int8", "int8")]
)


def test_parameters_lie_layer_by_layer_weights_before_biases() -> None:
    model = Model(CLASSES)
    assert tensors(model) == [
        ("dense0.weight", 0, (7, 3)),
        ("dense0.bias", 21, (3,)),
        ("dense1.weight", 24, (3, 5)),
        ("dense1.bias", 39, (5,)),
    ]
    assert (model.parameters, model.activations, model.inputs, model.outputs) == (44, 15, 7, 5)
    assert [model.cells(index) for index in range(4)] == [(0, 21), (21, 24), (24, 39), (39, 44)]


def test_kernels_lie_tap_by_tap_inputs_before_outputs() -> None:
    model = Model(IMAGES)
    assert tensors(model) == [
        ("conv0.weight", 0, (3, 3, 2, 6)),
        ("conv0.bias", 108, (6,)),
        ("depthwise1.weight", 114, (3, 3, 6)),
        ("depthwise1.bias", 168, (6,)),
        ("dense3.weight", 174, (6, 5)),
        ("dense3.bias", 204, (5,)),
    ]
    assert (model.parameters, model.activations) == (209, 9 * 8 * 2 + 2 * 5 * 4 * 6 + 6 + 5)
    assert (model.shape, model.inputs, model.outputs) == ((9, 8, 2), 144, 5)


def test_a_series_is_an_image_of_one_row() -> None:
    model = Model(SERIES)
    assert [shape for _, _, shape in tensors(model)] == [(1, 5, 3), (3,), (1, 3, 3, 4), (4,), (12, 2), (2,)]
    assert [(layer.out_height, layer.out_width) for layer in layers(model)] == [(1, 10), (1, 3), (1, 1)]


def test_the_sine_network_has_the_parameters_of_the_literature() -> None:
    assert Model(SINE).parameters == 1153


def test_the_multiplications_of_a_step_are_counted_at_most() -> None:
    assert multiplications(Model(SINE)) == 3 * (32 + 32 * 32 + 32) - 32
    convolution, depthwise, dense = 20 * 6 * 9 * 2, 20 * 6 * 9, 30
    assert multiplications(Model(IMAGES)) == 2 * convolution + 3 * (depthwise + 20 * 6 + dense)


@pytest.mark.usefixtures("compiled")
def test_dense_weights_lie_input_by_input() -> None:
    learner = Learner(Model([["input", 3], ["dense", 2], ["squared_error"]]))
    # y0 = 1 x0 + 2 x1 + 3 x2 + 0.5, y1 = -x2
    weights = [4096, 0, 8192, 0, 12288, -4096, 2048, 0]
    learner.weights[:] = array("h", weights).tobytes()
    assert list(learner.predict(array("h", [1024, 512, 256]))) == [1024 + 1024 + 768 + 512, -256]


def allocated(learner: Learner) -> int:
    """Bytes of all buffers that hang on a learner."""
    buffers = [value for value in vars(learner).values() if isinstance(value, (bytearray, array))]
    assert len({id(buffer) for buffer in buffers}) == len(buffers)
    return sum(len(b) * (b.itemsize if isinstance(b, array) else 1) for b in buffers)


@encoding_of
@pytest.mark.parametrize("spec", MODELS)
def test_ram_is_to_the_byte_what_a_learner_allocates(spec: list[Any], weights: str, encoding: str) -> None:
    model = Model(spec, weights)
    assert model.ram() == allocated(Learner(model, encoding=encoding))


@encoding_of
@pytest.mark.parametrize("shots", [1, 20])
@pytest.mark.parametrize("spec", MODELS)
def test_ram_with_a_batch_is_to_the_byte_what_a_batch_learner_allocates(
    spec: list[Any], shots: int, weights: str, encoding: str
) -> None:
    model = Model(spec, weights)
    learner = BatchLearner(model, shots, encoding=encoding)
    assert model.ram(shots) == learner.ram() == allocated(learner)


@settings(max_examples=100, deadline=None)
@given(random_models())
def test_a_plans_cells_stay_inside_the_buffers(model: Model) -> None:
    plan = model.plan()
    at, end, x = fields.HEADER, 0, 0
    for layer in layers(model):
        inputs = plan[at + fields.HEIGHT] * plan[at + fields.WIDTH] * plan[at + fields.CHANNELS]
        outputs = plan[at + fields.OUT_HEIGHT] * plan[at + fields.OUT_WIDTH] * plan[at + fields.OUT_CHANNELS]
        assert plan[at + fields.X] == x
        assert plan[at + fields.Y] == x + inputs
        assert plan[at + fields.Y] + outputs <= model.activations
        if layer.kind != fields.AVERAGE:
            weights = plan[at + fields.KERNEL_HEIGHT] * plan[at + fields.KERNEL_WIDTH] * plan[at + fields.CHANNELS]
            if layer.kind != fields.DEPTHWISE:
                weights *= plan[at + fields.OUT_CHANNELS]
            assert plan[at + fields.WEIGHTS] == end
            assert plan[at + fields.BIASES] == end + weights
            end += weights + plan[at + fields.OUT_CHANNELS]
        x += inputs
        at += fields.FIELDS
    assert end == model.parameters
    assert at == len(plan)
    assert len(plan) == fields.HEADER + fields.FIELDS * len(layers(model))
    assert plan[fields.OUTPUT] + plan[fields.OUTPUTS] == model.activations


def test_deltas_go_back_to_a_relu_to_a_linear_layer_and_never_to_the_sample() -> None:
    plan = Model(IMAGES).plan()
    backs = [plan[fields.HEADER + fields.FIELDS * i + fields.BACK] for i in range(4)]
    assert backs == [0, fields.BEHIND_RELU, fields.LINEAR, fields.LINEAR]


def test_a_model_of_tuples_is_the_same_model() -> None:
    assert tensors(Model(tuple(tuple(item) for item in IMAGES))) == tensors(Model(IMAGES))


def test_the_largest_number_of_parameters_is_allowed() -> None:
    rows = MAX_PARAMETERS // 1024
    assert Model([["input", 1023], ["dense", rows], ["squared_error"]]).parameters == MAX_PARAMETERS


@pytest.mark.parametrize(
    "layer", [["dense", 1], ["conv1d", 1, 1, 1, 0], ["depthwise1d", 1, 1, 0], ["conv2d", 1, 1, 1, 0], ["average"]]
)
def test_sums_of_the_largest_safe_length_are_allowed(layer: list[Any]) -> None:
    shapes = {"dense": [[MAX_SUM]], "conv1d": [[1, MAX_SUM], [MAX_SUM, 1]], "depthwise1d": [[MAX_SUM, 1]]}
    for shape in shapes.get(layer[0], [[63, 65, 1]]):
        last = [["average"]] if layer[0] not in ("dense", "average") else []
        Model([["input", *shape], layer, *last, ["dense", 1], ["squared_error"]])


HEAD = [["dense", 1], ["squared_error"]]
LONG = MAX_SUM + 1


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (None, r'a model is a list: \["input", n\], one or more layers, a loss'),
        ({}, "a model is a list"),
        ([], "a model is a list"),
        ([["input", 1], ["squared_error"]], "a model is a list"),
        ([["input", 1], "dense", ["squared_error"]], "a list that begins with a name, not 'dense'"),
        ([["input", 1], [], ["squared_error"]], "begins with a name"),
        ([["input", 1], [3, 3], ["squared_error"]], "begins with a name"),
        ([["dense", 1], ["dense", 1], ["squared_error"]], r'begins with \["input", n\]'),
        ([["input"], ["dense", 1], ["squared_error"]], "begins with"),
        ([["input", 0], ["dense", 1], ["squared_error"]], "begins with"),
        ([["input", 99999999999], ["dense", 1], ["squared_error"]], "begins with .* of numbers from 1 to 65535, not"),
        ([["input", "x" * 6000], ["dense", 1], ["squared_error"]], "begins with .*, not .{1,60}$"),
        ([["input", -1], ["dense", 1], ["squared_error"]], "begins with"),
        ([["input", True], ["dense", 1], ["squared_error"]], "begins with"),
        ([["input", 1.0], ["dense", 1], ["squared_error"]], "begins with"),
        ([["input", "1"], ["dense", 1], ["squared_error"]], "begins with"),
        ([["input", 1 << 16], ["dense", 1], ["squared_error"]], "begins with"),
        ([["input", 1, 1, 1, 1], ["dense", 1], ["squared_error"]], "begins with"),
        ([["input", 4, 0], ["flatten"], *HEAD], "begins with"),
        ([["input", 1], ["dense", 1], ["hinge"]], r"ends with one of \[\['cross_entropy'\], \['squared_error'\]\]"),
        ([["input", 1], ["dense", 1], ["squared_error", 1]], "ends with"),
        ([["input", 1], ["dense", 1], ["dense", 1]], "ends with"),
        ([["input", 1], *[["dense", 1]] * (MAX_LAYERS + 1), ["squared_error"]], "at most 16 layers, not 17"),
        # Names and their numbers
        ([["input", 1], ["dense"], ["squared_error"]], "no layer is written.*docs/protocol.md"),
        ([["input", 1], ["conv", 1], ["squared_error"]], "no layer is written"),
        ([["input", 1], ["dense", 1, "tanh"], *HEAD], "no layer is written"),
        ([["input", 1], ["dense", 1, "relu", 1], *HEAD], "no layer is written"),
        ([["input", 1], ["relu"], *HEAD], "no layer is written"),
        ([["input", 4, 1], ["conv1d", 2, 3, 1], ["flatten"], *HEAD], "no layer is written"),
        ([["input", 4, 1], ["conv1d", 2, 3, 1, 0, 0], ["flatten"], *HEAD], "no layer is written"),
        ([["input", 4, 1], ["depthwise1d", 2, 3, 1, 0], ["flatten"], *HEAD], "no layer is written"),
        ([["input", 4, 1], ["average", "relu"], *HEAD], "no layer is written"),
        ([["input", 4, 1], ["average", 2], *HEAD], "no layer is written"),
        ([["input", 4, 1], ["flatten", 2], *HEAD], "no layer is written"),
        ([["input", 4, 1], ["flatten", "relu"], *HEAD], "no layer is written"),
        # Shapes
        ([["input", 4, 1], *HEAD], r'shape \(4, 1\); put \["flatten"\] or \["average"\] before it'),
        ([["input", 4], ["conv1d", 1, 1, 1, 0], *HEAD], r"can't follow inputs of the shape \(4,\)"),
        ([["input", 4, 1], ["conv2d", 1, 1, 1, 0], ["flatten"], *HEAD], "can't follow"),
        ([["input", 4, 4, 1], ["conv1d", 1, 1, 1, 0], ["flatten"], *HEAD], "can't follow"),
        ([["input", 4, 4, 1], ["depthwise1d", 1, 1, 0], ["flatten"], *HEAD], "can't follow"),
        ([["input", 4, 1], ["flatten"], ["depthwise1d", 1, 1, 0], *HEAD], "can't follow"),
        ([["input", 4], ["average"], *HEAD], "can't follow"),
        ([["input", 4, 1], ["average"], ["average"], *HEAD], "can't follow"),
        ([["input", 4, 1], ["conv1d", 2, 5, 1, 0], ["flatten"], *HEAD], "the kernel is larger than its inputs"),
        ([["input", 9, 2, 1], ["depthwise2d", 5, 1, 1], ["flatten"], *HEAD], "the kernel is larger than its inputs"),
        # Numbers
        ([["input", 1], ["dense", 0], ["squared_error"]], f"the outputs of a dense layer are 1 to {MAX_SUM}"),
        ([["input", 1], ["dense", [1]], ["squared_error"]], "the outputs of a dense layer are"),
        ([["input", 1], ["dense", True], ["squared_error"]], "the outputs of a dense layer are"),
        ([["input", 1], ["dense", 1 << 16], ["squared_error"]], "the outputs of a dense layer are"),
        *(
            ([["input", 9, 9, 1], ["conv2d", *numbers], ["flatten"], *HEAD], "the padding is less than the kernel")
            for numbers in ([0, 3, 1, 1], [1, 0, 1, 0], [1, 3, 0, 1], [1, 3, 1, 3], [1, 3, 1, -1], [1, 3, 1, True])
        ),
        ([["input", 9, 9, 1], ["depthwise2d", 3, 1, 1.0], ["flatten"], *HEAD], "the padding is less than the kernel"),
        ([["input", 9, 9, 1], ["depthwise2d", 3, "2", 1], ["flatten"], *HEAD], "kernel and stride are 1 or more"),
        # Sums
        ([["input", LONG], *HEAD], f"its {LONG} inputs of an output.*at most {MAX_SUM}.*fewer channels"),
        ([["input", 1], ["dense", LONG], *HEAD], f"its {LONG} outputs that an input takes part in.*fewer outputs"),
        ([["input", 3, 3, 456], ["conv2d", 1, 3, 1, 0], ["flatten"], *HEAD], "its 4104 inputs of an output"),
        ([["input", 3, 3, 1], ["conv2d", 456, 3, 1, 0], ["average"], *HEAD], "its 4104 outputs that an input takes"),
        ([["input", 64, 64, 1], ["conv2d", 1, 3, 1, 1], ["average"], *HEAD], "its 4096 positions.*larger stride"),
        ([["input", LONG, 1], ["depthwise1d", 1, 1, 0], ["average"], *HEAD], f"its {LONG} positions"),
        ([["input", LONG, 1], ["depthwise1d", LONG, 1, 0], ["average"], *HEAD], f"its {LONG} inputs of an output"),
        ([["input", LONG, 1], ["average"], *HEAD], f"its {LONG} inputs of an output.*with a convolution's stride"),
        # Heads and sizes
        (
            [["input", 4, 1], ["conv1d", 1, 1, 1, 0], ["squared_error"]],
            r"shape \(4, 1\): end with a dense layer, or av",
        ),
        ([["input", 4, 1], ["flatten"], ["squared_error"]], "end with a dense layer, or average or flatten"),
        ([["input", 1], ["dense", 1, "relu"], ["squared_error"]], "last layer has no ReLU"),
        ([["input", 4, 1], ["conv1d", 1, 1, 1, 0, "relu"], ["flatten"], ["squared_error"]], "last layer has no ReLU"),
        ([["input", 256, 256, 1], ["conv2d", 1, 9, 9, 0], ["flatten"], *HEAD], "at most 65535 inputs and 4095 outputs"),
        ([["input", LONG, 2], ["conv1d", 2, 2, 2, 0], ["flatten"], ["squared_error"]], "and 4095 outputs"),
        ([["input", 1023], ["dense", 1025], *HEAD], "parameters; at most 1048576"),
        ([["input", 4, 1], ["average"], ["squared_error"]], "no parameters: give it a dense or a convolutional layer"),
    ],
)
def test_a_list_that_no_device_can_run_is_refused(spec: Any, complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        Model(spec)


@pytest.mark.parametrize("weights", ["int4", "", None, 8, "float32"])
def test_weights_of_another_format_are_refused(weights: Any) -> None:
    with pytest.raises(ModelError, match="weights are int16 or int8"):
        Model(SINE, weights)
