"""Holds the library that runs this script against golden vectors: bits must be equal everywhere.

    python check.py vectors.jsonl
    micropython check.py vectors.jsonl

Prints each difference, then "ok" or the number of differences; the exit code says the same. Portable: MicroPython of
32 and 64 bits, from 1.24 on, and CPython. `generate.py` writes the vectors with plain Python.
"""

import gc
import json
import sys
from binascii import crc32, hexlify, unhexlify

from tinyreptile import messages, plan, portable, reports
from tinyreptile.batch import BatchLearner
from tinyreptile.coding import Coded
from tinyreptile.delta import Delta
from tinyreptile.learner import Learner
from tinyreptile.mel import LogMel, middle, push
from tinyreptile.model import Model
from tinyreptile.msgpack import Packer, unpackb
from tinyreptile.privacy import Privacy
from tinyreptile.sparse_delta import SparseDelta
from tinyreptile.unpacking import unpack


def numbers(seed):
    """Integers from 0 to 65535, without an end, the same everywhere (a linear congruential generator)."""
    state = seed
    while True:
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        yield state >> 16


def cells(size, count, span, source):
    """``count`` values of ``size`` bytes from -span to span as a bytearray."""
    result = bytearray(size * count)
    for i in range(count):
        value = next(source) % (2 * span + 1) - span
        for byte in range(size):
            result[size * i + byte] = value >> (8 * byte) & 0xFF
    return result


def scales(model, source):
    """Fraction bits of each tensor, 4 to 12."""
    return [4 + next(source) % 9 for _ in model.offsets]


def begin(learner, case, source):
    """Give the learner an initialization of the case's encoding."""
    model = learner.model
    at = 0
    if case["encoding"] == "int8":
        for fraction in scales(model, source):
            learner.wire[at] = fraction
            at += 1
    size = 1 if case["encoding"] == "int8" else 2
    learner.wire[at:] = cells(size, model.parameters, case["span"], source)
    learner.receive()
    learner.load()
    learner.set_rate(case["beta"])


def draw_sample(model, case, source, x, y):
    """Fill ``x``, one cell in four with a zero, and ``y``."""
    for i in range(model.inputs):
        value = next(source)
        x[i] = value % (2 * case["inputs"] + 1) - case["inputs"] if value & 3 else 0
    if model.loss == "cross_entropy":
        y[0] = ((x[0] > 0) + (x[1] > x[2])) % model.outputs
    else:
        for i in range(model.outputs):
            y[i] = min(32767, ((x[0] * x[0]) >> 10) - 700 * i)


def learn(case):
    """Losses and checksums of a training."""
    model = Model(case["model"], case["weights"])
    learner = Learner(model, case["seed"], case["encoding"])
    source = numbers(case["seed"])
    begin(learner, case, source)
    x, y = learner.x, learner.y
    losses = []
    checksums = []
    total = 0  # of ints: a board's floats may be short
    for step in range(case["steps"]):
        draw_sample(model, case, source, x, y)
        total += learner._kernels.step(learner._p, learner._w, learner._w, learner._a, learner._s, learner._y)
        if (step + 1) % case["every"] == 0:
            losses.append(total)
            checksums.append(crc32(learner.weights) & 0xFFFFFFFF)
            total = 0
    return {
        "rate": [learner._plan[plan.RATE], learner._plan[plan.RATE_SHIFT]],
        "ram": model.ram(),
        "losses": losses,
        "checksums": checksums,
        "outputs": list(learner.predict(x)),
    }


def learn_batches(case):
    """Checksums of a training on stored samples."""
    model = Model(case["model"], case["weights"])
    learner = BatchLearner(model, case["shots"], case["seed"], case["encoding"])
    source = numbers(case["seed"])
    begin(learner, case, source)
    for _ in range(case["shots"]):
        draw_sample(model, case, source, learner.x, learner.y)
        learner.store(learner.x, learner.y)
    checksums = []
    for _ in range(case["epochs"]):
        learner.train(case["batch"], 1)
        checksums.append(crc32(learner.weights) & 0xFFFFFFFF)
    return {"ram": learner.ram(), "checksums": checksums}


def pack_delta(case):
    """Gains and bytes of a delta, packed in pieces, and what unpacks from them."""
    model = Model(case["model"], case["weights"])
    source = numbers(case["seed"])
    size = 1 if case["weights"] == "int8" else 2
    base = cells(size, model.parameters, case["span"], source)
    weights = cells(size, model.parameters, case["span"], source)
    fractions = scales(model, source) if size == 1 else [12] * len(model.offsets)
    what = model, weights, base, fractions, case["bits"], case["seed"]
    delta = Delta(*what) if case["kept"] is None else SparseDelta(*what, case["kept"])
    packed = bytearray(delta.size)
    piece = bytearray(case["piece"])
    start = 0
    while start < delta.size:
        size = delta.pack(start, piece)
        packed[start : start + size] = memoryview(piece)[:size]
        start += size
    values = unpack(model, packed, case["bits"], delta.gains, case["kept"])
    result = {
        "gains": delta.gains,
        "size": delta.size,
        "checksum": crc32(packed) & 0xFFFFFFFF,
        "first": text(memoryview(packed)[:16]),
        "halves": sum(int(value * 2) * (i % 7 + 1) for i, value in enumerate(values)),
    }
    del values, packed  # a board's heap has no room for them and a chunk
    coded = Coded(delta)
    result["chunks"] = []
    for index in range(len(coded.sizes)):
        chunk = bytearray(coded.sizes[index])
        coded.pack(index, memoryview(chunk))
        result["chunks"].append(crc32(chunk) & 0xFFFFFFFF)
    return result


