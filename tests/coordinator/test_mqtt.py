"""Messages as bytes: what comes off the wire can be shown."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.mqtt import pack, unpack
from tinyreptile.messages import MessageError
from tinyreptile.msgpack import MAX_DEPTH
from tinyreptile.reports import MESSAGE_BYTES


@pytest.mark.parametrize("value", [{"work": 1, "data": b"\x00\x1b"}, [1.5, None, "kitchen-1 é 温"], "", -3])
def test_what_is_packed_is_unpacked(value: Any) -> None:
    assert unpack(pack(value)) == value


def test_a_text_off_the_wire_can_not_steer_a_terminal() -> None:
    message = {"error": "\x1b[2J\x1b]0;title\x07", "lines": ["a\r\nerror: forged", {"k\x00": "\u202e\x9b31m"}]}
    found = unpack(pack(message))
    assert found == {
        "error": "\ufffd[2J\ufffd]0;title\ufffd",
        "lines": ["a\ufffd\ufffderror: forged", {"k\ufffd": "\ufffd\ufffd31m"}],
    }


DEEP = [b"\x91" * levels + b"\x01" for levels in (MAX_DEPTH + 1, 500, 900, 1000, 1500)]
DEEP += [b"\x81\x01" * levels + b"\x01" for levels in (MAX_DEPTH + 1, 500)]
KEYS = [b"\x81" + key + b"\x01" for key in (b"\xc0", b"\xca\0\0\0\0", b"\x90", b"\x80", b"\xc4\x01a", b"\xd4\x05\x01")]


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\x92\x01", bytes(MESSAGE_BYTES + 1), "text", 5, *DEEP, *KEYS, b"\xa3\xed\xa0\x80"]
)
def test_what_is_no_message_is_refused(payload: Any) -> None:
    with pytest.raises(MessageError):
        unpack(payload)
