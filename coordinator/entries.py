"""The entries of a run's journal: what its store keeps, and the state is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .rules import Decision, Weights


@dataclass(frozen=True)
class Accepted:
    """An accepted update, as it came, and what was decided of it."""

    work: int
    updates: int  # accepted updates before this one: its place in the order
    device: str
    version: int  # that it was learned from
    tau: int  # its staleness
    weight: float  # of its batch in the initialization, with alpha
    moved: bool  # it completed its batch and made a new version
    loss: float | None  # None: the device keeps it to itself
    samples: int
    bits: int
    gains: tuple[int, ...]
    delta: bytes | None  # packed; None once it is older than what can be gone back over
    at: float  # seconds since 1970
    kept: int | None = None  # of a sparse delta: how many changes it holds
    norm: float = 0.0  # Euclidean norm of the delta as it came
    scale: float = 1.0  # what it was multiplied with, to bound its norm or for its staleness in a batch
    combine: str = "mean"  # how its batch is made one

    def decision(self) -> Decision:
        """What was decided of it."""
        return Decision(self.weight, self.moved, self.scale, self.combine)


@dataclass(frozen=True)
class Issued:
    """Work that was handed out and is still open."""

    work: int
    device: str
    kind: str
    version: int
    bits: int
    deadline: float  # seconds since 1970
    kept: int | None = None


@dataclass(frozen=True)
class Closed:
    """Work that has ended otherwise than by an accepted update."""

    work: int


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of one version on the held-out devices."""

    updates: int
    version: int
    summary: dict[str, Any]
    at: float


@dataclass(frozen=True)
class Checkpoint:
    """The float weights of ``version``, after ``updates`` accepted updates; ``evaluated`` ones are kept for longer."""

    updates: int
    version: int
    weights: Weights
    evaluated: bool = False


@dataclass(frozen=True)
class Known:
    """What is known of a device whether or not it is there."""

    device: str
    role: str
    boot: str
    platform: str
    ram: int
    accepted: int
    refused: int
    expired: int
    failures: int
    strikes: int
    quarantine: str  # why it gets no work; empty if it does
    seen: float  # seconds since 1970
    private: int = 0  # private updates that it may have made
    rho: float = 0.0  # and what they have cost it, see `accounting`


@dataclass(frozen=True)
class Forgotten:
    """A device that nothing is to be known of any more."""

    device: str


@dataclass(frozen=True)
class Setting:
    """A setting that was changed while the run was going on, as ``table.key``; None: as configured again."""

    name: str
    value: Any


@dataclass(frozen=True)
class Event:
    """Something that an operator, or a guard, did to the run: a version gone back to, a setting, a quarantine."""

    at: float
    updates: int
    version: int
    kind: str
    text: str


Entry = Accepted | Issued | Closed | Evaluated | Checkpoint | Known | Forgotten | Setting | Event
