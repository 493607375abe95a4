"""Sleep between pieces of work, for a device whose energy counts: no session, no radio, no computing."""

import asyncio


class Nap:
    """What `client.Client.rest` may be: ``seconds`` without a session, the radio of ``wifi`` off if there is one.

    Attributes:
        pause: a coroutine function that lets so many seconds go by; by default asyncio.sleep.
    """

    def __init__(self, seconds, wifi=None):
        self._seconds = seconds
        self._wifi = wifi
        self.pause = asyncio.sleep

    async def __call__(self):
        """Sleep once."""
        if self._wifi:
            self._wifi.down()
        await self.pause(self._seconds)
