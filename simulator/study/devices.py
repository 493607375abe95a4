"""The device of a variant: which learner, which numbers, which wire."""

from __future__ import annotations

from typing import Any

from simulator.offline import Device, IntegerDevice
from tinyreptile.model import Model

from . import StudyError


def make_device(spec: list[list[Any]], settings: dict[str, Any], shots: int = 0) -> Device:
    """A device for the model list ``spec`` with ``settings``.

    They are ``format`` (int16, int8 or float32) of the weights, ``encoding`` of the initialization, ``bits`` and
    ``top`` of a delta, and learning rate ``beta``. With ``shots`` it stores as many samples. Raises `StudyError` for a
    format that is not there.
    """
    weights = settings["format"]
    if weights == "float32":
        from .float_twin import TwinDevice

        if shots:
            raise StudyError("the float32 twin stores no samples: give this variant the format int16 or int8")
        return TwinDevice(Model(spec), beta=settings["beta"])
    if weights not in ("int16", "int8"):
        raise StudyError(f"a device's format is int16, int8 or float32, not {weights!r}")
    wire = {name: settings[name] for name in ("beta", "bits", "top", "encoding")}
    return IntegerDevice(Model(spec, weights), **wire, shots=shots)
