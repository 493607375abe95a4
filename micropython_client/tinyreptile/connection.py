"""A connection's byte streams, where asyncio on MicroPython and on CPython differ; and waits with a limit."""

import asyncio
import sys

ETIMEDOUT = 110
ENOTCONN = 107

if sys.implementation.name == "micropython":
    wait_for = asyncio.wait_for

    async def fill(reader, view):
        """Fill the memoryview ``view`` from ``reader``; OSError if the peer closes before."""
        at = 0
        while at < len(view):
            count = await reader.readinto(view[at:] if at else view)
            if count == 0:
                raise OSError(ENOTCONN, "the broker closed the connection")
            at += count or 0

    def write(writer, data):
        """Hand ``data`` over; whether some of it still waits to be sent."""
        writer.write(data)
        return writer.out_buf

    def send_at_once(writer):
        """Turn Nagle's algorithm off: with delayed acknowledgements it costs 40 ms or more a packet."""
        try:
            writer.s.setsockopt(6, 1, 1)  # IPPROTO_TCP, TCP_NODELAY
        except (AttributeError, OSError):
            pass  # a port or a TLS socket that has no such option

else:

    async def wait_for(awaitable, seconds):
        """As asyncio's; but under Python 3.11 that one may swallow a cancellation, and its device would live on."""
        async with asyncio.timeout(seconds):
            return await awaitable

    async def fill(reader, view):
        """Fill the memoryview ``view`` from ``reader``; OSError if the peer closes before."""
        try:
            view[:] = await reader.readexactly(len(view))
        except EOFError:
            raise OSError(ENOTCONN, "the broker closed the connection") from None

    def write(writer, data):
        """Hand ``data`` over; whether some of it still waits to be sent."""
        writer.write(bytes(data))  # a copy: the transport may keep what it is given
        return writer.transport.get_write_buffer_size()

    def send_at_once(writer):
        """Nothing to do: asyncio turns Nagle's algorithm off itself."""


def reason(error):
    """An OSError in words: MicroPython has but a number for some."""
    text = str(error)
    if "addrinfo" in text or text[:1] == "-":
        return "the host's name was not found (%s)" % text
    return "the connection broke (%s)" % text if text.isdigit() else text


async def limit(awaitable, seconds):
    """Await at most ``seconds``; OSError after that."""
    try:
        return await wait_for(awaitable, seconds)
    except asyncio.TimeoutError:
        raise OSError(ETIMEDOUT, "the broker does not answer")
