"""A piece of evaluation on a learner and a stream: adaptation, with a look before and after.

A device that only trains never loads it. `episodes` says what ``pause`` is.
"""

from .episodes import no_pause
from .streams import QUERY, SUPPORT, Cells, call, draw

COUNTED_CLASSES = 64  # of more, a message has no room for counts: losses alone are reported


async def adapt(learner, stream, steps, shots, pause=no_pause):
    """``steps`` one-sample SGD steps that go over ``shots`` support samples again and again."""
    x, y = Cells(learner.x, stream, "input"), Cells(learner.y, stream, "target")
    for step in range(steps):
        if step % shots == 0:
            call(stream, lambda: stream.begin(SUPPORT))
        await draw(stream, x, y)
        learner.step(learner.x, learner.y)
        await pause()


async def query(learner, stream, queries, pause=no_pause):
    """(mean loss, queries of each class, those predicted right) over ``queries`` query samples; nothing is learned."""
    x, y = Cells(learner.x, stream, "input"), Cells(learner.y, stream, "target")
    classes = learner.model.outputs if learner.model.loss == "cross_entropy" else 0
    seen = [0] * classes
    hits = [0] * classes
    total = 0.0
    call(stream, lambda: stream.begin(QUERY))
    for _ in range(queries):
        await draw(stream, x, y)
        loss, label = learner.evaluate(learner.x, learner.y)
        total += loss
        if classes:
            seen[y[0]] += 1
            if label == y[0]:
                hits[label] += 1
        await pause()
    return total / queries, seen, hits


async def evaluate(learner, stream, steps, shots, queries, pause=no_pause):
    """Query loss before and after adaptation, as an evaluation message's fields; of up to 64 classes counts, too."""
    before, seen, hits_before = await query(learner, stream, queries, pause)
    await adapt(learner, stream, steps, shots, pause)
    after, _, hits_after = await query(learner, stream, queries, pause)
    evaluation = {"before": before, "after": after, "queries": queries}
    if 0 < len(seen) <= COUNTED_CLASSES:
        evaluation["seen"] = seen
        evaluation["hits_before"] = hits_before
        evaluation["hits_after"] = hits_after
    return evaluation
