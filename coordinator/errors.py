"""What a user can have got wrong: the errors that a command shows as one sentence."""

from __future__ import annotations


class CoordinatorError(Exception):
    """Base of the coordinator's own errors; the text says what was wrong, what was expected, and what to do."""


class ConfigError(CoordinatorError):
    """A configuration that can't be used; the text names the key and the allowed values."""


class BrokerError(CoordinatorError):
    """The broker is not there, or refuses this client."""


class DeniedError(BrokerError):
    """The broker does not let this client read or write a topic."""


class PluginError(CoordinatorError):
    """The broker's dynamic-security plugin does not answer, or not do what it is asked for."""


class StoreError(CoordinatorError):
    """A store that can't be opened, is damaged, or belongs to another run."""


class StoreUnavailable(StoreError):
    """A store that can't be used just now: its disk is full, or its server away. It may come back."""


def failure_text(error: BaseException) -> str:
    """Return what a run has ended for, in a sentence."""
    if isinstance(error, CoordinatorError):
        return str(error)
    return f"a fault of this program ({type(error).__name__}{f': {error}' if str(error) else ''})"


def cut(text: str, size: int) -> str:
    """Return as much of ``text`` as has at most ``size`` bytes in a message."""
    return text.encode(errors="replace")[:size].decode(errors="ignore")
