"""The entry: nothing is imported before Ctrl-C is looked after."""

import sys


def main() -> None:
    """Run the command; Ctrl-C ends it with exit code 130 and no traceback."""
    try:
        from .app import run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
