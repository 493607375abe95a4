"""Numba's cache of compiled kernels on CPython, as something that may fail: boards never load it.

Numba itself raises where its folder is full or read-only, out of whatever kernel was called.
"""

import logging
import pickle

from numba.core.caching import FunctionCache

_log = logging.getLogger(__name__)

_warned = False


class _Cache(FunctionCache):
    """A cache that finds nothing where it can't be read, and keeps nothing where it can't be written."""

    def load_overload(self, sig, target_context):
        """Return what was compiled for ``sig``, or None."""
        try:
            return FunctionCache.load_overload(self, sig, target_context)
        except (OSError, EOFError, pickle.UnpicklingError):
            try:
                self.flush()  # a damaged index would be in the way of what is kept next
            except OSError:
                pass
            return None

    def save_overload(self, sig, data):
        """Keep what was compiled for ``sig`` if that is possible."""
        try:
            FunctionCache.save_overload(self, sig, data)
        except OSError as error:
            _warn("%s in %s" % (error.strerror, self.cache_path))


def keep(dispatcher):
    """Let numba's ``dispatcher`` take what it compiles from the cache and put it there, where there is one."""
    try:
        dispatcher._cache = _Cache(dispatcher.py_func)
    except RuntimeError:
        _warn("no folder can be written")
    return dispatcher


def _warn(reason):
    global _warned
    if not _warned:
        _log.warning(
            "what numba compiles can't be kept (%s), so that every process compiles it anew; "
            "let NUMBA_CACHE_DIR name a folder that can be written and has 10 MB free",
            reason,
        )
        _warned = True
