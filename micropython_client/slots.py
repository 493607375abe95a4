"""Two places for TinyReptile on a board, so that a version that does not come up gives way to the one before.

Its files lie in the folder ``a`` or ``b``, the number of the version in the file ``version`` among them. The file
``slot`` names the folder that has come up before. While a newer version is tried, ``trial`` names its folder, its
number and how many more starts it has to come up in; ``failed`` is the number of the last one that never did. These
files are replaced by renaming, so whenever the power fails there is the old content or the new one. Without them the
library is found where Python looks for it anyway.

`boot.py` calls `choose` at every start; who has installed a version calls `begin`, and who has come up `confirm`.
"""

import os

FOLDERS = ("a", "b")
TRIES = 3


_chosen = ""


def choose():
    """The folder to run the library from, or "" for none; a version on trial uses up one of its starts."""
    global _chosen
    _chosen = _choose()
    return _chosen


def running():
    """The number of the version that `choose` has chosen, 0 if that was none."""
    return _number(_read(_chosen + "/version")) if _chosen else 0


def _choose():
    folder, number, left = _trial()
    if folder and left > 0:
        _write("trial", "%s %d %d" % (folder, number, left - 1))
        return folder
    if folder:
        _write("failed", str(number))
    _end_trial()
    return current()


def current():
    """The folder of the version that has come up last, or ""."""
    folder = _read("slot")
    return folder if folder in FOLDERS else ""


def spare():
    """The folder that a new version goes to."""
    return FOLDERS[1] if current() == FOLDERS[0] else FOLDERS[0]


def begin(folder, number):
    """From the next start on try version ``number``, which is in ``folder`` in full."""
    _write("trial", "%s %d %d" % (folder, number, TRIES))


def confirm():
    """The version on trial has come up: it is the one from now on."""
    folder, _, _ = _trial()
    if folder:
        _write("slot", folder)
        _end_trial()


def is_trial():
    """Whether what `choose` has chosen has not come up yet."""
    return _chosen != "" and _trial()[0] == _chosen


def version():
    """The number of the newest version that there is no use in installing: it runs, is on trial, or has failed."""
    here = current()
    return max(_number(_read(here + "/version")) if here else 0, _trial()[1], _number(_read("failed")))


def _trial():
    """(folder, number of the version, starts that are left), or ("", 0, 0)."""
    parts = _read("trial").split()
    if len(parts) != 3 or parts[0] not in FOLDERS:
        return "", 0, 0
    number = _number(parts[1])
    if not number or _number(_read(parts[0] + "/version")) != number:
        return "", 0, 0
    return parts[0], number, _number(parts[2])


def _end_trial():
    _remove("trial.new")
    _remove("trial")


def _number(text):
    try:
        return int(text)
    except ValueError:
        return 0


def _read(path):
    for name in (path, path + ".new"):  # where `_write` could not rename on to the file, a power cut may have left that
        try:
            with open(name) as file:
                return file.read(32).strip()
        except OSError:
            pass
        except UnicodeError:
            break
    return ""


def _write(path, text):
    with open(path + ".new", "w") as file:
        file.write(text)
    try:
        os.rename(path + ".new", path)
    except OSError:
        _remove(path)  # a file system that does not rename on to a file
        os.rename(path + ".new", path)


def _remove(path):
    try:
        os.remove(path)
    except OSError:
        pass
