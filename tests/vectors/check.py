"""Holds the library that runs this script against golden vectors: bits must be equal everywhere.

    python check.py vectors.json
    micropython check.py vectors.json

Prints each difference, then "ok" or the number of differences; the exit code says the same. Portable: MicroPython of
32 and 64 bits, from 1.24 on, and CPython. `generate.py` writes the vectors with plain Python.
"""

import json
import sys
from binascii import crc32, hexlify, unhexlify

from tinyreptile import kernels, messages, portable
from tinyreptile.delta import Delta, unpack
from tinyreptile.learner import Learner
from tinyreptile.model import Model
from tinyreptile.msgpack import Packer, unpackb


def numbers(seed):
    """Integers from 0 to 65535, without an end, the same everywhere (a linear congruential generator)."""
    state = seed
    while True:
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        yield state >> 16


def cells(count, span, source):
    """``count`` int16 values from -span to span as a bytearray."""
    result = bytearray(2 * count)
    for i in range(count):
        value = next(source) % (2 * span + 1) - span
        result[2 * i] = value & 0xFF
        result[2 * i + 1] = value >> 8 & 0xFF
    return result


def learn(case):
    """Losses and checksums of a training."""
    model = Model(case["model"])
    learner = Learner(model, case["seed"])
    learner.set_rate(case["beta"])
    source = numbers(case["seed"])
    learner.initialization[:] = cells(model.parameters, case["weights"], source)
    learner.load()
    x, y = learner.x, learner.y
    losses = []
    checksums = []
    total = 0
    for step in range(case["steps"]):
        for i in range(model.inputs):
            x[i] = next(source) % (2 * case["inputs"] + 1) - case["inputs"]
        if model.loss == "cross_entropy":
            y[0] = (x[0] > 0) + (x[1] > x[2])
        else:
            for i in range(model.outputs):
                y[i] = min(32767, ((x[0] * x[0]) >> 10) - 700 * i)
        total += kernels.step(learner._p, learner._w, learner._a, learner._y)
        if (step + 1) % case["every"] == 0:
            losses.append(total)
            checksums.append(crc32(learner.weights) & 0xFFFFFFFF)
            total = 0
    return {
        "rate": [learner._plan[kernels.RATE], learner._plan[kernels.RATE_SHIFT]],
        "losses": losses,
        "checksums": checksums,
        "outputs": list(learner.predict(x)),
    }


def pack_delta(case):
    """Gains and bytes of a delta, packed in pieces, and what unpacks from them."""
    model = Model(case["model"])
    source = numbers(case["seed"])
    base = cells(model.parameters, case["weights"], source)
    weights = cells(model.parameters, case["weights"], source)
    delta = Delta(model, weights, base, case["bits"], case["seed"])
    packed = bytearray(delta.size)
    piece = bytearray(case["piece"])
    start = 0
    while start < delta.size:
        size = delta.pack(start, piece)
        packed[start : start + size] = memoryview(piece)[:size]
        start += size
    halves = sum(int(value * 2) for value in unpack(model, packed, case["bits"], delta.gains))
    return {
        "gains": delta.gains,
        "checksum": crc32(packed) & 0xFFFFFFFF,
        "first": text(memoryview(packed)[:16]),
        "halves": halves,
    }


def text(data):
    """``data`` in hexadecimal."""
    return hexlify(bytes(data)).decode()


def pack(value):
    """``value`` as MessagePack, in hexadecimal."""
    packer = Packer(bytearray(2048))
    packer.pack(value)
    return text(memoryview(packer.buffer)[: packer.length])


def read(packed):
    """The value in the hexadecimal ``packed``, binary as [its hexadecimal]."""
    return plain(unpackb(unhexlify(packed)))


def plain(value):
    if isinstance(value, memoryview):
        return [text(value)]
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(value[key]) for key in value}
    return value


def read_message(case):
    """A message of the protocol, read and checked."""
    value = unpackb(unhexlify(case["packed"]))
    messages.check(getattr(messages, case["kind"]), value)
    return plain(value)


RUN = {
    "learning": learn,
    "deltas": pack_delta,
    "packing": lambda case: pack(case["value"]),
    "reading": lambda case: read(case["packed"]),
    "messages": read_message,
}


def main(path):
    """Run all cases of the file; returns the number of differences."""
    with open(path) as file:
        vectors = json.load(file)
    print(
        "%s %s, %s"
        % (sys.implementation.name, ".".join(str(n) for n in sys.implementation.version[:3]), portable.RUNNER)
    )
    differences = 0
    count = 0
    for kind in sorted(vectors):
        for case in vectors[kind]:
            count += 1
            result = RUN[kind](case)
            if result != case["expected"]:
                differences += 1
                print("%s: %r gave %r" % (kind, case, result))
    print("ok, %d cases" % count if not differences else "%d of %d cases differ" % (differences, count))
    return differences


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1]) else 0)
