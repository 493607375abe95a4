"""From a run's manifest to a learner of its model, or to what stands in the way. A board forgets it after."""

import gc

from .learner import Learner, wire_bytes, wire_for
from .messages import TRAIN
from .model import Model
from .portable import collect, const, forget

# Bytes that a board keeps for everything but the model's buffers; this module's own come on top once it is forgotten.
_SPARE_RAM = const(3072)


def prepare(manifest, stream, role, ram, privacy=None):
    """(bytes free for a model, its learner, None), or (bytes free, None, what stands in the way).

    ``ram`` is how much a model may take, None: what the heap has free; where nobody knows, None bytes are free.
    ``privacy`` is the `privacy.Privacy` of a device whose updates are to be private.
    """
    free = _free_ram() if ram is None else ram
    model = learner = None
    try:
        model = Model(manifest["model"], manifest["weights"])
        unfit = _obstacle(manifest, model, stream, free)
    except ValueError as error:  # ModelError among them
        unfit = "this device does not know the model: %s" % error
    forget("layers")
    forget("shifts")
    if not unfit:
        collect()
        learner = Learner(model, encoding=manifest["encoding"])  # its buffers are large: they come before what is small
    _load_tools(manifest, role, privacy)
    return free, learner, unfit


def _load_tools(manifest, role, privacy):
    """What work will need: it must not come upon a memory that something else has filled."""
    if role == TRAIN:
        from . import coding, delta  # noqa: F401

        wire_for(manifest["weights"])
        if privacy:
            privacy.load(manifest["weights"])
    else:
        from . import evaluation  # noqa: F401


def _free_ram():
    if not hasattr(gc, "mem_free"):
        return None
    gc.collect()
    return max(0, gc.mem_free() - _SPARE_RAM)


def _obstacle(manifest, model, stream, free):
    """Why ``model`` is nothing for the ``stream``, or for the bytes that are ``free``; or None."""
    if (stream.inputs, stream.outputs) != (model.inputs, model.outputs):
        return "the stream has %d inputs and %d outputs, the model %d and %d" % (
            stream.inputs,
            stream.outputs,
            model.inputs,
            model.outputs,
        )
    size = wire_bytes(model, manifest["encoding"])
    if manifest["bytes"] != size:
        return "the initialization has %d bytes, not %d" % (manifest["bytes"], size)
    if free is not None and model.ram() > free:
        return "the model needs %d bytes of RAM, the device has %d" % (model.ram(), free)
    return None
