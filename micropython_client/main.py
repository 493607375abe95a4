"""What a device runs after `boot.py`: ``config.json`` beside this file says what it is.

On the unix port or CPython the file may be named: ``micropython main.py my-device.json``.
"""

import sys

try:
    from tinyreptile.device import main

    _code = main(sys.argv[1] if len(sys.argv) > 1 else "config.json")
except Exception as error:
    _slots = sys.modules.get("slots")
    if not _slots or not _slots.is_trial():
        raise
    # A new version of the library that can't even be loaded: another start uses up its trial.
    import time

    from machine import reset

    sys.print_exception(error)
    time.sleep(5)  # so that there is time to see it
    reset()
if _code is not None:  # on a board even that would start it anew
    sys.exit(_code)
