"""A device from its configuration file: it joins the run that the file names and stays with it.

On a computer it ends with a process's exit code; on a board, `board` goes on from there.
"""

import gc
import sys

from .learner import kernels_for
from .log import Log, show
from .portable import RUNNER, forget


class ConfigError(Exception):
    """A configuration that can't be used; the text names the key."""


class DeviceError(Exception):
    """The device can't take part; the text says why and what to do."""


RESTART = 75  # exit code: a new version waits for the next start


def run(path, board=None, notice=None):
    """Run the device of the configuration ``path`` until it is stopped; returns whether it wants to be started anew.

    ``board`` is the module of that name where this is one; ``notice`` is what the device's status is to say. Raises
    `ConfigError`.
    """
    client, watch = _make(path, board, notice)
    forget("build")
    gc.collect()  # what was read to get here must not lie between what stays and a model's buffers
    import asyncio

    async def live():
        if RUNNER != "micropython":
            from . import cpython

            cpython.watch()
        guard = asyncio.create_task(watch.run()) if watch else None
        try:
            await client.run()
        finally:
            if guard:
                guard.cancel()

    try:
        asyncio.run(live())
        return True
    except KeyboardInterrupt:
        show("%s: %d accepted, %d refused, %d expired" % (client.id, client.accepted, client.refused, client.expired))
        return False


def _make(path, board, notice):
    """The client that the configuration ``path`` describes, and what watches it where this is a board."""
    _collect_at(1024)
    from .settings import load_config

    config = load_config(path)
    del load_config
    forget("settings")
    log = Log(config["id"])
    if board:
        board.recall(log)
    # MicroPython compiles the kernels while little else is loaded: for a moment that takes more than anything after it.
    gc.collect()
    kernels_for(config["weights"])
    if RUNNER == "numba":
        from .cpython_compile import compile_kernels

        compile_kernels(config["weights"], log)
    from .build import make_client

    # What it keeps lies beside its configuration, from whatever folder it is started.
    client = make_client(config, log, notice, path[: path.rfind("/") + 1])

    def joined():
        _collect_at(-1)
        if board and not client.unfit:
            board.keep(path)

    client.on_joined = joined
    return client, board.watch(config, client) if board else None


def main(path):
    """Run the device until it is stopped; returns a process's exit code, on a board None.

    On a computer, the module of a stream of your own may be in the configuration's folder.
    """
    if _is_board():
        from . import board

        return board.main(path, run)
    sys.path.append(path.rpartition("/")[0] or ".")
    try:
        return RESTART if run(path) else 0
    except KeyboardInterrupt:  # before there was anything to count
        return 0
    except Exception as error:
        if not isinstance(error, (ConfigError, DeviceError)):
            raise
        show("error: %s" % error)
        return 1


def _collect_at(size):
    """Collect garbage whenever ``size`` bytes were taken; -1: when memory is full.

    Often, while what stays is loaded: then it lies close together, and leaves large pieces free.
    """
    if hasattr(gc, "threshold"):
        gc.threshold(size)


def _is_board():
    """Whether this runs on a board, by itself."""
    try:
        from machine import reset  # noqa: F401
    except ImportError:
        return False
    return True
