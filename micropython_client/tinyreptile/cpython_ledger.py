"""What a ledger of private updates needs of a computer, where there are other processes and caches of disks."""

import os

try:
    from fcntl import LOCK_EX, flock
except ImportError:  # Windows: several processes may not count on the same ledger
    flock = None


def lock(path):
    """Return a file that, until it is closed, lets no other process use the ledger ``path``; None if there is none.

    Who can't make one can't write the ledger either.
    """
    if not path or flock is None:
        return None
    try:
        file = open(path + ".lock", "w")
    except OSError:
        return None
    flock(file, LOCK_EX)
    return file


def sync(path):
    """Return once the file ``path``, and its name in its folder, would survive a power cut."""
    _flush(path, os.O_RDWR)
    if hasattr(os, "O_DIRECTORY"):  # where a folder can be opened
        _flush(os.path.dirname(path) or ".", os.O_RDONLY)


def _flush(path, mode):
    number = os.open(path, mode)
    try:
        os.fsync(number)
    finally:
        os.close(number)
