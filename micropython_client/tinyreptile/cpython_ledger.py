"""What a ledger of private updates needs of a computer, where there are other processes and caches of disks."""

import os
from fcntl import LOCK_EX, flock


def lock(path):
    """Return a file that, until it is closed, lets no other process count on the ledger ``path``; None without one."""
    if not path:
        return None
    file = open(path + ".lock", "w")
    flock(file, LOCK_EX)
    return file


def sync(path):
    """Return once the file ``path``, and its name in its folder, would survive a power cut."""
    for name in (path, os.path.dirname(path) or "."):
        number = os.open(name, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
