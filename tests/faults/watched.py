"""`tinyreptile` with an eye on its inside: python -m tests.faults.watched FILE ARGUMENTS...

Every few seconds a line goes to FILE: asyncio tasks, and objects that the garbage collector knows of. Whatever else the
bench wants to know of a process, it finds outside.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
import time

SECONDS = 2.0


def _watch(path: str) -> None:
    while True:
        time.sleep(SECONDS)
        objects = gc.get_objects()
        line = {"tasks": sum(isinstance(item, asyncio.Task) for item in objects), "objects": len(objects)}
        del objects
        with open(path, "a") as file:  # noqa: PTH123 - as light as can be
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    threading.Thread(target=_watch, args=(sys.argv.pop(1),), daemon=True).start()
    from command_line.main import main

    main()
