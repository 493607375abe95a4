"""What can be wrong with a fleet's folder, or with what was asked of it."""

from __future__ import annotations

from coordinator.errors import CoordinatorError


class DeploymentError(CoordinatorError):
    """A fleet's credentials that can't be made, read or withdrawn; the text says what to do."""
