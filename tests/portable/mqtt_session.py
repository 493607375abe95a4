"""A session with a broker by the portable MQTT client, on CPython or MicroPython; `test_mqtt` runs it.

micropython mqtt_session.py session HOST PORT [CA-FILE]    prints "ok", or what was wrong
micropython mqtt_session.py failure HOST PORT [CA-FILE]    prints the name of the error that connecting ends with
micropython mqtt_session.py steps HOST PORT                options and steps from standard input, all in JSON
"""

import asyncio
import json
import sys

from tinyreptile.mqtt import MQTTClient
from tinyreptile.tls import tls_context

ROOT = "mqtt-session/" + sys.implementation.name
inbox = []


def note(topic, payload, retained):
    if topic == "memory":
        raise MemoryError
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


async def steps(host, port):
    """Take steps, lists of a method of the client and its arguments, or of these words.

    message N    until N messages have come
    lost         until the session is lost
    sleep S      seconds
    cancel S     the next step is given up after as many seconds
    """
    options, steps = json.loads(sys.stdin.read())
    if "will" in options:
        options["will"] = (options["will"][0], options["will"][1].encode())
    client = MQTTClient(host, int(port), on_message=note, **options)
    outcomes = []
    limit = 20
    for name, *arguments in steps:
        if name == "message":
            step = until(lambda count=arguments[0]: len(inbox) >= count)
        elif name == "lost":
            step = until(lambda: not client.connected)
        elif name == "sleep":
            step = pause(arguments[0])
        elif name == "cancel":
            limit = arguments[0]
            continue
        else:
            if name == "publish":
                arguments[1] = arguments[1].encode()
            step = getattr(client, name)(*arguments)
        outcomes.append(await outcome(step, limit))
        limit = 20
    return json.dumps(
        {
            "outcomes": outcomes,
            "messages": [[topic, "".join("%02x" % byte for byte in data), retained] for topic, data, retained in inbox],
            "failure": str(client.failure or ""),
            "oversized": client.oversized,
        }
    )


async def outcome(step, seconds):
    """What came of ``step``: "ok", or the name of its error and what that says."""
    try:
        await asyncio.wait_for(step, seconds)
    except (asyncio.TimeoutError, OSError, ValueError) as error:
        return "%s: %s" % (type(error).__name__, error)
    return "ok"


async def pause(seconds):
    await asyncio.sleep(seconds)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    mode = {"session": session, "failure": failure, "steps": steps}[sys.argv[1]]
    print(asyncio.run(mode(*sys.argv[2:])))
