"""A piece of evaluation on a learner and a stream: adaptation, with a look before and after.

A device that only trains never loads it. `episodes` says what ``pause`` is.
"""

from .episodes import no_pause
from .streams import QUERY, SUPPORT


async def adapt(learner, stream, steps, shots, pause=no_pause):
    """``steps`` one-sample SGD steps that go over ``shots`` support samples again and again."""
    x, y = learner.x, learner.y
    for step in range(steps):
        if step % shots == 0:
            stream.begin(SUPPORT)
        await stream.sample(x, y)
        learner.step(x, y)
        await pause()


async def query(learner, stream, queries, pause=no_pause):
    """(mean loss, queries of each class, those predicted right) over ``queries`` query samples; nothing is learned."""
    x, y = learner.x, learner.y
    classes = learner.model.outputs if learner.model.loss == "cross_entropy" else 0
    seen = [0] * classes
    hits = [0] * classes
    total = 0.0
    stream.begin(QUERY)
    for _ in range(queries):
        await stream.sample(x, y)
        loss, label = learner.evaluate(x, y)
        total += loss
        if classes:
            seen[y[0]] += 1
            if label == y[0]:
                hits[label] += 1
        await pause()
    return total / queries, seen, hits


async def evaluate(learner, stream, steps, shots, queries, pause=no_pause):
    """Query loss before and after adaptation, as an evaluation message's fields; with classes, counts of each too."""
    before, seen, hits_before = await query(learner, stream, queries, pause)
    await adapt(learner, stream, steps, shots, pause)
    after, _, hits_after = await query(learner, stream, queries, pause)
    evaluation = {"before": before, "after": after, "queries": queries}
    if seen:
        evaluation["seen"] = seen
        evaluation["hits_before"] = hits_before
        evaluation["hits_after"] = hits_after
    return evaluation
