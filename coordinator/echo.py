"""Own messages as they come back from the broker: some access lists, Mosquitto's among them, drop in silence."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiomqtt

from .errors import DeniedError
from .mqtt import not_echoed, pack_request, subscribe

ECHO_SECONDS = 5.0  # for what is retained, and for own messages, to come


class Echo:
    """A request that is watched for as it comes back to the session that has published it.

    Raises `MessageError` where nobody could read it: before a session with the broker, if it is made before that.
    """

    def __init__(self, topic: str, request: dict[str, Any]) -> None:
        self.topic, self.payload = topic, pack_request(request)
        self._readable = self._seen = False

    async def publish(self, session: aiomqtt.Client) -> None:
        """Publish the message, with a subscription to its topic where the broker does not refuse one."""
        with contextlib.suppress(DeniedError):
            await subscribe(session, self.topic)
            self._readable = True
        await session.publish(self.topic, self.payload, qos=1)

    def takes(self, message: aiomqtt.Message) -> bool:
        """Return whether ``message``, one that has come, is on the topic of this one."""
        if message.topic.value != self.topic:
            return False
        self._seen |= message.payload == self.payload
        return True

    def check(self) -> str:
        """Return what is not known of the message's way, to be added to a sentence; empty if it came back.

        Raises `DeniedError` where it did not though the broker has granted the subscription.
        """
        if self._readable and not self._seen:
            raise not_echoed(self.topic)
        return "" if self._seen else f"; nor is it known whether the broker lets this client write {self.topic}"


async def check_retained(session: aiomqtt.Client, topics: str, published: dict[str, bytes]) -> None:
    """Return once the broker has sent all of ``published``, by topic, to a subscription to the filter ``topics``.

    Raises `DeniedError` where it refuses the subscription, or does not send one of them.
    """
    missing = dict(published)
    loop = asyncio.get_running_loop()
    await subscribe(session, topics)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ECHO_SECONDS) as limit:
            async for message in session.messages:
                topic = message.topic.value
                if message.retain and missing.get(topic) == message.payload:
                    del missing[topic]
                    limit.reschedule(loop.time() + ECHO_SECONDS)
                if not missing:
                    break
    if missing:
        raise not_retained(min(missing))
    await session.unsubscribe(topics)


def not_retained(topic: str) -> DeniedError:
    """Return the error for a retained message that is not at the broker, as far as this client can see."""
    return DeniedError(
        f"the broker does not retain {topic}, or does not let this client write or read it, or drops what is queued "
        "for it (max_queued_messages)"
    )
