"""A session with a broker by the portable MQTT client, on CPython or MicroPython; `test_mqtt` runs it.

micropython mqtt_session.py session HOST PORT [CA-FILE]    prints "ok", or what was wrong
micropython mqtt_session.py failure HOST PORT [CA-FILE]    prints the name of the error that connecting ends with
"""

import asyncio
import sys

from tinyreptile.mqtt import MQTTClient
from tinyreptile.tls import tls_context

ROOT = "mqtt-session/" + sys.implementation.name
inbox = []


def note(topic, payload, retained):
    inbox.append((topic, bytes(payload), retained))


async def receive(count):
    """The next ``count`` messages, sorted."""
    for _ in range(500):
        if len(inbox) >= count:
            break
        await asyncio.sleep(0.02)
    messages = sorted(inbox)
    inbox.clear()
    return messages


def make_client(host, port, ca_file, **options):
    tls = tls_context(ca_file) if ca_file else None
    return MQTTClient(host, int(port), ROOT.replace("/", "-"), note, tls=tls, message_bytes=2000, **options)


async def session(host, port, ca_file=None):
    client = make_client(host, port, ca_file, will=(ROOT + "/will", b"gone"))
    await client.connect()
    expected = []
    await client.publish(ROOT + "/retained", b"kept", retain=True)
    await client.subscribe(ROOT + "/#")
    expected.append([(ROOT + "/retained", b"kept", True)])
    received = [await receive(1)]
    for qos in (0, 1):
        for size in (0, 1, 100, 2000):
            payload = bytes(i & 255 for i in range(size))
            await client.publish(ROOT + "/live", payload, qos=qos)
            expected.append([(ROOT + "/live", payload, False)])
            received.append(await receive(1))
    await client.publish(ROOT + "/filled", lambda buffer: fill(buffer))
    expected.append([(ROOT + "/filled", b"abc", False)])
    received.append(await receive(1))
    for _ in range(50):
        await client.publish(ROOT + "/many", b"x" * 1500)
    expected.append([(ROOT + "/many", b"x" * 1500, False)] * 50)
    received.append(await receive(50))
    await client.unsubscribe(ROOT + "/#")
    await client.publish(ROOT + "/live", b"unheard")
    await client.publish(ROOT + "/retained", b"", retain=True)
    await client.disconnect()
    for i in range(len(expected)):
        if expected[i] != received[i]:
            return "expected %r, got %r" % (expected[i], received[i])
    if inbox:
        return "too much: %r" % inbox
    return "ok"


def fill(buffer):
    buffer[:3] = b"abc"
    return 3


async def failure(host, port, ca_file=None):
    client = make_client(host, port, ca_file, timeout=1)
    try:
        await client.connect()
    except OSError as error:
        return type(error).__name__
    return "connected"


if __name__ == "__main__":
    mode = {"session": session, "failure": failure}[sys.argv[1]]
    print(asyncio.run(mode(*sys.argv[2:])))
