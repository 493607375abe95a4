"""The bench on a provisioned fleet: TLS, certificates, the plugin, and the broker's files as operators have them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

from coordinator.config import BrokerConfig, Config, load_config
from coordinator.mqtt import client, subscribe
from tinyreptile import reports

from ..deployment.fleets import FleetBroker
from .bench import RUN, Bench, Fleet

MODE = "certificates and plugin"
THIEF = "thief"  # the device whose certificate is in wrong hands


class SecuredBench(Bench):
    """A bench without a network of its own: it can't read packets, so it hears as an operator what is published.

    ``fleets`` has one fleet; the device `THIEF` is provisioned beside it and does not run.
    """

    def _broker(self) -> FleetBroker:  # type: ignore[override]
        (fleet,) = self.fleets
        devices = [*(f"fleet0-{i}" for i in range(fleet.devices)), THIEF]
        held_out = [f"fleet0-unseen-{i}" for i in range(fleet.evaluators)]
        return FleetBroker(self.folder / "fleet", MODE, devices, held_out, RUN)

    def _file(self, role: str) -> Path:
        return self.folder / "fleet" / "runs" / RUN / f"{role}.toml"

    def credentials(self, name: str) -> BrokerConfig:
        """How the device or the role ``name`` reaches the broker."""
        path = self._file(name)
        return load_config(path).broker if path.exists() else self.broker.device(name)  # type: ignore[attr-defined]

    @property
    def directly(self) -> Config:
        return load_config(self._file("operator"))

    @property
    def observing(self) -> list[object]:
        return ["--config", self._file("observer")]

    def _coordinators_broker(self) -> dict[str, Any]:
        return self.credentials("coordinator").model_dump(mode="json", exclude_none=True)

    def _swarm_options(self, prefix: str, fleet: Fleet) -> list[object]:
        return ["--credentials", self.folder / "fleet"]

    async def _connect(self) -> None:
        listening = asyncio.create_task(self._listen())
        self.afterwards.callback(listening.cancel)

    async def _listen(self) -> None:
        topics = reports.CoordinatorTopics(RUN)
        async with client(self.directly.broker) as session:
            await subscribe(session, topics.coordinator, f"{topics.root}/device/+/work")
            async for message in session.messages:
                with suppress(ValueError, TypeError):
                    self.witness.published(message.topic.value, bytes(message.payload))  # type: ignore[arg-type]
