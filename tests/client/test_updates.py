"""New versions of the library over a real broker: installed, tried, and given up."""

from __future__ import annotations

import hashlib
import importlib
import json
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.environment import CLIENT, Mosquitto, need_program
from tests.fleet import eventually
from tinyreptile import messages, reports
from tinyreptile.device import RESTART
from tinyreptile.software import pack, signature
from tinyreptile.updates import Updates

from .peer import Peer, coordinating, living, make_device
from .test_client import DATA

pytestmark = pytest.mark.usefixtures("compiled")

KEY = b"a key of this fleet"
FILES = {"tinyreptile/__init__.py": b"new = True\n" * 300, "version": b"5"}


@pytest.fixture
async def peer(broker: Mosquitto) -> AsyncIterator[Peer]:
    async with coordinating(broker) as peer:
        yield peer


@pytest.fixture
def slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, in a flash where nothing was ever installed."""
    monkeypatch.chdir(tmp_path)
    return importlib.reload(importlib.import_module("slots"))


def manifest_of(packed: bytes, version: int, chip: str = "py", key: bytes = KEY, **fields: Any) -> dict[str, Any]:
    digest = hashlib.sha256(packed).digest()
    signed = signature(key, version, chip, len(packed), digest)
    return {"version": version, "chip": chip, "bytes": len(packed), "sha256": digest, "signature": signed} | fields


async def publish(peer: Peer, packed: bytes, manifest: dict[str, Any], chip: str = "py") -> None:
    topic = peer.topics.software(chip)
    for start in range(0, len(packed), messages.CHUNK_BYTES):
        chunk = {"version": manifest["version"], "data": packed[start : start + messages.CHUNK_BYTES]}
        await peer.send(f"{topic}/{start // messages.CHUNK_BYTES}", chunk, retain=True)
    await peer.send(topic, manifest, retain=True)


async def test_a_device_installs_what_is_offered_and_ends(peer: Peer, slots: ModuleType) -> None:
    said: list[str] = []
    packed = pack(FILES)
    await peer.put(0, DATA)
    await publish(peer, packed, manifest_of(packed, 5))
    async with living(make_device(peer, log=said.append, updates=Updates(KEY, slots, peer.topics, "py"))) as life:
        await eventually(life.done, "the device has ended")
    assert "version 5 is installed, and begins with the next start" in said
    assert peer.states("d0")[-1] == "offline"
    folder = slots.choose()
    assert {name: Path(folder, name).read_bytes() for name in FILES} == FILES
    assert slots.running() == 5
    # The next start comes up and keeps it.
    async with living(make_device(peer, log=said.append, updates=Updates(KEY, slots, peer.topics, "py"))):
        await eventually(lambda: peer.statuses("d0")[-1].get("software") == 5, "the new version is online")
        await eventually(lambda: not Path("trial").exists(), "the new version is confirmed")
    assert slots.choose() == folder
    assert said.count(f"version 5 of the library is offered, {len(packed)} bytes") == 1


async def test_work_goes_before_an_installation(peer: Peer, slots: ModuleType) -> None:
    packed = pack(FILES)
    await peer.put(0, DATA)
    async with living(make_device(peer, updates=Updates(KEY, slots, peer.topics, "py"))) as life:
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA)
        await publish(peer, packed, manifest_of(packed, 5))
        await peer.update("d0")
        assert not life.done()
        await peer.acknowledge("d0", 1)
        await eventually(life.done, "the device has ended")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"key": b"another"}, "a new version of the library is passed over: the update is not signed"),
        ({"chip": "armv6m"}, "a new version of the library is passed over: the update is for armv6m"),
        ({"sha256": bytes(31)}, "a new version of the library is passed over: sha256 has a length of 32 to 32, not 31"),
        ({"version": 0}, "a new version of the library is passed over: version lies between"),
    ],
    ids=["key", "chip", "digest", "version"],
)
async def test_what_can_not_be_trusted_is_passed_over(
    peer: Peer, slots: ModuleType, change: dict[str, Any], complaint: str
) -> None:
    said: list[str] = []
    packed = pack(FILES)
    await peer.put(0, DATA)
    async with living(make_device(peer, log=said.append, updates=Updates(KEY, slots, peer.topics, "py"))):
        await peer.hello("d0")
        await publish(peer, packed, manifest_of(packed, **({"version": 5} | change)))
        await eventually(lambda: any(text.startswith(complaint) for text in said), "the device has said so")
        await peer.ask("d0", 1, DATA)
        await peer.update("d0")
    assert list(Path().iterdir()) == []


async def test_an_image_that_arrives_damaged_is_not_installed(peer: Peer, slots: ModuleType) -> None:
    said: list[str] = []
    packed = pack(FILES)
    damaged = packed[:1500] + b"?" + packed[1501:]
    await peer.put(0, DATA)
    async with living(make_device(peer, log=said.append, updates=Updates(KEY, slots, peer.topics, "py"))):
        await peer.hello("d0")
        await publish(peer, damaged, manifest_of(packed, 5))
        await eventually(lambda: "version 5 was not installed: the update arrived damaged" in said, "it is said")
        await peer.ask("d0", 1, DATA)
        await peer.update("d0")
        assert list(Path().iterdir()) == []
        await publish(peer, packed, manifest_of(packed, 6))
        await eventually(lambda: Path("trial").exists(), "the next one is installed")


async def test_a_version_that_failed_is_not_taken_again(peer: Peer, slots: ModuleType) -> None:
    said: list[str] = []
    Path("failed").write_text("5")
    packed = pack(FILES)
    await peer.put(0, DATA)
    await publish(peer, packed, manifest_of(packed, 5))
    async with living(make_device(peer, log=said.append, updates=Updates(KEY, slots, peer.topics, "py"))):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA)
        await peer.update("d0")
    assert not any("version 5" in text for text in said)


async def offered(peer: Peer, slots: ModuleType, packed: bytes) -> Updates:
    """The updates of a device that is offered ``packed`` as version 5, none of whose chunks is there."""
    await peer.put(0, DATA)
    await peer.send(peer.topics.software("py"), manifest_of(packed, 5), retain=True)
    return Updates(KEY, slots, peer.topics, "py")


@pytest.mark.parametrize("how", ["newer", "withdrawn", "restart"])
async def test_an_incomplete_version_gives_way(peer: Peer, slots: ModuleType, how: str) -> None:
    said: list[str] = []
    packed = pack(FILES)
    topic = peer.topics.software("py")
    updates = await offered(peer, slots, packed)
    async with living(make_device(peer, log=said.append, commands=True, updates=updates)) as life:
        await eventually(lambda: updates.image, "the device waits for chunks")
        if how == "newer":
            await publish(peer, packed, manifest_of(packed, 6))
            await eventually(life.done, "the device has ended")
            assert said[-1] == "version 6 is installed, and begins with the next start"
        elif how == "withdrawn":
            await peer._session.publish(topic, b"", qos=1, retain=True)
            await peer.ask("d0", 1, DATA)
            await peer.update("d0")
        else:
            await peer.send(peer.topics.device("d0").command, {"command": "restart"})
            await eventually(life.done, "the device has ended")
    assert "version 5 was not installed: something else was asked for meanwhile" in said
    assert Path("trial").exists() == (how == "newer")


@pytest.mark.parametrize("index", ["-1", "-0", "1_0", "x"])
async def test_a_chunk_with_a_number_that_is_none_costs_no_session(peer: Peer, slots: ModuleType, index: str) -> None:
    said: list[str] = []
    packed = pack(FILES)
    topic = peer.topics.software("py")
    updates = await offered(peer, slots, packed)
    chunk = {"version": 5, "data": packed[: messages.CHUNK_BYTES]}
    async with living(make_device(peer, log=said.append, updates=updates)) as life:
        await eventually(lambda: updates.image, "the device waits for chunks")
        await peer.send(f"{topic}/{index}", chunk)
        await eventually(lambda: any("no number of a chunk" in text for text in said), "it is passed over")
        await publish(peer, packed, manifest_of(packed, 5))
        await eventually(life.done, "the device has ended")
    assert not any("no connection" in text for text in said)
    assert said[-1] == "version 5 is installed, and begins with the next start"


async def test_a_version_that_was_given_up_is_told(peer: Peer, slots: ModuleType) -> None:
    Path("a").mkdir()
    Path("a", "version").write_text("3")
    Path("slot").write_text("a")
    Path("failed").write_text("5")
    slots.choose()
    await peer.put(0, DATA)
    async with living(make_device(peer, updates=Updates(KEY, slots, peer.topics, "py"))):
        hello = messages.check(reports.STATUS, await peer.hello("d0"))
    assert (hello["software"], hello["failed"]) == (3, 5)
    Path("a", "version").write_text("6")
    assert Updates(KEY, slots, peer.topics, "py").failed == 0


async def test_a_micropython_device_installs_and_asks_for_a_restart(peer: Peer, tmp_path: Path) -> None:
    packed = pack(FILES)
    await peer.put(0, DATA)
    await publish(peer, packed, manifest_of(packed, 5, "x64"), "x64")
    device = {"id": "d0", "run": peer.run, "host": peer.broker.host, "port": peer.broker.port, "key": KEY.decode()}
    (tmp_path / "config.json").write_text(json.dumps({**device, "stream": {"kind": "sine", "seed": 1}}))
    process = subprocess.Popen(
        [need_program("micropython"), "-X", "heapsize=2M", str(CLIENT / "main.py")],
        cwd=tmp_path,
        env={"MICROPYPATH": f"{CLIENT}:.frozen"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        await eventually(lambda: process.poll() is not None, "the device has ended")
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    assert process.returncode == RESTART, output
    assert {name: (tmp_path / "a" / name).read_bytes() for name in FILES} == FILES
    assert (tmp_path / "trial").read_text() == "a 5 3"
