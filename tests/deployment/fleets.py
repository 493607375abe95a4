"""Provisioned fleets, and the Mosquitto that runs on the files they come with."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path

from coordinator.administrator import Plugin
from coordinator.config import BrokerConfig, load_config
from coordinator.mqtt import client
from deployment import dynamic_security, passwords
from deployment.authority import Authority
from deployment.broker import find_plugin
from deployment.errors import DeploymentError
from deployment.fleet import FILE, Fleet, load
from deployment.provision import Wish, provision

from ..environment import Mosquitto, free_port, require

RUN = "kitchen"
DEVICES = ["kitchen-1", "kitchen-2"]  # they train
EVALUATORS = ["kitchen-held-out"]
MODES = {  # how a broker knows its clients and their rights: (passwords, dynamic security)
    "certificates": (False, False),
    "passwords": (True, False),
    "certificates and plugin": (False, True),
    "passwords and plugin": (True, True),
}
BOTH = ("certificates", "passwords and plugin")  # of these each way is one half: for tests of whole commands
WITNESS = "witness"  # sees and may do everything; no fleet has one


def need_plugin() -> str:
    """Path of the dynamic-security plugin; the test is skipped where there is none."""
    try:
        return find_plugin()
    except DeploymentError:
        require(False, "needs Mosquitto's dynamic-security plugin")
        raise


class FleetBroker(Mosquitto):
    """Mosquitto on the very files that provisioning wrote for the fleet in ``folder``, a new one if there is none."""

    host = "localhost"

    def __init__(
        self,
        folder: Path,
        mode: str = "certificates",
        devices: list[str] = DEVICES,
        evaluators: list[str] = EVALUATORS,
        run: str = RUN,
    ) -> None:
        self.folder = folder
        if not (folder / FILE).exists():
            with_passwords, with_plugin = MODES[mode]
            wish = Wish(hosts=[self.host], passwords=with_passwords, run=run, devices=devices)
            wish.port, wish.roles_port = free_port(), free_port()
            wish.plugin = need_plugin() if with_plugin else None
            provision(folder, wish)
            provision(folder, Wish(devices=evaluators, role="evaluate"))
        self.port = self.fleet.description.port
        self.config = folder / "broker" / "mosquitto.conf"
        self.log = folder / "mosquitto.log"
        self._process = None

    @property
    def fleet(self) -> Fleet:
        return load(self.folder)

    def role(self, role: str) -> BrokerConfig:
        """The broker as ``role`` of the run reaches it."""
        return load_config(self.fleet.run_folder(RUN) / f"{role}.toml").broker

    def device(self, name: str) -> BrokerConfig:
        return self.fleet.broker_of(name)

    def reload(self) -> None:
        """Have it read its files anew; returns when it has."""
        assert self._process
        before = self._times_said("Reloading config")
        end = time.monotonic() + 10
        while self._times_said("Reloading config") == before:
            assert time.monotonic() < end, "it does not read its files anew"
            self._process.send_signal(signal.SIGHUP)  # again: one that comes while it still reads is lost on Mosquitto
            with contextlib.suppress(AssertionError):
                wait_for(lambda: self._times_said("Reloading config") > before, 1)

    def _times_said(self, text: str) -> int:
        return self.log.read_text().count(text) if self.log.exists() else 0

    def start(self) -> None:
        """Start it, and tell its plugin, if it has one, of the fleet."""
        before = self._times_said(" running")
        super().start()
        wait_for(lambda: self._times_said(" running") > before, 20)  # a SIGHUP before that ends it
        if self.fleet.description.plugin:
            asyncio.run(dynamic_security.apply(self.fleet))

    def admit_witness(self) -> BrokerConfig:
        """Let the witness in, beside the fleet and by other means than it; to be called while the broker runs."""
        fleet = self.fleet
        way = self.device(DEVICES[0])
        if fleet.description.passwords:
            (fleet.folder / WITNESS).write_text(WITNESS)
            way = way.model_copy(update={"user": WITNESS, "password_file": fleet.folder / WITNESS})
        else:
            certificate, key = Authority.load(fleet.authority.certificate, fleet.authority.key).issue(WITNESS, 1)
            (fleet.folder / "witness.pem").write_bytes(certificate)
            (fleet.folder / "witness.key").write_bytes(key)
            way = way.model_copy(
                update={"tls_cert": fleet.folder / "witness.pem", "tls_key": fleet.folder / "witness.key"}
            )
        if fleet.description.plugin:
            asyncio.run(self._tell_of_witness())
        else:
            with (fleet.broker / "acl").open("a") as acl:
                acl.write(f"\nuser {WITNESS}\ntopic readwrite #\ntopic read $SYS/#\ntopic write $CONTROL/#\n")
            if fleet.description.passwords:
                with (fleet.broker / "passwords").open("a") as file:
                    file.write(passwords.line(WITNESS, WITNESS) + "\n")
            self.reload()
        return way

    async def _tell_of_witness(self) -> None:
        kinds = ("publishClientSend", "publishClientReceive", "subscribePattern")
        acls = [
            {"acltype": kind, "topic": topic, "allow": True}
            for kind in kinds
            for topic in ("#", "$SYS/#", "$CONTROL/witness")
        ]
        path = self.folder / "authority" / "administrator.toml"
        async with client(load_config(path).broker) as session:
            plugin = Plugin(session)
            await session.subscribe("$CONTROL/dynamic-security/v1/response")
            await plugin.tell(
                [
                    {"command": "createRole", "rolename": WITNESS, "acls": acls},
                    {
                        "command": "createClient",
                        "username": WITNESS,
                        "password": WITNESS,
                        "roles": [{"rolename": WITNESS}],
                    },
                ]
            )


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)
