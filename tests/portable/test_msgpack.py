"""The MessagePack subset against the reference implementation, and against hostile bytes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import struct
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
from .msgpack_session import written

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
    programs = {"cpython": [sys.executable], "micropython": [need_program("micropython"), "-X", "heapsize=64M"]}
    result = subprocess.run(
        [*programs[interpreter], str(SESSION)],
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


# The same by all three readers: the host's, a device's on CPython, a device's on MicroPython

INTEGERS = [*BORDERS, 0, 1, -1]
FLOATS = [0.0, -0.0, 1.5, 1e300, 1e-300, float("inf"), float("-inf"), float("nan"), 0.1]
TEXTS = [b"", b"a", b"label", "größe→".encode(), b"x" * 33, b"\x00\x1b[2J", b"\xff", b"\xed\xa0\x80", b"\xc0\x80"]


class Packed:
    """Random messages in bytes: every form of every type, and what is wrong with some."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def message(self) -> bytes:
        """A map, mostly; some are cut off, changed, or have a byte too many."""
        data = bytearray(self.map(0) if self.random.random() < 0.9 else self.value(0))[:1400]
        kind = self.random.random()
        if kind < 0.05:
            del data[self.random.randrange(len(data)) :]
        elif kind < 0.1:
            data[self.random.randrange(len(data))] = self.random.randrange(256)
        elif kind < 0.13:
            data.append(0xC0)
        return bytes(data)

    def value(self, depth: int) -> bytes:
        kinds = [self.integer, self.float, self.text, self.binary, self.extension, self.constant]
        if self.random.random() < (0.4 if depth < 5 else 0.15):
            return self.random.choice([self.list, self.map])(depth)
        return self.random.choice(kinds)()

    def constant(self) -> bytes:
        return bytes([self.random.choice([0xC0, 0xC2, 0xC3] * 20 + [0xC1])])

    def integer(self) -> bytes:
        """In any form that has room for it, not the shortest alone."""
        value = self.random.choice([*INTEGERS, self.random.randrange(-200, 70000)])
        forms = [(code, form) for code, form in zip(range(0xCC, 0xD4), "BHIQbhiq", strict=True)]
        forms = [(code, form) for code, form in forms if fits(value, form)]
        if -32 <= value < 128 and self.random.random() < 0.5:
            return bytes([value & 255])
        code, form = self.random.choice(forms)
        return bytes([code]) + struct.pack(">" + form, value)

    def float(self) -> bytes:
        value = self.random.choice([*FLOATS, self.random.gauss(0, 1e3)])
        if self.random.random() < 0.5:
            return b"\xcb" + struct.pack(">d", value)
        return b"\xca" + struct.pack(
            ">f", value if abs(value) < 1e30 or value in (float("inf"), float("-inf")) else 1.0
        )

    def sized(self, count: int, forms: list[tuple[int, str]], short: tuple[int, int] | None = None) -> bytes:
        """The head of something of the size ``count``."""
        if short and count < short[1] and self.random.random() < 0.7:
            return bytes([short[0] + count])
        code, form = self.random.choice([(code, form) for code, form in forms if fits(count, form)])
        return bytes([code]) + struct.pack(">" + form, count)

    def text(self) -> bytes:
        data = self.random.choice(TEXTS[: 6 if self.random.random() < 0.95 else None])
        return self.sized(len(data), [(0xD9, "B"), (0xDA, "H"), (0xDB, "I")], (0xA0, 32)) + data

    def binary(self) -> bytes:
        data = self.random.randbytes(self.random.choice([0, 1, 5, 300]))
        return self.sized(len(data), [(0xC4, "B"), (0xC5, "H"), (0xC6, "I")]) + data

    def extension(self) -> bytes:
        """Of any code, timestamps of any size and any content among them."""
        code = self.random.choice([-1, -1, -2, -128, 0, 5, 127])
        size = self.random.choice([0, 1, 2, 3, 4, 4, 5, 8, 8, 12, 12, 13, 16, 17, 256])
        data = self.random.choice([bytes(size), b"\xff" * size, self.random.randbytes(size)])
        if size in (1, 2, 4, 8, 16) and self.random.random() < 0.7:
            head = bytes([0xD4 + (1, 2, 4, 8, 16).index(size)])
        else:
            head = self.sized(size, [(0xC7, "B"), (0xC8, "H"), (0xC9, "I")])
        return head + struct.pack("b", code) + data

    def list(self, depth: int) -> bytes:
        items = [self.value(depth + 1) for _ in range(self.random.choice([0, 1, 1, 2, 3]))]
        if self.random.random() < 0.02:
            items = [b"\x91" * self.random.randrange(1, 9) + b"\xc0"]
        return self.sized(len(items), [(0xDC, "H"), (0xDD, "I")], (0x90, 16)) + b"".join(items)

    def map(self, depth: int) -> bytes:
        pairs: list[bytes] = []
        for _ in range(self.random.choice([0, 1, 2, 3, 5])):
            key = self.text() if self.random.random() < 0.7 else self.integer()
            if self.random.random() < 0.04:
                key = self.random.choice(
                    [self.constant, self.float, self.binary, self.extension, lambda: self.value(7)]
                )()
            if pairs and self.random.random() < 0.2:
                key = self.random.choice(pairs)[0]  # once more
            pairs.append((key, self.value(depth + 1)))
        head = self.sized(len(pairs), [(0xDE, "H"), (0xDF, "I")], (0x80, 16))
        return head + b"".join(key + value for key, value in pairs)


