"""Well-formed inputs of each target, from which fuzzing begins."""

from __future__ import annotations

import json
import random
from binascii import crc32, unhexlify
from collections.abc import Iterator
from typing import Any

from coordinator.initialization import encode, random_weights
from coordinator.mqtt import pack
from simulator.hostile import Forged
from tinyreptile import messages
from tinyreptile.model import Model
from tinyreptile.software import pack as pack_image

from ..environment import ROOT
from .targets import SPEC


def seeds(target: str) -> list[bytes]:
    """Inputs for ``target`` that get far."""
    bodies = [unhexlify(line[1]["packed"]) for line in _vectors("messages")]
    update = {"work": 1, "chunks": 1, "data": bytes(32), "version": 0, "gains": [9] * 4, "loss": 1.0}
    evaluation = {"version": 0, "before": 2.0, "after": 1.0, "queries": 5}
    classes = evaluation | {"seen": [3, 2], "hits_before": [1, 1], "hits_after": [2, 2]}
    sent: list[dict[str, Any]] = [update, *({"work": 1, "evaluation": e} for e in (evaluation, classes))]
    sent += [{"work": 1, "error": "no data"}, {"work": 1, "whole": True}]
    sent.append({"work": 1, "part": 1, "chunks": 2, "data": b"x"})
    requests = [{"request": 1, "client": "c", "command": "set", "arguments": {"learning.alpha": 0.1}}]
    packed = [pack(message) for message in (*sent, *requests)]
    if target == "coordinator":
        return [bytes([topic]) + body for topic in range(5) for body in (*bodies, *packed)]
    if target in ("messages", "msgpack"):
        return bodies + packed
    if target == "commands":
        return [bytes([command]) + _letters(_said()) for command in range(10)]
    if target == "model":
        return [pack(SPEC)] + [pack(line[1]["model"]) for line in _vectors("learning")]  # type: ignore[arg-type]
    if target == "deltas":
        return [bytes([bits, kept]) + bytes(range(46)) for bits in range(3) for kept in (0, 1, 9, 32)]
    if target in ("coding", "differences"):
        numbers = bytes(range(2 * len(SPEC) + 28))
        coded = [b"".join(Forged(Model(SPEC), numbers, [1] * 4).chunks()), bytes([1] * 4) + b"\5\0" + bytes(range(40))]
        return [bytes([bits, cut]) + body for body in coded for bits in range(3) for cut in (0, 20)] + coded
    if target == "initialization":
        return [bytes(64), bytes(36), bytes(range(64)), bytes([12] * 4) + bytes(range(32))]
    if target == "software":
        return [pack_image({"version": b"7", "a/b.py": b"x = 1", "client.mpy": bytes(2000)})]
    if target == "settings":
        return [pack(json.loads((ROOT / "micropython_client" / "config.example.json").read_text()))]
    publish = b"tinyreptile/r/init/0"
    body = len(publish).to_bytes(2, "big") + publish + b"\x00\x07" + bodies[0]
    size = len(body)
    length = bytes([size]) if size < 128 else bytes([size % 128 | 128, size // 128])
    return [b"\x33" + length + body, b"\x40\x02\x00\x01", b"\x90\x03\x00\x02\x01", b"\xd0\x00"]


def _letters(letters: list[tuple[int, bytes]]) -> bytes:
    """``letters``, (number of the topic, body), as the target `commands` reads them."""
    return b"".join(bytes([topic]) + len(body).to_bytes(2, "big") + body for topic, body in letters)


def _said() -> list[tuple[int, bytes]]:
    """What a run's coordinator and a device say."""
    model = Model(SPEC)
    initialization = encode(model, random_weights(model, 1))
    manifest = {"protocol": messages.PROTOCOL, "version": 3, "model": SPEC, "weights": "int16", "encoding": "int16"}
    whole = {"bytes": len(initialization), "crc": crc32(initialization)}
    status = {"protocol": messages.PROTOCOL, "state": "running", "boot": "b", "run": "fuzz", "mode": "asynchronous"}
    counts = dict.fromkeys(("version", "updates", "rounds", "in_flight", "devices", "evaluators", "unfit"), 3)
    summary = {"updates": 3, "version": 3, "devices": 2, "before": 2.0, "after": 1.0}
    summary |= {"median_before": 2.0, "median_after": 1.0}
    rest = {"rate": 1.5, "round_trip_p50": 0.1, "round_trip_p99": 0.2, "refusals": {"late": 2}, "evaluation": summary}
    device = {"device": "d0", "state": "online", "accepted": 3, "seen": 1.7e9, "rho": 0.5, "notice": "hot"}
    event = {"at": 1.7e9, "version": 3, "kind": "drift", "text": "loss", "updates": 3, "setting": "a.b", "value": 1}
    prediction = {"version": 3, "steps": 5, "loss": 0.5, "outputs": [0.5, 1]}
    hello = {"protocol": messages.PROTOCOL, "state": "online", "boot": "b", "role": "train", "ram": 9, "platform": "p"}
    return [
        (0, pack(status | counts | rest)),
        (1, pack(hello)),
        (2, pack(manifest | whole)),
        (3, pack({"version": 3, "crc": whole["crc"], "data": initialization})),
        (4, pack({"request": 1, "rows": [device | event], "left": 0})),
        (5, pack({"lines": ["1 joined", "2 left"], "left": 0})),
        (5, pack(prediction)),
    ]


def _vectors(kind: str) -> list[Any]:
    lines = (ROOT / "tests" / "vectors" / "vectors.jsonl").read_text().splitlines()
    return [case for case in map(json.loads, lines) if case[0] == kind]


def mutated(inputs: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """``count`` damaged ``inputs``: bits flipped, bytes cut or copied, and what decoders stumble over."""
    chance = random.Random(seed)
    stumbling = (b"\xc1", b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xff", b"\x00")
    for _ in range(count):
        data = bytearray(chance.choice(inputs))
        for _ in range(chance.choice((1, 1, 2, 4, 16))):
            at = chance.randrange(len(data) + 1)
            kind = chance.randrange(6)
            if kind == 0 and at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            elif kind == 1 and at < len(data):
                data[at] = chance.randrange(256)
            elif kind == 2:
                del data[at : at + chance.randrange(1, 9)]
            elif kind == 3:
                data[at:at] = chance.choice(stumbling)
            elif kind == 4:
                other = chance.choice(inputs)
                data[at:] = other[chance.randrange(len(other) + 1) :]
            else:
                data[at:at] = data[at : at + chance.randrange(1, 33)]
        yield bytes(data[: 4 * messages.MESSAGE_BYTES])
