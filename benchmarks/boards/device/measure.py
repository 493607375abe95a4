"""Measures a learner on the board that runs this: prints a line of JSON.

Time is in ticks of `clock`, which the host calls cycles or instructions. Memory is bisected: so many bytes are taken
away before, in pieces, until the learner can't be made or a step fails.
"""

import gc
import json
import struct
import time
from array import array

from machine import mem32

PIECE = 240  # bytes of what is taken away at once


class Clock:
    """The SysTick of a Cortex-M; the port's own clock, where there is one, counts how often its 24 bits ran over."""

    def __init__(self, megahertz):
        self.megahertz = megahertz
        mem32[0xE000E014] = 0xFFFFFF
        mem32[0xE000E018] = 0
        mem32[0xE000E010] = 5  # on, from the processor's clock
        self.overhead = 0
        self.overhead = self.time(lambda: None)

    def time(self, work):
        """Ticks that ``work()`` takes."""
        gc.collect()
        begun = time.ticks_us() if self.megahertz else 0
        start = mem32[0xE000E018]
        work()
        ticks = (start - mem32[0xE000E018]) & 0xFFFFFF
        if self.megahertz:
            ticks += (time.ticks_diff(time.ticks_us(), begun) * self.megahertz - ticks + (1 << 23)) >> 24 << 24
        return ticks - self.overhead


class Case:
    """One network, format and way of learning, from the host's description."""

    def __init__(self, description):
        self.spec = description["model"]
        self.weights = description["weights"]
        self.stored = description["stored"]  # samples; 0: learns online
        self.batch = description["batch"]  # samples of a mini-batch; 0: learns online
        self.beta = description["beta"]
        with open(description["initialization"], "rb") as file:
            self.initialization = file.read()
        with open(description["samples"], "rb") as file:
            self.samples = file.read()

    def make(self, stored):
        """A learner that has loaded the initialization; it has room for so many ``stored`` samples."""
        from tinyreptile.model import Model

        model = Model(self.spec, self.weights)
        if stored:
            from tinyreptile.batch import BatchLearner

            learner = BatchLearner(model, stored, 1, self.weights)
        else:
            from tinyreptile.learner import Learner

            learner = Learner(model, 1, self.weights)
        learner.set_rate(self.beta)
        learner.wire[:] = self.initialization
        learner.receive()
        learner.load()
        return learner

    def take(self, learner, number):
        """Sample ``number`` into the learner's own buffers."""
        size = 2 * (len(learner.x) + len(learner.y))
        at = number * size % len(self.samples)
        for i in range(len(learner.x)):
            learner.x[i] = struct.unpack_from("<h", self.samples, at + 2 * i)[0]
        at += 2 * len(learner.x)
        for i in range(len(learner.y)):
            learner.y[i] = struct.unpack_from("<h", self.samples, at + 2 * i)[0]

    def learn_once(self):
        """As little as takes all the memory that learning takes."""
        learner = self.make(self.stored)
        self.take(learner, 0)
        if self.stored:
            learner.store(learner.x, learner.y)
            learner.train(1, 1)
        else:
            learner.step(learner.x, learner.y)
        learner.delta(8).pack(0, bytearray(256))


def left_for(work, wanted):
    """Bytes that are free when all but about ``wanted`` are taken, if they are enough for ``work()``; else None."""
    taken = None
    gc.collect()
    try:
        for _ in range((gc.mem_free() - wanted) // (PIECE + 32)):
            taken = (taken, bytearray(PIECE))  # with 16 bytes of either
        gc.collect()
        free = gc.mem_free()
        work()
    except MemoryError:
        return None
    return free


def bisect(work):
    """Bytes of heap that ``work()`` needs, to a piece."""
    work()  # what it imports is not counted
    gc.collect()
    least, most = 0, gc.mem_free()
    need = most
    while most - least > PIECE:
        middle = (least + most) // 2
        left = left_for(work, middle)
        if left is None:
            least = middle
        else:
            most = middle
            need = left
    return need


def memory(path):
    """Measure the heap that the case in the file ``path`` needs. What this leaves of the heap is in pieces."""
    with open(path) as file:
        case = Case(json.load(file))
    try:
        ram = bisect(case.learn_once)
    except MemoryError:
        ram = None  # there is not so much
    print(json.dumps({"ram": ram}))


def speed(path):
    """Measure the time that the parts of the case in the file ``path`` take."""
    with open(path) as file:
        description = json.load(file)
    clock = Clock(description["megahertz"])
    case = Case(description)
    result = {}
    learner = case.make(case.batch)
    result["stated"] = learner.model.ram(case.stored)
    result["load"] = clock.time(lambda: (learner.receive(), learner.load()))
    count = description["count"]
    spans = []
    forwards = []
    if case.stored:
        spans.append(0)
        for number in range(case.batch):
            case.take(learner, number)
            spans[0] += clock.time(lambda: learner.store(learner.x, learner.y))
        result["store"] = spans[0] / case.batch
        result["sample"] = clock.time(lambda: learner.train(case.batch, 1)) / case.batch
    else:
        for number in range(count):
            case.take(learner, number)
            forwards.append(clock.time(lambda: learner.predict(learner.x)))
            case.take(learner, number)
            spans.append(clock.time(lambda: learner.step(learner.x, learner.y)))
        result["forward"] = sum(forwards) / count
        result["sample"] = sum(spans) / count
    piece = bytearray(1024)

    def pack():
        delta = learner.delta(description["bits"])
        for start in range(0, delta.size, len(piece)):
            delta.pack(start, piece)

    pack()  # what it imports is not counted
    result["delta"] = clock.time(pack)
    print(json.dumps(result))


def plain(path):
    """The same of the dense network in floats."""
    from plain import Plain

    with open(path) as file:
        description = json.load(file)
    clock = Clock(description["megahertz"])
    case = Case(description)
    classes = case.spec[-1][0] == "cross_entropy"
    sizes = [case.spec[0][1]] + [item[1] for item in case.spec[1:-1]]
    cells = array("h", case.samples[: 2 * (sizes[0] + (1 if classes else sizes[-1]))])
    x = [cell / 1024 for cell in cells[: sizes[0]]]
    y = cells[sizes[0]] if classes else [cell / 1024 for cell in cells[sizes[0] :]]

    def learn_once():
        Plain(sizes, classes).step(x, y, case.beta)

    result = {}
    result["ram"] = bisect(learn_once)
    network = Plain(sizes, classes)
    result["forward"] = clock.time(lambda: network.forward(x))
    result["sample"] = clock.time(lambda: network.step(x, y, case.beta))
    print(json.dumps(result))
