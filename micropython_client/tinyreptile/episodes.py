"""A piece of training on a learner and a stream.

A coroutine, because streams wait for their samples and a device's network wants its turn: ``pause`` is awaited after
every sample.
"""

from .streams import TRAIN


async def no_pause():
    """Nobody else waits for a turn."""


async def train(learner, stream, steps, pause=no_pause):
    """``steps`` one-sample SGD steps on new samples; returns their mean loss, each taken before its step."""
    x, y = learner.x, learner.y
    stream.begin(TRAIN)
    total = 0.0
    for _ in range(steps):
        await stream.sample(x, y)
        total += learner.step(x, y)
        await pause()
    return total / steps
