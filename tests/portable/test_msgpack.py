"""The MessagePack subset against the reference implementation, and against hostile bytes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tracemalloc
from array import array
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator import mqtt
from tinyreptile import messages
from tinyreptile.msgpack import MAX_DEPTH, MessagePackError, Packer, Unpacker, unpackb

from ..environment import CLIENT, need_program

integers = st.integers(-(1 << 63), (1 << 64) - 1)
scalars = st.none() | st.booleans() | integers | st.floats(allow_nan=False) | st.text() | st.binary()
extensions = st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20)) | st.builds(
    msgpack.Timestamp, st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, 10**9 - 1)
)


def nests(leaves: Any, keys: Any) -> Any:
    """Strategy for ``leaves`` in lists and maps."""
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=20) | st.dictionaries(keys, inner, max_size=20),
        max_leaves=30,
    )


values = nests(scalars, st.text(max_size=20))
foreign = nests(scalars | extensions, st.text(max_size=20) | st.integers(-(1 << 63), (1 << 64) - 1))

BORDERS = [
    *(sign * (1 << n) + d for n in (5, 7, 8, 15, 16, 31, 32, 63) for sign in (1, -1) for d in (-1, 0, 1)),
    (1 << 64) - 1,
]
BORDERS = [value for value in BORDERS if value >= -(1 << 63)]


def packb(value: Any, size: int = 1 << 20) -> bytes:
    packer = Packer(bytearray(size))
    packer.pack(value)
    return bytes(packer.buffer[: packer.length])


def plain(value: Any) -> Any:
    """``value`` with its memoryviews as bytes, and extension types as they are read."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, msgpack.ExtType | msgpack.Timestamp):
        return None
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def reference(packed: bytes) -> Any:
    """What a strict reader makes of ``packed``."""
    return msgpack.unpackb(packed)


@settings(deadline=None, max_examples=50)
@given(values)
def test_what_is_packed_here_is_read_by_the_reference(value: Any) -> None:
    assert reference(packb(value)) == value


@settings(deadline=None)
@given(foreign)
def test_what_the_reference_packs_is_read_here(value: Any) -> None:
    assert plain(unpackb(msgpack.packb(value))) == plain(value)


@settings(deadline=None)
@given(values)
def test_values_take_no_byte_more_than_the_reference_needs(value: Any) -> None:
    assert len(packb(value)) == len(msgpack.packb(value))


@pytest.mark.parametrize("value", BORDERS)
def test_integers_at_the_borders_of_their_forms_go_both_ways(value: int) -> None:
    packed = packb(value)
    assert packed == msgpack.packb(value)
    assert unpackb(packed) == value


@pytest.mark.parametrize("size", [0, 15, 16, 31, 32, 255, 256, 65535, 65536])
def test_sizes_at_the_borders_of_their_forms_go_both_ways(size: int) -> None:
    for value in ("x" * size, b"x" * size, [1] * size, dict.fromkeys(map(str, range(size)), 1)):
        packed = packb(value)
        assert packed == msgpack.packb(value)
        assert plain(unpackb(packed)) == value


def test_a_float_of_32_bits_is_read() -> None:
    assert unpackb(msgpack.packb(0.5, use_single_float=True)) == 0.5


def test_binary_is_handed_out_without_a_copy() -> None:
    packed = bytearray(msgpack.packb(b"abc"))
    value = unpackb(packed)
    packed[-1] = ord("z")
    assert bytes(value) == b"abz"


def test_a_stream_of_values_is_read_one_by_one() -> None:
    reader = Unpacker(packb(1) + packb("two") + packb([3]))
    assert [reader.unpack(), reader.unpack(), reader.unpack()] == [1, "two", [3]]


def test_reserved_bytes_are_part_of_the_message() -> None:
    packer = Packer(bytearray(32))
    packer.map_header(1)
    packer.pack("data")
    packer.bin_header(3)
    packer.reserve(3)[:] = b"abc"
    assert reference(bytes(packer.buffer[: packer.length])) == {"data": b"abc"}


SAMPLES = [
    12345678901,
    -70000,
    1.5,
    "a text of more than thirty-one characters",
    b"binary",
    [1, [2, "three"], None],
    {"work": 7, "report": {"gains": [1, 65536], "loss": 0.25}, "data": b"\x00" * 300},
]


@pytest.mark.parametrize("value", SAMPLES)
def test_a_message_cut_at_any_byte_is_refused(value: Any) -> None:
    packed = packb(value)
    for end in range(len(packed)):
        with pytest.raises(MessagePackError, match="too early"):
            unpackb(packed[:end])


@pytest.mark.parametrize("value", SAMPLES)
def test_a_message_with_a_byte_too_many_is_refused(value: Any) -> None:
    with pytest.raises(MessagePackError, match="1 bytes too many"):
        unpackb(packb(value) + b"\x00")