def protect(case):
    """Checksum of weights that were clipped and had noise added, and how many random bytes that took."""
    model = Model(case["model"], case["weights"])
    learner = Learner(model, case["seed"], case["encoding"])
    source = numbers(case["seed"])
    begin(learner, case, source)
    size = 1 if case["weights"] == "int8" else 2
    learner.weights[:] = cells(size, model.parameters, case["span"], source)
    taken = [0]

    def random(count):
        taken[0] += count
        return bytes([next(source) >> 8 for _ in range(count)])

    async def no_pause():
        pass

    privacy = Privacy(case["clip"], case["noise"], source=random)
    try:
        privacy.protect(learner, no_pause).send(None)
    except StopIteration:
        return {"weights": crc32(learner.weights) & 0xFFFFFFFF, "random": taken[0]}
    raise RuntimeError("it waits, and nothing is to wait for")


def hear(case):
    """Checksums of tables, features and inputs of the sounds that a microphone's driver hands over."""
    frame, bands = case["frame"], case["bands"]
    hop = frame * 5 // 8
    log_mel = LogMel(case["rate"], frame, bands, case["low"], case["high"])
    log_mel.normal([6000 + 300 * i for i in range(bands)], [600 + 400 * i for i in range(bands)])
    source = numbers(case["seed"])
    samples = portable.view16(portable.zeros("H", frame))
    rows = len(case["sounds"])
    features, inputs = portable.zeros("H", rows * bands), portable.zeros("h", rows * bands)
    loudness = []
    for row, (span, level) in enumerate(case["sounds"]):
        raw = cells(2, 2 * hop, span, source)
        for i in range(3, 4 * hop, 4):
            raw[i] = (raw[i] + (level >> 8)) & 0xFF  # the highest byte of every 32-bit sample
        push(samples, portable.view16(raw), frame << 16 | hop, case["gain"])
        loudness.append(log_mel.features(samples, portable.view16(features), row))
    moved = middle(loudness)
    for row in range(rows):
        log_mel.normalize(portable.view16(features), min(max(row + moved, 0), rows - 1), portable.view16(inputs), row)
    return {
        "tables": crc32(log_mel.tables) & 0xFFFFFFFF,
        "loudness": loudness,
        "features": crc32(features) & 0xFFFFFFFF,
        "moved": moved,
        "inputs": crc32(inputs) & 0xFFFFFFFF,
    }


def change(case):
    """Checksum of an initialization that coded differences were added to, in pieces, and the cells they end at."""
    learner = Learner(Model(case["model"], case["weights"]), 1, case["weights"])
    source = numbers(case["seed"])
    size = 1 if case["weights"] == "int8" else 2
    learner.initialization[:] = cells(size, learner.model.parameters, case["span"], source)
    codes = bytes((next(source) % 9 if size == 2 else 0) * 16 + next(source) % 4 for _ in learner.model.offsets)
    ends = [0]
    while ends[-1] < learner.model.parameters:
        data = bytearray(82)
        for i in range(82):
            data[i] = next(source) & 255
        data[0] = 40  # of the first part
        data[1] = 0
        ends.append(learner.change(ends[-1], codes, memoryview(data)))
    return {"ends": ends, "checksum": learner.crc()}


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
    module = messages if hasattr(messages, case["kind"]) else reports
    messages.check(getattr(module, case["kind"]), value)
    return plain(value)


RUN = {
    "learning": learn,
    "batches": learn_batches,
    "deltas": pack_delta,
    "differences": change,
    "private": protect,
    "features": hear,
    "packing": lambda case: pack(case["value"]),
    "reading": lambda case: read(case["packed"]),
    "messages": read_message,
}


def main(path, every=1):
    """Run the file's cases, or of so many one; returns the number of differences."""
    print(
        "%s %s, %s"
        % (sys.implementation.name, ".".join(str(n) for n in sys.implementation.version[:3]), portable.RUNNER)
    )
    differences = 0
    count = 0
    with open(path) as file:
        for number, line in enumerate(file):
            if number % every:
                continue
            kind, case = json.loads(line)
            count += 1
            gc.collect()  # what is left of a case would lie between the next one's large buffers
            result = RUN[kind](case)
            if result != case["expected"]:
                differences += 1
                print("%s: %r gave %r" % (kind, case, result))
    print("ok, %d cases" % count if not differences else "%d of %d cases differ" % (differences, count))
    return differences


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1]) else 0)
