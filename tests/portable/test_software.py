"""New versions over the wire: images, their hash and signature."""

from __future__ import annotations

import hashlib
import hmac
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyreptile.messages import MessageError
from tinyreptile.software import (
    IMAGE,
    MAX_IMAGE,
    MAX_NAME,
    Image,
    SoftwareError,
    check_manifest,
    pack,
    signature,
)

from ..environment import run_micropython

KEY = b"a key of this fleet"
FILES = {"tinyreptile/__init__.py": b"", "tinyreptile/streams/own.py": b"x = 1\n" * 500, "version": b"7"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def manifest_of(packed: bytes, version: int = 7, chip: str = "armv6m", key: bytes = KEY) -> dict[str, Any]:
    digest = hashlib.sha256(packed).digest()
    signed = signature(key, version, chip, len(packed), digest)
    return {"version": version, "chip": chip, "bytes": len(packed), "sha256": digest, "signature": signed}


def chunks_of(packed: bytes) -> list[tuple[int, bytes]]:
    return [(start // 1024, packed[start : start + 1024]) for start in range(0, len(packed), 1024)]


def receive(packed: bytes, version: int = 7) -> Image:
    image = Image(version, len(packed))
    for index, data in chunks_of(packed):
        image.add(index, version, data)
    return image


@pytest.mark.parametrize("key", [b"", b"k", b"k" * 64, b"k" * 65, bytes(range(256))])
def test_a_signature_is_an_hmac(key: bytes) -> None:
    digest = hashlib.sha256(b"image").digest()
    wanted = hmac.new(key, struct.pack(">II", 7, 1234) + digest + b"armv6m", hashlib.sha256).digest()
    assert signature(key, 7, "armv6m", 1234, digest) == wanted


def test_a_manifest_that_is_right_passes() -> None:
    check_manifest(manifest_of(pack(FILES)), KEY, "armv6m")


@pytest.mark.parametrize(
    ("field", "value"),
    [("version", 8), ("bytes", 5), ("sha256", bytes(32)), ("signature", bytes(32)), ("signature", b"")],
)
def test_a_field_that_was_changed_is_found(field: str, value: Any) -> None:
    with pytest.raises(SoftwareError, match="not signed with this board's key"):
        check_manifest(manifest_of(pack(FILES)) | {field: value}, KEY, "armv6m")


@pytest.mark.parametrize(
    ("key", "chip", "complaint"),
    [
        (b"another", "armv6m", "not signed with this board's key"),
        (b"", "armv6m", "this board has no key"),
        (KEY, "xtensawin", "the update is for armv6m, this board is xtensawin"),
    ],
)
def test_a_manifest_for_somebody_else_is_refused(key: bytes, chip: str, complaint: str) -> None:
    with pytest.raises(SoftwareError, match=complaint):
        check_manifest(manifest_of(pack(FILES)), key, chip)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[a-z.]{1,9}[a-z]){0,2}", fullmatch=True), st.binary(max_size=3000)))
def test_what_is_packed_is_unpacked(files: dict[str, bytes]) -> None:
    names = [name.split("/") for name in files]
    folders = {tuple(parts[:depth]) for parts in names for depth in range(1, len(parts))}
    if not files or any(tuple(parts) in folders for parts in names):
        return  # nothing to send, or a name that is a file and a folder
    packed = pack(files)
    image = Image(1, len(packed))
    chunks = chunks_of(packed) * 2
    random.Random(len(packed)).shuffle(chunks)
    for index, data in chunks:
        image.add(index, 1, data)
    assert image.is_whole()
    image.check(hashlib.sha256(packed).digest())
    image.unpack("b")
    image.close()
    assert {str(p.relative_to("b")): p.read_bytes() for p in Path("b").rglob("*") if p.is_file()} == files
    assert not Path(IMAGE).exists()


def test_what_was_in_the_folder_before_is_gone(folder: Path) -> None:
    (folder / "b" / "deep" / "er").mkdir(parents=True)
    (folder / "b" / "deep" / "er" / "old.py").write_text("old")
    image = receive(pack(FILES))
    image.unpack("b")
    image.close()
    assert {str(p.relative_to("b")) for p in Path("b").rglob("*") if p.is_file()} == set(FILES)


def test_chunks_that_have_no_place_are_refused() -> None:
    packed = pack(FILES)
    image = Image(7, len(packed))
    image.add(0, 6, b"of another version")
    for index, data in ((0, packed[:1000]), (2, packed[2048:] + b"x"), (3, b"x"), (1 << 40, b"x")):
        with pytest.raises(MessageError, match="wrong size"):
            image.add(index, 7, data)
    assert not image.is_whole()
    image.close()


def test_a_damaged_image_is_found() -> None:
    packed = bytearray(pack(FILES))
    digest = hashlib.sha256(packed).digest()
    packed[1500] ^= 1
    image = receive(bytes(packed))
    with pytest.raises(SoftwareError, match="arrived damaged"):
        image.check(digest)
    image.close()


def entry(name: bytes, content: bytes = b"", size: int | None = None) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(content) if size is None else size) + content


@pytest.mark.parametrize(
    ("packed", "complaint"),
    [
        (entry(b"../slot"), "named '../slot'"),
        (entry(b"/etc/x"), "named '/etc/x'"),
        (entry(b"a/./b"), "named"),
        (entry(b"a\0b"), "named"),
        (entry(b""), "named ''"),
        (entry(b"x" * (MAX_NAME + 1)), "named"),
        (entry(b"\xff\xfe"), "named ''"),
        (entry(b"x", b"abc", 4), "ends in the middle of x"),
        (entry(b"x", b"", 0xFFFFFFFF), "ends in the middle of x"),
        (entry(b"x", b"abc") + b"\x05ab", "ends too early"),
    ],
)
def test_an_image_that_is_none_is_told(packed: bytes, complaint: str, folder: Path) -> None:
    image = receive(packed)
    with pytest.raises(SoftwareError, match=complaint):
        image.unpack("b")
    image.close()
    assert {path.name for path in folder.iterdir()} <= {"b"}


@pytest.mark.parametrize("size", [0, -1, MAX_IMAGE + 1])
def test_an_image_too_large_is_refused(size: int) -> None:
    with pytest.raises(SoftwareError, match="at most 1048576 bytes"):
        Image(1, size)


ON_A_BOARD = """
from tinyreptile.software import Image, pack, signature
import hashlib
files = {"lib/a.py": b"a" * 2500, "version": b"9"}
packed = pack(files)
image = Image(9, len(packed))
for index in range((len(packed) + 1023) // 1024 - 1, -1, -1):
    image.add(index, 9, packed[1024 * index : 1024 * index + 1024])
assert image.is_whole()
image.check(hashlib.sha256(packed).digest())
for _ in range(2):
    image.unpack("b")
image.close()
for name in files:
    with open("b/" + name, "rb") as file:
        assert file.read() == files[name]
print("".join("%02x" % b for b in signature(b"k" * 70, 9, "armv6m", len(packed), hashlib.sha256(packed).digest())))
"""


def test_micropython_unpacks_and_signs_the_same(folder: Path) -> None:
    script = folder / "script.py"
    script.write_text(ON_A_BOARD)
    result = run_micropython(script)
    packed = pack({"lib/a.py": b"a" * 2500, "version": b"9"})
    wanted = signature(b"k" * 70, 9, "armv6m", len(packed), hashlib.sha256(packed).digest())
    assert result.stdout.strip() == wanted.hex(), result.stdout + result.stderr
