"""The entry: what a signal does is settled before anything else is imported, even the module `signal`."""

import _signal  # type: ignore[import-not-found]  # which Python has loaded already; `signal` takes milliseconds
import os
import sys

INTERRUPTED = 130  # exit code


def _leave(number: int, frame: object) -> None:
    """End at once: nothing has begun that would have to be put in order, or all of it is in order."""
    os._exit(INTERRUPTED)


def _leave_on_signals() -> None:
    for number in (_signal.SIGTERM, _signal.SIGHUP, _signal.SIGINT):
        if number == _signal.SIGTERM or _signal.getsignal(number) != _signal.SIG_IGN:  # as by nohup
            _signal.signal(number, _leave)


_leave_on_signals()


def main() -> None:
    """Run the command; Ctrl-C ends it with exit code 130 and no traceback."""
    import atexit

    from .signals import ignore_all
    from .streams import settle

    atexit.register(ignore_all)  # the first that is registered comes last
    code: str | int | None = INTERRUPTED
    try:
        code = _run()
    except KeyboardInterrupt:  # another one, while the first was being dealt with
        pass
    finally:
        _leave_on_signals()
    settle(sys.stderr)
    sys.exit(code)


def _run() -> str | int | None:
    from .signals import was_interrupted
    from .streams import open_streams

    open_streams()
    try:
        from .app import run

        return run()
    except BaseException as error:
        if not was_interrupted(error):
            raise
        return INTERRUPTED
