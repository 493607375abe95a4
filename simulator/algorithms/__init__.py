"""The algorithms of the offline study, one short file each; one of your own is a class in a file of yours.

An algorithm says what moves the initialization in one round. The rest is not its business: `fleet.Fleet` gives it
devices, counts what they see, send and compute and keeps the simulated clock; `simulator.study` repeats the rounds,
evaluates, saves and draws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy.typing as npt

from coordinator.config import GuardsConfig
from coordinator.guards import NormGuard, norm_of
from coordinator.rules import MetaUpdate, Weights, discount, schedule
from coordinator.work import Refusal

from ..imports import named_class
from .fleet import AlgorithmError as AlgorithmError
from .fleet import Fleet

State = dict[str, npt.NDArray[Any]]

BUILT_IN = {
    "tinyreptile": "simulator.algorithms.tinyreptile.TinyReptile",
    "synchronous": "simulator.algorithms.synchronous.Synchronous",
    "asynchronous": "simulator.algorithms.asynchronous.Asynchronous",
    "tinymetafed": "simulator.algorithms.tinymetafed.TinyMetaFed",
    "reptile": "simulator.algorithms.reptile.Reptile",
    "fedavg": "simulator.algorithms.fedavg.FedAvg",
    "fedsgd": "simulator.algorithms.fedsgd.FedSGD",
    "transfer": "simulator.algorithms.transfer.Transfer",
    "scratch": "simulator.algorithms.scratch.Scratch",
}


class Algorithm(ABC):
    """What moves the initialization in a round. A subclass has a `round`, and `defaults` for settings of its own.

    ``settings`` override the defaults; ``rounds`` is how many rounds the run will have, for schedules.
    `settings` has them all by name: ``self.settings.steps``. Raises `AlgorithmError` for one it does not know.

    A round must depend on nothing but the initialization, its number, the norms that `guard` has seen and what `state`
    gives, so that a run that was interrupted goes on to the same bits. Devices and samples are a
    function of seed and number already.
    """

    defaults: ClassVar[dict[str, Any]] = {}
    shared: ClassVar[dict[str, Any]] = {
        "steps": 32,  # samples that a piece of work draws from its stream
        "alpha": 0.3,  # weight of what came back in the initialization, at first
        "alpha_end": 0.0,  # and at the end
        "schedule": "linear",  # constant, linear, cosine or cooldown
        "staleness": "constant",  # discount of what was learned from an old version: constant, hinge or polynomial
    }

    def __init__(self, fleet: Fleet, settings: dict[str, Any], rounds: int) -> None:
        known = self.settings_with(settings)
        self.fleet = fleet
        self.rounds = rounds
        self.settings = SimpleNamespace(**known)
        self.meta = MetaUpdate(
            schedule(known["schedule"], known["alpha"], known["alpha_end"]), discount(known["staleness"])
        )
        guards = GuardsConfig()
        self.guard = NormGuard(guards.clip, guards.refuse)  # as the service has it unless it is configured otherwise

    @classmethod
    def settings_with(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """All settings, the defaults overridden by ``settings``; raises `AlgorithmError` for an unknown one."""
        known = Algorithm.shared | cls.defaults
        unknown = sorted(settings.keys() - known.keys())
        if unknown:
            raise AlgorithmError(
                f"{cls.__name__} has no setting {unknown[0]!r}; it has {', '.join(sorted(known))}, "
                "and a device has format, bits, top and beta"
            )
        return known | settings

    @classmethod
    def works(cls, settings: dict[str, Any]) -> int:
        """Pieces of work in a round."""
        return 1

    @classmethod
    def shots(cls, settings: dict[str, Any]) -> int:
        """Samples that a device stores; 0: each is dropped once it has been learned from."""
        return 0

    @abstractmethod
    def round(self, phi: Weights, number: int) -> float:
        """Move ``phi``, float64 (parameters,), in place by round ``number``, from 1; returns the mean training loss."""

    def move(
        self, phi: Weights, deltas: Sequence[Weights | None], devices: Sequence[int], number: int, tau: int = 0
    ) -> None:
        """Do phi <- phi + alpha s(tau) * mean of ``deltas``, by the coordinator's own rule; nothing without any.

        Each is of the one of ``devices`` at its place; None stands for what a device did not send. The coordinator's
        guard scales down what is unusually large, and drops what is far too large.
        """
        decision = self.meta.weigh((number - 1) / self.rounds, tau)
        came = [(delta, device) for delta, device in zip(deltas, devices, strict=True) if delta is not None]
        taken = [(delta, scale) for delta, device in came if (scale := self._guarded(phi, delta, str(device)))]
        for i, (delta, scale) in enumerate(taken, start=1):
            self.meta.fold(phi, delta, replace(decision, moves=i == len(taken), scale=scale * decision.scale))
        self.fleet.counts.updates += len(taken)
        self.fleet.counts.refused += len(came) - len(taken)

    def _guarded(self, phi: Weights, delta: Weights, device: str) -> float:
        """Return what the guard multiplies ``delta`` of ``device`` by, 0.0 if it refuses it."""
        norm = norm_of(delta)
        try:
            scale = self.guard.scale(device, norm, phi)
        except Refusal:
            return 0.0
        self.guard.add(device, norm)
        return scale

    def state(self) -> State:
        """What, beside phi, the next round depends on, as arrays."""
        return {}

    def resume(self, state: State) -> None:  # noqa: B027 - most have no state
        """Go on from what `state` gave."""


def algorithm_class(name: str) -> type[Algorithm]:
    """The class of the built-in ``name``, or of one of your own as "package.module.Class"; raises `AlgorithmError`."""
    if name not in BUILT_IN and "." not in name:
        raise AlgorithmError(
            f"an algorithm is one of {', '.join(BUILT_IN)}, or a class of yours as package.module.Class, not {name!r}"
        )
    return named_class(BUILT_IN.get(name, name), Algorithm, AlgorithmError)  # type: ignore[type-abstract]
