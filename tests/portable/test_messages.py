"""The protocol: names, topics, and the bounds of every field."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import pytest

from tinyreptile import messages, predictions, reports, software
from tinyreptile.messages import MessageError, check, check_id, chunk_count, index_of
from tinyreptile.reports import CoordinatorTopics, check_ints

SCHEMAS = {
    name: getattr(module, name)
    for module, names in {
        messages: ["PRESENCE", "MANIFEST", "WORK", "TASK"],
        software: ["SOFTWARE", "SOFTWARE_CHUNK"],
        reports: ["STATUS", "PIECE", "UPDATE", "REPORT", "EVALUATION"],
    }.items()
    for name in names
}
FIELDS = [(name, field) for name, schema in SCHEMAS.items() for field in schema]
BOUNDED = [(name, field) for name, field in FIELDS if field[1] is not bool]


def each_field(fields: list[Any]) -> Any:
    """The test once for each (schema's name, field)."""
    return pytest.mark.parametrize(("name", "field"), fields, ids=[f"{name}.{field[0]}" for name, field in fields])


def is_wrong(kind: Any, value: Any) -> bool:
    return type(value) not in (int, float) if kind == "number" else type(value) is not kind


WRONG_TYPES = [
    (name, field[0], value)
    for name, field in FIELDS
    for value in (None, True, 1, 1.5, "text", b"binary", [], {})
    if is_wrong(field[1], value)
]


def value_of(kind: Any, size: float) -> Any:
    """A value of ``kind`` that has this size."""
    if kind is str:
        return "x" * int(size)
    if kind is bytes:
        return bytes(int(size))
    if kind is list:
        return [1] * int(size)
    if kind is dict:
        return dict.fromkeys(range(int(size)), 1)
    return bool(size) if kind is bool else size


def message_of(name: str, place: int = 2) -> dict[str, Any]:
    """A message with all fields, each at its lowest (``place`` 2) or highest (3) value."""
    return {field[0]: value_of(field[1], field[place]) for field in SCHEMAS[name]}


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("place", [2, 3], ids=["lowest", "highest"])
def test_values_at_their_bounds_are_taken(name: str, place: int) -> None:
    message = message_of(name, place)
    assert check(SCHEMAS[name], message) is message


@each_field([(name, field) for name, field in BOUNDED if field[1] in (int, "number") or field[2] > 0])
def test_a_value_below_its_bound_is_refused_by_name(name: str, field: Any) -> None:
    message = message_of(name) | {field[0]: value_of(field[1], field[2] - 1)}
    with pytest.raises(MessageError, match=field[0]):
        check(SCHEMAS[name], message)


@each_field(BOUNDED)
def test_a_value_above_its_bound_is_refused_by_name(name: str, field: Any) -> None:
    message = message_of(name) | {field[0]: value_of(field[1], field[3] + 1)}
    with pytest.raises(MessageError, match=field[0]):
        check(SCHEMAS[name], message)


@pytest.mark.parametrize(("name", "field", "value"), WRONG_TYPES)
def test_a_value_of_another_type_is_refused_by_name(name: str, field: str, value: Any) -> None:
    with pytest.raises(MessageError, match=f"{field} has the wrong type"):
        check(SCHEMAS[name], message_of(name) | {field: value})


@each_field(FIELDS)
def test_only_a_required_field_must_be_there(name: str, field: Any) -> None:
    message = message_of(name)
    del message[field[0]]
    if field[4]:
        with pytest.raises(MessageError, match=f"{field[0]} is missing"):
            check(SCHEMAS[name], message)
    else:
        assert check(SCHEMAS[name], message) is message


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_field_of_a_newer_peer_is_passed_over(name: str) -> None:
    check(SCHEMAS[name], message_of(name) | {"news": [1, 2, 3]})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(MessageError, match="beta"):
        check(messages.TASK, message_of("TASK") | {"beta": value})


@pytest.mark.parametrize("message", [None, 3, "text", [], b""])
def test_a_message_that_is_no_map_is_refused(message: Any) -> None:
    with pytest.raises(MessageError, match="a message is a map"):
        check(messages.WORK, message)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_binary_is_taken_in_all_its_forms(kind: Any) -> None:
    check(reports.PIECE, message_of("PIECE") | {"data": kind(b"abc")})


def test_the_largest_chunk_fits_the_longest_message() -> None:
    update = message_of("UPDATE", 3) | message_of("REPORT", 3) | {"gains": [65536] * 32}  # of 16 layers
    for name in ("whole", "error"):
        del update[name]
    assert len(msgpack.packb(update)) <= messages.MESSAGE_BYTES
    assert messages.CHUNK_BYTES + 64 < messages.MESSAGE_BYTES


@pytest.mark.parametrize(
    ("kind", "others"),
    [(messages.TRAIN, {"shots", "queries"}), (messages.EVALUATE, {"bits", "kept", "private", "noise"})],
)
def test_the_longest_request_fits_the_longest_message(kind: str, others: set[str]) -> None:
    request = message_of("WORK", 3)
    del request["refused"], request["at"]  # it answers what was accepted, and comes first
    task = message_of("TASK", 3) | {"kind": kind}
    request["task"] = {name: value for name, value in task.items() if name not in others}
    request = {name: value for name, value in request.items() if name not in others}
    assert len(msgpack.packb(request)) <= messages.MESSAGE_BYTES


@pytest.mark.parametrize("value", ["a", "Z", "0", "-", "_", "board-1_A", "x" * 32])
def test_letters_digits_dash_and_underscore_make_a_name(value: str) -> None:
    assert check_id(value, "a device id") == value


@pytest.mark.parametrize("value", ["", "x" * 33, "a b", "a/b", "+", "#", "é", "a\x00", "²", None, 1, b"a", ["a"]])
def test_anything_else_is_no_name(value: Any) -> None:
    with pytest.raises(MessageError, match="a device id"):
        check_id(value, "a device id")


def test_of_a_long_name_the_beginning_is_told() -> None:
    with pytest.raises(MessageError, match=r"has 1 to 32 characters, not 'x{59}$"):
        check_id("x" * 6000, "a device id")


def test_topics_of_a_run_and_a_device_are_those_of_the_protocol() -> None:
    run = CoordinatorTopics("r")
    device = run.device("d")
    assert [run.coordinator, run.init, run.piece(12), run.piece("+")] == [
        "tinyreptile/r/coordinator",
        "tinyreptile/r/init",
        "tinyreptile/r/init/12",
        "tinyreptile/r/init/+",
    ]
    assert [run.all_status, run.all_updates, run.all_evaluations] == [
        "tinyreptile/r/device/+/status",
        "tinyreptile/r/device/+/update",
        "tinyreptile/r/device/+/evaluation",
    ]
    assert [device.status, device.work, device.update, device.evaluation] == [
        "tinyreptile/r/device/d/status",
        "tinyreptile/r/device/d/work",
        "tinyreptile/r/device/d/update",
        "tinyreptile/r/device/d/evaluation",
    ]


def test_a_devices_topics_are_parsed_back() -> None:
    run = CoordinatorTopics("r")
    device = run.device("board-1")
    assert reports.parse(run, device.status) == ("board-1", "status")
    assert reports.parse(run, device.update) == ("board-1", "update")
    assert reports.parse(run, device.evaluation) == ("board-1", "evaluation")
    assert reports.parse(run, run.control) == ("", "control")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "tinyreptile/r",
        "tinyreptile/r/coordinator",
        "tinyreptile/other/device/d/status",
        "tinyreptile/rr/device/d/status",
        "tinyreptile/r/device/d",
        "tinyreptile/r/device/d/work",
        "tinyreptile/r/device/d/status/1",
        "tinyreptile/r/device/d/update/",
        "tinyreptile/r/device/d/update/0",
        "tinyreptile/r/device/d/evaluation/0",
        "tinyreptile/r/device/d/updates",
        "tinyreptile/r/device/a b/status",
        "tinyreptile/r/device//status",
        "tinyreptile/r/gadget/d/status",
    ],
)
def test_a_topic_of_no_device_of_this_run_is_refused(topic: str) -> None:
    with pytest.raises(MessageError):
        reports.parse(CoordinatorTopics("r"), topic)


