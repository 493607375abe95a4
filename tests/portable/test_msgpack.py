"""The MessagePack subset against the reference implementation, and against hostile bytes."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyreptile.msgpack import _MAX_DEPTH, MessagePackError, Packer, Unpacker, unpackb

integers = st.integers(-(1 << 63), (1 << 64) - 1)
scalars = st.none() | st.booleans() | integers | st.floats(allow_nan=False) | st.text() | st.binary()
keys = st.text(max_size=20) | st.integers(-(1 << 31), 1 << 32)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(keys, inner, max_size=20),
    max_leaves=30,
)

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
    """``value`` with its memoryviews as bytes."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def reference(packed: bytes) -> Any:
    return msgpack.unpackb(packed, strict_map_key=False)


@settings(deadline=None, max_examples=50)
@given(values)
def test_what_is_packed_here_is_read_by_the_reference(value: Any) -> None:
    assert reference(packb(value)) == value


@settings(deadline=None)
@given(values)
def test_what_the_reference_packs_is_read_here(value: Any) -> None:
    assert plain(unpackb(msgpack.packb(value))) == value


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
    for value in ("x" * size, b"x" * size, [1] * size, dict.fromkeys(range(size), 1)):
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


@pytest.mark.parametrize("code", [0xC1, 0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8])
def test_extension_types_are_refused(code: int) -> None:
    with pytest.raises(MessagePackError, match=f"0x{code:02x}"):
        unpackb(bytes((code,)) + bytes(20))


def nested(levels: int) -> bytes:
    return b"\x91" * levels + b"\x01"


def test_the_deepest_nesting_allowed_is_read() -> None:
    assert unpackb(nested(_MAX_DEPTH)) is not None


@pytest.mark.parametrize("levels", [_MAX_DEPTH + 1, 100_000])
def test_deeper_nesting_is_refused(levels: int) -> None:
    with pytest.raises(MessagePackError, match="nesting"):
        unpackb(nested(levels))


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
