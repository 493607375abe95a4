"""Writes vectors.json: golden results of the portable library, computed by plain Python.

    TINYREPTILE_NUMBA=0 python tests/vectors/generate.py

Needed only when the arithmetic, the packing or the protocol changes on purpose: a change of this file in a commit says
that devices and coordinators of before and after don't compute the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import check
import msgpack

from tinyreptile.portable import RUNNER

SINE = [["input", 1], ["dense", 32, "relu"], ["dense", 32, "relu"], ["dense", 1], ["squared_error"]]
CLASSES = [["input", 5], ["dense", 7, "relu"], ["dense", 4], ["dense", 3], ["cross_entropy"]]
WIDE = [["input", 37], ["dense", 3, "relu"], ["dense", 33, "relu"], ["dense", 2], ["squared_error"]]

LEARNING: list[dict[str, Any]] = [
    {"model": SINE, "seed": 1, "beta": 0.005, "weights": 1500, "inputs": 2000, "steps": 1000, "every": 250},
    {"model": CLASSES, "seed": 2, "beta": 0.05, "weights": 3000, "inputs": 1500, "steps": 1000, "every": 250},
    {"model": WIDE, "seed": 3, "beta": 0.01, "weights": 1200, "inputs": 1000, "steps": 200, "every": 100},
    # Where everything saturates.
    {"model": CLASSES, "seed": 4, "beta": 1.0, "weights": 32767, "inputs": 32767, "steps": 50, "every": 25},
    {"model": WIDE, "seed": 5, "beta": 1.0, "weights": 32767, "inputs": 32767, "steps": 50, "every": 25},
]

DELTAS: list[dict[str, Any]] = [
    {"model": model, "seed": seed, "weights": span, "bits": bits, "piece": piece}
    for bits in (16, 8, 4)
    for seed, (model, span, piece) in enumerate(
        [(SINE, 300, 1024), (CLASSES, 9000, 6), (WIDE, 32767, 100)], start=60000
    )
]

# Texts, one key a map and floats of few bits: what every JSON reader hands out alike.
PACKING: list[Any] = [
    *(None, True, False, 0, 127, 128, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, (1 << 64) - 1),
    *(-1, -32, -33, -128, -129, -32768, -32769, -(1 << 31), -(1 << 31) - 1, -(1 << 63)),
    *(0.5, -2.25, 1e300, "", "text", "ä€", "x" * 32, "x" * 256, [], [1] * 16, [[1, [2, []]]], {}, {"key": [1, None]}),
]
READING: list[Any] = [*PACKING, {"a": 1, "b": {"c": 2}, "d": [3]}, 0.1]

MESSAGES: list[tuple[str, Any]] = [
    ("STATUS", {"protocol": 1, "state": "online", "boot": "0011aabb", "role": "train", "inputs": 1, "ram": 123456}),
    ("MANIFEST", {"protocol": 1, "version": 7, "model": SINE, "encoding": "int16", "bytes": 2306, "crc": 4294967295,
                  "chunks": 3, "slot": 1}),
    ("CHUNK", {"version": 7, "crc": 1, "data": bytes(range(100))}),
    ("WORK", {"work": 9, "kind": "train", "version": 7, "crc": 1, "slot": 1, "steps": 32, "beta": 0.0078125,
              "seconds": 30, "bits": 8}),
    ("UPDATE", {"work": 9, "chunks": 1, "report": {"version": 7, "gains": [65536, 1]}, "data": b"\x00\xff"}),
    ("ACK", {"work": 9, "accepted": False, "reason": "the work is not known"}),
]  # fmt: skip


def main() -> None:
    """Compute and write."""
    if RUNNER != "python":
        raise SystemExit("set TINYREPTILE_NUMBA=0: golden vectors come from plain Python")
    vectors: dict[str, list[dict[str, Any]]] = {
        "learning": LEARNING,
        "deltas": DELTAS,
        "packing": [{"value": value} for value in PACKING],
        "reading": [{"packed": msgpack.packb(value).hex()} for value in READING],
        "messages": [{"kind": kind, "packed": msgpack.packb(value).hex()} for kind, value in MESSAGES],
    }
    for kind, cases in vectors.items():
        for case in cases:
            case["expected"] = check.RUN[kind](case)
    for case, value in zip(vectors["packing"], PACKING, strict=True):
        assert case["expected"] == msgpack.packb(value).hex()
    lines = []
    for kind, cases in vectors.items():
        lines.append(f'"{kind}": [\n' + ",\n".join(json.dumps(case) for case in cases) + "\n]")
    Path(__file__).with_name("vectors.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
