"""Writes vectors.jsonl: golden results of the portable library, computed by plain Python.

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

from tinyreptile import messages
from tinyreptile.portable import RUNNER

SINE = [["input", 1], ["dense", 32, "relu"], ["dense", 32, "relu"], ["dense", 1], ["squared_error"]]
CLASSES = [["input", 5], ["dense", 7, "relu"], ["dense", 4], ["dense", 3], ["cross_entropy"]]
WIDE = [["input", 37], ["dense", 3, "relu"], ["dense", 33, "relu"], ["dense", 2], ["squared_error"]]
SEPARABLE = [
    ["input", 9, 7, 2],
    ["conv2d", 5, 3, 2, 1, "relu"],
    ["depthwise2d", 3, 1, 1, "relu"],
    ["conv2d", 6, 1, 1, 0, "relu"],
    ["average"],
    ["dense", 4],
    ["cross_entropy"],
]
STRIDES = [
    ["input", 8, 11, 1],
    ["depthwise2d", 2, 1, 0],
    ["conv2d", 4, 4, 3, 2],
    ["depthwise2d", 3, 3, 2, "relu"],
    ["conv2d", 3, 2, 1, 1, "relu"],
    ["flatten"],
    ["dense", 2],
    ["squared_error"],
]
SERIES = [
    ["input", 13, 3],
    ["conv1d", 6, 5, 3, 2, "relu"],
    ["depthwise1d", 3, 2, 1],
    ["conv1d", 5, 2, 1, 0],
    ["average"],
    ["squared_error"],
]
# Sums so long, in both directions, that their products are shifted in 8 bits, too.
LONG = [
    ["input", 20, 20],
    ["conv1d", 4, 13, 4, 6, "relu"],
    ["conv1d", 90, 3, 1, 1],
    ["average"],
    ["dense", 3],
    ["squared_error"],
]
# Gradients summed over so many positions that most of what each one adds is below a unit.
POSITIONS = [
    ["input", 1500, 1],
    ["conv1d", 3, 1, 1, 0, "relu"],
    ["depthwise1d", 2, 2, 0],
    ["average"],
    ["dense", 3],
    ["cross_entropy"],
]

FORMATS = [("int16", "int16"), ("int16", "int8"), ("int8", "int8")]  # of the weights, and on the wire


def training(
    model: list[Any], formats: tuple[str, str], seed: int, beta: float, span: int, inputs: int, **more: int
) -> dict[str, Any]:
    """A case: parameters from -span to span, inputs from -inputs to inputs."""
    weights, encoding = formats
    case = {"model": model, "weights": weights, "encoding": encoding, "seed": seed, "beta": beta}
    return {**case, "span": span, "inputs": inputs, **more}


LEARNING: list[dict[str, Any]] = [
    training(SINE, FORMATS[0], 1, 0.005, 1500, 2000, steps=1000, every=250),
    training(CLASSES, FORMATS[0], 2, 0.05, 3000, 1500, steps=1000, every=250),
    training(WIDE, FORMATS[0], 3, 0.01, 1200, 1000, steps=200, every=100),
    *(
        training(model, formats, 10 + seed, 0.01, 20 if "int8" in formats else 2500, 1500, steps=80, every=40)
        for seed, model in enumerate((SINE, CLASSES, WIDE, SEPARABLE, STRIDES, SERIES))
        for formats in FORMATS
    ),
    *(
        training(LONG, formats, 20, 0.002, 20 if "int8" in formats else 1000, 500, steps=1, every=1)
        for formats in FORMATS[::2]
    ),
    *(
        training(POSITIONS, formats, 21, 0.05, 60 if "int8" in formats else 4000, 500, steps=10, every=5)
        for formats in FORMATS[::2]
    ),
    # Where everything saturates.
    *(
        training(model, formats, 30 + seed, 1.0, 127 if "int8" in formats else 32767, 32767, steps=40, every=20)
        for seed, model in enumerate((CLASSES, WIDE, SEPARABLE, STRIDES, SERIES))
        for formats in FORMATS
    ),
    *(
        training(LONG, formats, 40, 1.0, 127 if "int8" in formats else 32767, 32767, steps=1, every=1)
        for formats in FORMATS[::2]
    ),
]

BATCHES: list[dict[str, Any]] = [
    training(model, formats, 50, 0.02, 20 if "int8" in formats else 2500, 1500, shots=7, batch=3, epochs=4)
    for model in (CLASSES, SEPARABLE, SERIES)
    for formats in FORMATS
]

DELTAS: list[dict[str, Any]] = [
    {"model": model, "weights": "int16", "seed": seed, "span": span, "bits": bits, "kept": None, "piece": piece}
    for bits in (16, 8, 4)
    for seed, (model, span, piece) in enumerate(
        [(SINE, 300, 1024), (CLASSES, 9000, 6), (WIDE, 32767, 100)], start=60000
    )
] + [
    {"model": model, "weights": weights, "seed": seed, "span": span, "bits": bits, "kept": kept, "piece": piece}
    for bits in (16, 8, 4)
    for seed, (model, weights, span, kept, piece) in enumerate(
        [
            (SINE, "int16", 300, 115, 1024),
            (SINE, "int16", 3, 1000, 7),  # many changes alike, and cells that did not change
            (WIDE, "int16", 32767, 1, 3),
            (CLASSES, "int16", 9000, 60, 5),
            (SEPARABLE, "int8", 127, None, 14),
            (SEPARABLE, "int8", 9, 40, 13),
            (STRIDES, "int8", 127, 150, 1),
        ],
        start=61000,
    )
]

DIFFERENCES: list[dict[str, Any]] = [
    {"model": model, "weights": weights, "seed": seed, "span": span}
    for seed, (model, weights, span) in enumerate(
        [(SINE, "int16", 3000), (WIDE, "int16", 32767), (SEPARABLE, "int8", 127)], start=62000
    )
]

PRIVATE: list[dict[str, Any]] = [
    {"model": model, "weights": weights, "encoding": weights, "seed": seed, "beta": 0.0, "span": span, **privacy}
    for seed, (model, weights, span, privacy) in enumerate(
        [
            (SINE, "int16", 300, {"clip": 0.25, "noise": 0.5}),
            (SINE, "int16", 3, {"clip": 2.0, "noise": 0.0001}),  # nothing to clip, and hardly any noise
            (WIDE, "int16", 32767, {"clip": 1.3, "noise": 1.3}),
            (SEPARABLE, "int8", 127, {"clip": 0.3, "noise": 1.0}),
            (STRIDES, "int8", 9, {"clip": 7.5, "noise": 0.002}),
        ],
        start=62000,
    )
]

# Of noise of a span around a level: a silent start, extremes, and what is hardly there.
SOUNDS = [[0, 0], [32767, 0], [3000, 8192], [0, -32768], [32767, -32768], [400, 0], [30, 0], [4, 0], [0, 0], [900, 0]]
FEATURES: list[dict[str, Any]] = [
    {
        "rate": rate,
        "frame": frame,
        "bands": bands,
        "low": low,
        "high": high,
        "gain": gain,
        "seed": seed,
        "sounds": SOUNDS,
    }
    for seed, (rate, frame, bands, low, high, gain) in enumerate(
        [
            (8000, 256, 20, 20, 4000, 4),  # the stream's front-end
            (8000, 256, 20, 20, 4000, 0),
            (8000, 256, 31, 0, 3500, 2),
            (8000, 64, 8, 100, 4000, 0),
            (8000, 128, 13, 20, 4000, 1),
            (16000, 512, 40, 20, 7600, 0),
            (16000, 512, 10, 0, 8000, 8),
            (11025, 256, 24, 33, 5000, 3),
        ],
        start=70000,
    )
]

# Texts, one key a map and floats of few bits: what every JSON reader hands out alike.
PACKING: list[Any] = [
    *(None, True, False, 0, 127, 128, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, (1 << 64) - 1),
    *(-1, -32, -33, -128, -129, -32768, -32769, -(1 << 31), -(1 << 31) - 1, -(1 << 63)),
    *(
        0.5,
        -2.25,
        2.0**100,
        "",
        "text",
        "ä€",
        "x" * 32,
        "x" * 256,
        [],
        [1] * 16,
        [[1, [2, []]]],
        {},
        {"key": [1, None]},
    ),
]
READING: list[Any] = [*PACKING, {"a": 1, "b": {"c": 2}, "d": [3]}, 0.1]

MESSAGES: list[tuple[str, Any]] = [
    ("STATUS", {"protocol": messages.PROTOCOL, "state": "online", "boot": "0011aabb", "role": "train", "inputs": 1,
                "ram": 123456}),
    ("MANIFEST", {"protocol": messages.PROTOCOL, "version": 7, "model": SINE, "weights": "int8", "encoding": "int8",
                  "bytes": 1159, "crc": 4294967295}),
    ("PIECE", {"version": 7, "crc": 1, "data": bytes(range(100))}),
    ("WORK", {"work": 9, "version": 7, "crc": 1, "from": 6, "data": bytes(range(100)), "done": 8}),
    ("WORK", {"work": 9, "at": 1000, "data": bytes(range(100))}),
    ("WORK", {"done": 9, "refused": "the work is not known"}),
    ("TASK", {"kind": "train", "seconds": 30, "steps": 32, "beta": 0.0078125, "bits": 8, "kept": 115}),
    ("UPDATE", {"work": 9, "version": 7, "gains": [65536, 1], "data": b"\x00\xff"}),
    ("UPDATE", {"work": 9, "chunks": 3, "part": 2, "data": b"\x00\xff"}),
    ("FOUND", {"work": 9, "evaluation": {"version": 7, "before": 2.5, "after": 0.5, "queries": 9}}),
]  # fmt: skip


def main() -> None:
    """Compute and write."""
    if RUNNER != "python":
        raise SystemExit("set TINYREPTILE_NUMBA=0: golden vectors come from plain Python")
    vectors: dict[str, list[dict[str, Any]]] = {
        "learning": LEARNING,
        "batches": BATCHES,
        "deltas": DELTAS,
        "differences": DIFFERENCES,
        "private": PRIVATE,
        "features": FEATURES,
        "packing": [{"value": value} for value in PACKING],
        "reading": [{"packed": msgpack.packb(value).hex()} for value in READING],
        "messages": [{"kind": kind, "packed": msgpack.packb(value).hex()} for kind, value in MESSAGES],
    }
    for kind, cases in vectors.items():
        for case in cases:
            case["expected"] = check.RUN[kind](case)
    for case, value in zip(vectors["packing"], PACKING, strict=True):
        assert case["expected"] == msgpack.packb(value).hex()
    lines = [json.dumps([kind, case]) + "\n" for kind, cases in vectors.items() for case in cases]
    Path(__file__).with_name("vectors.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    main()
