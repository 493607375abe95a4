"""What a device runs after `boot.py`: ``config.json`` beside this file says what it is.

On the unix port or CPython the file may be named: ``micropython main.py my-device.json``.
"""

import sys

from tinyreptile.device import main

_code = main(sys.argv[1] if len(sys.argv) > 1 else "config.json")
if _code is not None:  # on a board even that would start it anew
    sys.exit(_code)