@pytest.mark.parametrize("values", [[], [1], [1, 65536]])
def test_integers_within_their_bounds_are_taken(values: list[int]) -> None:
    assert check_ints("gains", values, 1, 65536) is values


@pytest.mark.parametrize("bad", [0, 65537, True, 1.0, None, "1"])
def test_one_value_out_of_bounds_or_type_refuses_the_list(bad: Any) -> None:
    with pytest.raises(MessageError, match="gains"):
        check_ints("gains", [1, bad], 1, 65536)


@pytest.mark.parametrize(("size", "chunks"), [(1, 1), (1024, 1), (1025, 2), (2048, 2), (2049, 3)])
def test_a_started_chunk_counts(size: int, chunks: int) -> None:
    assert chunk_count(size) == chunks


def test_devices_that_predict_check_a_piece_as_others_do() -> None:
    assert predictions._PIECE == reports.PIECE


def test_the_number_of_a_chunk_is_its_topics_last_level() -> None:
    assert [index_of(f"a/b/{text}") for text in ("0", "7", "00042", "99999")] == [0, 7, 42, 99999]


@pytest.mark.parametrize("text", ["", "-1", "1_0", " 1", "1 ", "0x1", "1.0", "\u0663", "x", "100000", "9" * 5000])
def test_what_is_no_number_of_a_chunk_is_refused(text: str) -> None:
    with pytest.raises(MessageError, match="no number of a chunk"):
        index_of(f"a/b/{text}")
