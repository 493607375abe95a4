"""Damaged messages for a running service: python -m tests.faults.fuzzer HOST:PORT RUN COUNT RATE SEED VICTIMS.

They are the seeds of `tests.fuzz`, damaged as there, on all topics that a coordinator listens to and on those of the
devices VICTIMS (comma-separated ids), at QoS 0 and 1, RATE a second. Not on those that the coordinator alone may write:
who can forge these is the coordinator.
"""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import paho.mqtt.client as paho

from command_line.options import split_address
from coordinator.mqtt import unpack
from tinyreptile import messages, reports
from tinyreptile.messages import MessageError

from ..fuzz.seeds import mutated, seeds

STRANGERS = 200
BATCH = 20  # messages between two looks at the clock
INFLIGHT = 200  # as Mosquitto takes them


def topics(run: str, victims: list[str], chance: random.Random) -> str:
    """One of the topics."""
    of = reports.CoordinatorTopics(run)
    name = chance.choice(victims) if chance.random() < 0.1 else f"stranger-{chance.randrange(STRANGERS)}"
    device = of.device(name)
    heard = (device.status, device.update, device.evaluation, of.control)
    odd = (f"{of.root}/device/{name}/update/0", f"{of.root}/device/no.id/status", f"{of.root}/device/{name}/other")
    others = (device.work, device.label, device.prediction, device.log, device.command)
    return chance.choice((*heard, *heard, *heard, *odd, *others))


def _is_hello(payload: bytes) -> bool:
    """Whether a device would be there that does no work, which is another kind of harm."""
    try:
        status: dict[str, Any] = messages.check(reports.STATUS, unpack(payload))
    except MessageError:
        return False
    return status["state"] == "online"


def main(address: str, run: str, count: str, rate: str, seed: str, victims: str) -> None:
    host, port = split_address(address)
    chance = random.Random(seed)
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(INFLIGHT)
    client.connect(host, port or 1883)
    client.loop_start()
    begun = time.monotonic()
    last = None
    for number, payload in enumerate(mutated(seeds("messages"), int(count), int(seed))):
        topic = topics(run, victims.split(","), chance)
        payload = payload[: reports.MESSAGE_BYTES]  # the broker ends the session of who sends more
        if topic.endswith("/status") and _is_hello(payload):
            payload = payload[:-1]
        last = client.publish(topic, payload, qos=1 - (number & 1))
        if not number % BATCH:
            time.sleep(max(0.0, begun + number / float(rate) - time.monotonic()))
    assert last
    last.wait_for_publish(60)
    client.disconnect()
    client.loop_stop()
    print(count, time.monotonic() - begun)


if __name__ == "__main__":
    main(*sys.argv[1:])
