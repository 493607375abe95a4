"""Messages as bytes: what comes off the wire can be shown."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.mqtt import pack, unpack
from tinyreptile.messages import MESSAGE_BYTES, MessageError


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


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x92\x01", bytes(MESSAGE_BYTES + 1), "text", 5])
def test_what_is_no_message_is_refused(payload: Any) -> None:
    with pytest.raises(MessageError):
        unpack(payload)
