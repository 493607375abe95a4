"""What a user can have got wrong: the errors that a command shows as one sentence."""

from __future__ import annotations


class CoordinatorError(Exception):
    """Base of the coordinator's own errors; the text says what was wrong, what was expected, and what to do."""


class ConfigError(CoordinatorError):
    """A configuration that can't be used; the text names the key and the allowed values."""


class BrokerError(CoordinatorError):
    """The broker is not there, or refuses this client."""


class StoreError(CoordinatorError):
    """A store that can't be opened, is damaged, or belongs to another run."""


class StoreUnavailable(StoreError):
    """A store that can't be used just now: its disk is full, or its server away. It may come back."""
