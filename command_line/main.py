"""The entry: nothing is imported before signals and the standard streams are looked after."""

import sys

from .signals import treat_as_ctrl_c, was_interrupted
from .streams import open_streams, settle


def main() -> None:
    """Run the command; Ctrl-C ends it with exit code 130 and no traceback."""
    try:
        treat_as_ctrl_c()
        open_streams()
        from .app import run

        code = run()
    except BaseException as error:
        if not was_interrupted(error):
            raise
        code = 130
    settle(sys.stderr)
    sys.exit(code)