@pytest.mark.parametrize("value", SAMPLES)
def test_a_buffer_that_is_too_small_by_any_number_is_refused(value: Any) -> None:
    for size in range(len(packb(value))):
        with pytest.raises(MessagePackError, match="longer than its buffer"):
            packb(value, size)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_message_pack_error(data: bytes) -> None:
    with contextlib.suppress(MessagePackError):
        unpackb(data)


@pytest.mark.parametrize(
    "header",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of 2^32 - 1
        b"\xdf\xff\xff\xff\xff",  # a map
        b"\xc6\xff\xff\xff\xff",  # binary
        b"\xdb\xff\xff\xff\xff",  # a string
        b"\xdc\xff\xff",
        b"\xde\xff\xff",
    ],
)
def test_a_header_that_claims_too_much_allocates_nothing_of_it(header: bytes) -> None:
    data = header + b"\x01" * 64
    tracemalloc.start()
    try:
        with pytest.raises(MessagePackError):
            unpackb(data)
        assert tracemalloc.get_traced_memory()[1] < 20_000
    finally:
        tracemalloc.stop()


def test_the_type_that_is_never_used_is_refused() -> None:
    with pytest.raises(MessagePackError, match="0xc1"):
        unpackb(b"\xc1" + bytes(20))


EXTENSIONS = [
    *(msgpack.ExtType(code, bytes(size)) for code in (0, 5, 127) for size in (*range(18), 255, 256, 65535, 65536)),
    *(msgpack.Timestamp(seconds, part) for seconds in (0, 1 << 31, 1 << 34, -1) for part in (0, 1)),
]


@pytest.mark.parametrize("value", EXTENSIONS, ids=lambda value: repr(value)[:40])
def test_an_extension_type_is_passed_over_whole(value: Any) -> None:
    packed = msgpack.packb(value)
    assert unpackb(packed) is None
    assert unpackb(b"\x92" + packed + b"\x07") == [None, 7]
    for end in (1, len(packed) // 2, len(packed) - 1):
        with pytest.raises(MessagePackError, match="too early"):
            unpackb(packed[:end])


def test_a_field_of_any_standard_type_that_is_not_known_is_passed_over() -> None:
    """By both readers, a device's and a coordinator's."""
    news: dict[str, Any] = {f"extension {i}": value for i, value in enumerate(EXTENSIONS[:18] + EXTENSIONS[-8:])}
    news |= {"keys": {1: 2, -(1 << 63): {(1 << 64) - 1: 3}}, "deep": json.loads("[" * 6 + "]" * 6), "nan": float("nan")}
    news |= {"single": b"", "nothing": None, "nested": [{"at": msgpack.Timestamp(1), "n": [msgpack.ExtType(3, b"x")]}]}
    for message in ({"label": 3} | news, news | {"label": 3}, {"more": news, "label": 3}):
        packed = msgpack.packb(message)
        for read in (unpackb, mqtt.unpack):
            assert messages.check(messages.LABEL, read(packed))["label"] == 3


@pytest.mark.parametrize("value", [msgpack.ExtType(1, b"\3"), msgpack.Timestamp(3)])
def test_a_field_that_is_known_has_no_extension_type(value: Any) -> None:
    for read in (unpackb, mqtt.unpack):
        with pytest.raises(messages.MessageError, match="label has the wrong type"):
            messages.check(messages.LABEL, read(msgpack.packb({"label": value})))


def nested(levels: int) -> bytes:
    return b"\x91" * levels + b"\x01"


def test_the_deepest_nesting_allowed_is_read() -> None:
    assert unpackb(nested(MAX_DEPTH)) is not None


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 100_000])
def test_deeper_nesting_is_refused(levels: int) -> None:
    with pytest.raises(MessagePackError, match="nesting"):
        unpackb(nested(levels))


def test_nothing_is_packed_that_is_nested_too_deeply_to_be_read() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert reference(packb(value)) == unpackb(packb(value)) == value
    circle: list[Any] = []
    circle.append({"circle": circle})
    for deep in ([value], {"": value}, circle):
        with pytest.raises(MessagePackError, match="nesting"):
            packb(deep)


@pytest.mark.parametrize("key", [None, True, 1, 1.5, b"a", (1, 2)])
def test_a_key_that_strict_readers_refuse_is_not_packed(key: Any) -> None:
    with pytest.raises(MessagePackError, match="a map's key is a string"):
        packb({"a": [{key: 1}]})


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ud83d\ude00", "ä\udcff"])
def test_a_text_that_strict_readers_refuse_does_not_cost_its_message(text: str) -> None:
    """It is written as Python would write it: with quotes, and surrogates in letters."""
    assert reference(packb({"error": text, text: 1})) == {"error": repr(text), repr(text): 1}


@pytest.mark.parametrize("code", "bBhHiIqQfd")
def test_binary_of_wider_cells_is_counted_in_bytes(code: str) -> None:
    cells = memoryview(array(code, range(100)))
    for value in (cells, cells[3:90], cells[::2]):
        assert packb(value) == msgpack.packb(value.tobytes())


