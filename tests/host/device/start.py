"""A board's first moments, on MicroPython's unix port: its own root folder, and the module ``machine`` of a board.

Arguments: the folder that is its flash, and what to do: "run" boot.py and main.py, or "repl".
"""

import os
import sys

import vfs

flash, task, here = sys.argv[1:4]
with open(here + "/repl.py") as file:
    repl = file.read()


class Flash:
    """The files below the folder ``root``: VfsPosix with a root of its own mixes up the two paths of a renaming."""

    def __init__(self, root):
        self._files = vfs.VfsPosix()
        self._root = root
        for name in ("mkdir", "remove", "rmdir", "stat", "statvfs", "ilistdir"):
            setattr(self, name, lambda path, do=getattr(self._files, name): do(self._path(path)))

    def mount(self, readonly, mkfs):
        pass

    def umount(self):
        pass

    def chdir(self, path):
        pass

    def getcwd(self):
        return "/"

    def open(self, path, mode):
        return self._files.open(self._path(path), mode)

    def rename(self, old, new):
        self._files.rename(self._path(old), self._path(new))

    def _path(self, path):
        return self._root + "/" + path.lstrip("/")


vfs.umount("/")
vfs.mount(Flash(flash), "/")
os.chdir("/")
sys.path[:] = ["", ".frozen", "/lib"]


class Machine:
    """What a board's ``machine`` has that the unix port's has not."""

    WDT_RESET = 3

    def reset(self):
        sys.exit(99)

    def reset_cause(self):
        return 1

    def unique_id(self):
        return b"\x01\x02\x03\x04"

    class WDT:
        def __init__(self, timeout):
            pass

        def feed(self):
            pass


sys.modules["machine"] = Machine()
if task == "repl":
    exec(repl, {"__name__": "repl"})
else:
    for name in ("boot.py", "main.py"):
        try:
            with open(name) as file:
                code = file.read()
        except OSError:
            continue
        sys.argv[:] = [name]
        exec(code, {"__name__": "__main__"})
