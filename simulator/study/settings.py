"""What the settings of a run may be, whoever has chosen them: checked before anything runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coordinator.config import complaint

from . import StudyError

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Learning(_Strict):
    model_config = ConfigDict(strict=True, extra="allow")  # an algorithm's own: it knows them

    steps: Positive
    alpha: Share
    alpha_end: Share
    schedule: Literal["constant", "linear", "cosine", "cooldown"]
    staleness: Literal["constant", "hinge", "polynomial"]


class _Device(_Strict):
    format: Literal["int16", "int8", "float32"]
    encoding: Literal["int16", "int8"]
    bits: Literal[16, 8, 4]
    top: Annotated[float, Field(gt=0.0, le=1.0)]
    beta: Share


class _Delays(_Strict):
    median: Annotated[float, Field(ge=0.0)]
    sigma: Annotated[float, Field(ge=0.0)]
    drop: Annotated[float, Field(ge=0.0, lt=1.0)]
    deadline: Annotated[float, Field(gt=0.0)]


class _Evaluation(_Strict):
    steps: Positive
    shots: Positive
    queries: Positive
    unseen: Positive
    unseen_end: Positive
    tuning: Positive
    at: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    rates: Annotated[list[Share], Field(min_length=1)]
    also: dict[str, dict[str, Any]]


class _Settings(BaseModel):
    learning: _Learning
    device: _Device
    delays: _Delays
    evaluation: _Evaluation


def check_settings(variant: str, settings: dict[str, Any]) -> None:
    """Raise `StudyError` for ``settings`` that ``variant`` can't be run with, saying what they may be."""
    try:
        _Settings(**{name: settings[name] for name in _Settings.model_fields})
    except ValidationError as error:
        raise StudyError(f"{variant}: " + "; ".join(map(complaint, error.errors()))) from None
    device = settings["device"]
    if device["format"] == "int8" and device["encoding"] != "int8":
        raise StudyError(f"{variant}: a device with int8 weights takes an initialization in int8: device.encoding")