@pytest.mark.parametrize("key", [b"\xc0", b"\xca\x00\x00\x00\x00", b"\x90", b"\xc4\x01a"])
def test_a_map_key_that_is_neither_text_nor_integer_is_refused(key: bytes) -> None:
    with pytest.raises(MessagePackError, match="key"):
        unpackb(b"\x81" + key + b"\x01")


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(MessagePackError, match="UTF-8"):
        unpackb(b"\xa2\xff\xfe")


@pytest.mark.parametrize("value", [1 << 64, -(1 << 63) - 1])
def test_an_integer_of_more_than_64_bits_is_refused(value: int) -> None:
    with pytest.raises(MessagePackError, match="64 bits"):
        packb(value)


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j])
def test_a_value_without_a_place_in_a_message_is_refused(value: Any) -> None:
    with pytest.raises(MessagePackError, match="no place"):
        packb(value)


# The same on MicroPython

SESSION = Path(__file__).with_name("msgpack_session.py")
ILL_FORMED = ("ff", "c080", "c1bf", "e08080", "e09fbf", "eda080", "edbfbf", "f0808080", "f4908080", "f8888080", "e282")
WELL_FORMED = ("00", "c280", "dfbf", "e0a080", "ed9fbf", "ee8080", "efbbbf", "f0908080", "f48fbfbf")


def session(interpreter: str, cases: list[tuple[str, str]]) -> list[str]:
    """What comes of ``cases`` on ``interpreter``."""
    programs = {"cpython": sys.executable, "micropython": need_program("micropython")}
    result = subprocess.run(
        [programs[interpreter], str(SESSION)],
        env=os.environ | {"PYTHONPATH": str(CLIENT), "MICROPYPATH": f"{CLIENT}:.frozen", "TINYREPTILE_NUMBA": "0"},
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found: list[str] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("interpreter", ["cpython", "micropython"])
def test_texts_are_read_if_they_are_utf8_and_only_then(interpreter: str) -> None:
    texts = [bytes.fromhex(digits) for digits in ILL_FORMED + WELL_FORMED]
    cases = [("unpack", (bytes([0xA0 + len(text)]) + text).hex()) for text in texts]
    cases += [("unpack", (bytes([0x81, 0xA2 + len(text)]) + b"a" + text + b"z" + b"\x01").hex()) for text in texts]
    refused, taken = "MessagePackError", [bytes.fromhex(digits).decode() for digits in WELL_FORMED]
    assert session(interpreter, cases) == [
        *[refused] * len(ILL_FORMED),
        *(f"text({ord(text)})" for text in taken),
        *[refused] * len(ILL_FORMED),
        *(f"{{text(97, {ord(text)}, 122): 1}}" for text in taken),
    ]


def test_micropython_packs_as_cpython_does() -> None:
    expressions = [
        "memoryview(array('h', [1, -2, 300]))",
        "memoryview(array('h', [1, -2, 300]))[1:]",
        "memoryview(array('i', range(200)))",
        "memoryview(b'abc')[1:]",
        "bytearray(300)",
        "'\\ud800'",
        "{'\\ud83d\\ude00': 1}",
        "chr(0x10FFFF)",
        "{1: 2}",
        "{'a': {None: 1}}",
        "nested(8)",
        "nested(9)",
        "nested(0)",
        "{'a': [True, False, None, 1.5, -1.0, 'b', (1, 2)]}",
        *map(repr, BORDERS),
        *(f"-({value})" for value in BORDERS),
        *(f"'x' * {size}" for size in (15, 31, 32, 255, 256)),
        *(f"[0] * {size}" for size in (15, 16, 255, 256, 1500)),
    ]
    cases = [("pack", expression) for expression in expressions]
    ours, theirs = session("cpython", cases), session("micropython", cases)
    assert ours == theirs
    assert ours[:3] == ["c4060100feff2c01", "c404feff2c01", "c50320" + ours[2][6:]]
    refused = [expression for expression, found in zip(expressions, ours, strict=True) if found == "MessagePackError"]
    assert refused[:4] == ["{1: 2}", "{'a': {None: 1}}", "nested(9)", "nested(0)"]
    assert all(int(eval(expression)) < -(1 << 63) for expression in refused[4:])


def test_micropython_reads_as_cpython_does() -> None:
    """Extension types and all the rest."""
    packed = [msgpack.packb([value, {"a": value, 3: [value]}, 5]) for value in (*EXTENSIONS[:18], *EXTENSIONS[-8:])]
    packed += [msgpack.packb(value) for value in (*SAMPLES[:2], *SAMPLES[3:6], *BORDERS)]
    packed += [bytes((code,)) + bytes(20) for code in range(0xC0, 0xE0)]
    packed += [data[:-1] for data in packed]
    cases = [("unpack", data.hex()) for data in packed]
    assert session("cpython", cases) == session("micropython", cases)
