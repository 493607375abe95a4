"""What privacy takes of MicroPython's heap: prints the bytes it is loaded in, and those that an update leaves behind.

micropython privacy_session.py MODEL WEIGHTS: a model list in JSON, and "int16" or "int8".
"""

import gc
import json
import sys

from tinyreptile import coding, delta, episodes  # noqa: F401 - a device has them in any case
from tinyreptile.learner import Learner, wire_for
from tinyreptile.model import FRACTION, Model
from tinyreptile.portable import forget

model = Model(json.loads(sys.argv[1]), sys.argv[2])
forget("layers")
forget("shifts")
learner = Learner(model, encoding=sys.argv[2])
wire_for(sys.argv[2])
for i in range(model.header_bytes()):
    learner.wire[i] = FRACTION
learner.receive()
learner.load()


def used():
    gc.collect()
    return gc.mem_alloc()


def protect():
    try:
        privacy.protect(learner, episodes.no_pause).send(None)
    except StopIteration:
        return
    raise RuntimeError("it waits for something")


before = used()
from tinyreptile.privacy import Privacy  # noqa: E402 - it is what is measured

privacy = Privacy(0.5, 2.0)
privacy.load(sys.argv[2])
loaded = used()
protect()
print(json.dumps({"loaded": loaded - before, "left": used() - loaded}))
