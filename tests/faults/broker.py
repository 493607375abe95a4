"""The bench's Mosquitto: with the settings that users have, a memory on disk, and ready to be killed."""

from __future__ import annotations

from pathlib import Path

from ..environment import ROOT, Mosquitto

# Set by the bench itself.
_OWN = ("listener", "persistence", "log_dest", "set_tcp_nodelay")


class Broker(Mosquitto):
    """Mosquitto with the lines of broker_config/mosquitto.conf; its memory is written every second."""

    def __init__(self, folder: Path) -> None:
        self._memory = folder / "broker"
        self._memory.mkdir()
        lines = (ROOT / "broker_config" / "mosquitto.conf").read_text().splitlines()
        users = [line for line in lines if line.strip() and not line.startswith(("#", *_OWN))]
        kept = ["persistence true", f"persistence_location {self._memory}/", "autosave_interval 1"]
        super().__init__(folder, *users, *kept)

    def kill(self) -> None:
        """Kill -9."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def remembered(self) -> int:
        """Bytes of the memory on disk."""
        return sum(path.stat().st_size for path in self._memory.iterdir())

    def forget(self) -> None:
        """Lose the memory on disk: retained messages, too."""
        for path in self._memory.iterdir():
            path.unlink()
