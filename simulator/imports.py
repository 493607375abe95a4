"""A user's own classes by their names: tasks and algorithms need no registration."""

from __future__ import annotations

import importlib
from typing import TypeVar

T = TypeVar("T")


def named_class(name: str, base: type[T], error: type[Exception]) -> type[T]:
    """The subclass of ``base`` that ``name`` names as "package.module.Class"; raises ``error`` with a sentence."""
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as problem:
        raise error(f"{name} can't be imported: {problem}; is its folder in PYTHONPATH?") from problem
    except Exception as problem:
        raise error(f"{name} can't be imported: {type(problem).__name__}: {problem}") from problem
    if not isinstance(found, type) or not issubclass(found, base):
        raise error(f"{name} is no subclass of {base.__module__}.{base.__name__}")
    return found
