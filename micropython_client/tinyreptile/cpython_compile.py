"""Compiling all kernels on CPython before somebody waits for one of them: boards never load it.

What is compiled is kept in numba's cache. From several processes that begin at once, one compiles, the others take it
from there.
"""

import asyncio
import os
from contextlib import ExitStack, contextmanager
from threading import Lock, Timer

from .learner import Learner, kernels_for, wire_for
from .model import FRACTION, WEIGHT_BITS, Model
from .portable import RUNNER
from .privacy import Privacy, noise_for
from .sparse_delta import sparse_for

try:
    import fcntl
except ImportError:  # Windows: several processes may compile the same
    fcntl = None

_PATIENCE = 2.0  # seconds of compiling until it is logged

# With layers of every kind.
_SPEC = [
    ["input", 2, 2, 1],
    ["conv2d", 1, 1, 1, 0],
    ["depthwise2d", 1, 1, 0],
    ["average"],
    ["dense", 1],
    ["squared_error"],
]

_lock = Lock()
_compiled = set()


def compile_kernels(weights, log=None):
    """Compile all kernels for "int16" or "int8" ``weights``, unless they are in the cache; without numba, do nothing.

    ``log`` is called with a sentence if it takes more than a moment.
    """
    with _lock:
        if RUNNER != "numba" or weights in _compiled or weights not in WEIGHT_BITS:
            return
        timer = Timer(_PATIENCE, log or _nobody, ("compiling the kernels for %s weights" % weights,))
        timer.daemon = True
        timer.start()
        try:
            with _alone(weights):
                _call_all(weights)
        finally:
            timer.cancel()
        _compiled.add(weights)


async def compiled(weights, log=None):
    """Return once `compile_kernels` has done its work, in a thread: the event loop goes on."""
    if RUNNER == "numba" and weights not in _compiled:
        await asyncio.to_thread(compile_kernels, weights, log)


def progress(weights):
    """Return (how many kernels for ``weights`` this process has, how many there are) while it compiles, else None."""
    kernels = _kernels(weights)
    if weights in _compiled or not any(sum(kernel.stats.cache_misses.values()) for kernel in kernels):
        return None  # nothing is left to do, or all of it has come from the cache so far
    return sum(bool(kernel.signatures) for kernel in kernels), len(kernels)


def _kernels(weights):
    """All kernels for ``weights`` that numba compiles by themselves."""
    found = {}  # by identity: some are in two modules
    for module in (kernels_for(weights), wire_for(weights), sparse_for(weights), noise_for(weights)):
        for function in vars(module).values():
            if hasattr(function, "signatures") and function.targetoptions["inline"] == "never":
                found[id(function)] = function
    return list(found.values())


@contextmanager
def _alone(weights):
    """Wait for other processes that compile the same, where there is a cache to take it from afterwards."""
    with ExitStack() as stack:
        folder = kernels_for(weights).step.stats.cache_path
        if fcntl and folder:
            try:
                file = stack.enter_context(open(os.path.join(folder, "compiling-%s.lock" % weights), "a"))
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                pass
        yield


def _call_all(weights):
    """Call every kernel for ``weights`` with arguments of the types that it is called with ever after."""
    model = Model(_SPEC, weights)
    learner = Learner(model, encoding="int8")
    tensors = len(model.offsets)
    learner.wire[:tensors] = bytes([FRACTION] * tensors)
    learner.receive()
    learner.step(learner.x, learner.y)
    learner.evaluate(learner.x, learner.y)
    learner.load()
    learner.weights[:] = bytes([100] * len(learner.weights))  # a change that is clipped
    for kept in (None, 1):
        delta = learner.delta(8, kept)
        delta.pack(0, bytearray(delta.size))
    try:
        Privacy(0.001, 1.0).protect(learner, _nobody_waits).send(None)
    except StopIteration:
        pass


async def _nobody_waits():
    """Nobody waits for a turn."""


def _nobody(text):
    """Nobody reads ``text``."""