def fits(value: int, form: str) -> bool:
    with contextlib.suppress(struct.error):
        return bool(struct.pack(">" + form, value))
    return False


def outcome(read: Any, packed: bytes) -> str:
    try:
        return written(read(packed))
    except ValueError:
        return "refused"


def printable(value: Any) -> Any:
    """``value`` as a host shows it."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() else "\ufffd" for c in value)
    if isinstance(value, list):
        return [printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    return value


ODD_KEYS = [b"\xc2", b"\xc3", b"\xc0", b"\xca\0\0\0\0", b"\xcb" + bytes(8), b"\xd4\x05\x01", b"\xd6\xff" + bytes(4)]
ODD_KEYS += [b"\xd7\xff" + bytes(8), b"\xc7\x0c\xff" + bytes(12), b"\xc4\x01a", b"\x90", b"\x80", b"\xd4\xff\x01"]
ODD_EXTENSIONS = [bytes((0xC7, size, code)) + bytes(size) for size in range(20) for code in (0xFF, 0xFE, 0x80, 0, 127)]
ODD_EXTENSIONS += [b"\xd7\xff" + b"\xff" * 8, b"\xc7\x0c\xff" + b"\xff" * 12]  # of more nanoseconds than a second has


@pytest.mark.parametrize("key", ODD_KEYS, ids=bytes.hex)
def test_no_reader_takes_a_key_that_is_neither_text_nor_integer(key: bytes) -> None:
    for packed in (b"\x81" + key + b"\x01", b"\x81\x01\x91\x81" + key + b"\x01", b"\x82\x01\x02" + key + b"\x01"):
        for read in (unpackb, mqtt.unpack):
            with pytest.raises(ValueError, match="key"):
                read(packed)
        assert session("micropython", [("unpack", packed.hex())]) == ["MessagePackError"]


@pytest.mark.parametrize("extension", ODD_EXTENSIONS, ids=lambda data: data.hex()[:8])
def test_every_reader_passes_over_extension_types_that_have_no_meaning_yet(extension: bytes) -> None:
    for packed in (b"\x82\xa1n" + extension + b"\xa5label\x03", b"\x82\xa1n\x91" + extension + b"\xa5label\x03"):
        for read in (unpackb, mqtt.unpack):
            assert messages.check(messages.LABEL, read(packed))["label"] == 3


@pytest.mark.parametrize("seed", range(4))
def test_all_readers_read_the_same_of_any_message(seed: int) -> None:
    made = Packed(seed)
    packed = [made.message() for _ in range(2500)]
    packed += [b"\x81" + key + b"\x01" for key in ODD_KEYS] + [b"\x81\x01" + value for value in ODD_EXTENSIONS]
    packed += [b"\x83\xa1a\x01\xa1b\x02\xa1a\x03", b"\x83\x01\x01\xcc\x01\x02\xd0\x01\x03"]
    computer = [outcome(unpackb, data) for data in packed]
    host = [outcome(mqtt.unpack, data) for data in packed]
    board = session("micropython", [("unpack", data.hex()) for data in packed])
    assert 0.2 < computer.count("refused") / len(packed) < 0.8
    for data, one, other, third in zip(packed, computer, host, board, strict=True):
        assert third.replace("MessagePackError", "refused") == one, data.hex()
        assert other == (one if one == "refused" else written(printable(unpackb(data)))), data.hex()
    assert computer[-2:] == ["{text(97): 3, text(98): 2}", "{1: 3}"]
