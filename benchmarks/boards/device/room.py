"""What the client takes of the heap, part after part: each prints a line, and MicroPython its names' bytes after it."""

import gc
import sys

import micropython


def look(part):
    """Everything up to ``part`` is there."""
    gc.collect()
    print("part: %s: %d" % (part, gc.mem_alloc()))
    micropython.qstr_info()


def load(*names):
    """Modules of the library, one after the other; the later ones need the earlier."""
    for name in names:
        __import__("tinyreptile." + name)
        look(name)


def main(spec):
    """All that a round of training with the network ``spec`` needs, but for its coroutines."""
    look("MicroPython")
    import asyncio

    for name in ("Event", "Lock", "open_connection", "wait_for"):
        getattr(asyncio, name)
    look("asyncio")
    load("portable", "model", "learner", "log", "device")
    from tinyreptile.portable import THUMB, forget

    load("thumb" if THUMB else "loops", "kernels", "messages", "streams", "streams.sine", "connection", "mqtt")
    load("msgpack", "assembly", "episodes", "client", "wire", "delta", "coding")
    from tinyreptile.client import Client
    from tinyreptile.log import Log
    from tinyreptile.model import Model
    from tinyreptile.streams.sine import SineStream

    client = Client("board", "run", SineStream(1), log=Log("board"), commands=True, host="localhost", port=1883)
    look("the client's objects, MQTT's buffers")
    load("preparation", "shifts", "layers")
    model = Model(spec)
    look("the model")
    for name in ("preparation", "shifts", "layers"):
        forget(name)
    look("forgotten again")
    learner = sys.modules["tinyreptile.learner"].Learner(model)
    look("the learner")
    chunks = sys.modules["tinyreptile.coding"].Coded(learner.delta(8))
    look("a delta")
    return client, chunks
