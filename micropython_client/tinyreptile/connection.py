"""A connection's byte streams, where asyncio on MicroPython and on CPython differ; and waits with a limit."""

import asyncio
import sys

from .portable import const

ETIMEDOUT = 110
ENOTCONN = 107

_ADDRESS_SECONDS = const(3)  # for one of several addresses of a name, before the next is tried

if sys.implementation.name == "micropython":
    import errno
    import socket
    from asyncio import core

    wait_for = asyncio.wait_for

    async def open_connection(host, port, ssl=None, server_hostname=None):
        """As asyncio's, which tries the first address of a name only."""
        addresses = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
        while True:
            address = addresses.pop(0)
            sock = socket.socket(address[0], address[1], address[2])
            try:
                await _connect(sock, address[-1], addresses)
                break
            except OSError:
                sock.close()
                if not addresses:
                    raise
        if ssl:
            sock = ssl.wrap_socket(sock, server_hostname=server_hostname, do_handshake_on_connect=False)
            sock.setblocking(False)
        stream = asyncio.StreamReader(sock)
        return stream, stream

    async def _connect(sock, address, others):
        sock.setblocking(False)
        try:
            sock.connect(address)
        except OSError as error:
            if error.errno != errno.EINPROGRESS:
                raise
        if not others:
            return await _writable(sock)  # what became of it shows with the first packet
        await limit(_writable(sock), _ADDRESS_SECONDS)
        try:
            sock.connect(address)  # once more: there is no other way to ask what became of it
        except OSError as error:
            if error.errno not in (106, 127):  # EISCONN, here and on the ESP32
                raise

    def _writable(sock):
        yield core._io_queue.queue_write(sock)

    async def receive(reader, view):
        """Read what has come into the memoryview ``view``, return how many bytes; OSError if the peer has closed."""
        while True:
            count = await reader.readinto(view)
            if count == 0:
                raise OSError(ENOTCONN, "the broker closed the connection")
            if count:
                return count

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
    import socket

    async def wait_for(awaitable, seconds):
        """As asyncio's; but under Python 3.11 that one may swallow a cancellation, and its device would live on."""
        async with asyncio.timeout(seconds):
            return await awaitable

    async def open_connection(host, port, ssl=None, server_hostname=None):
        """As asyncio's, but an address of several that does not answer is not waited for long."""
        options = {"ssl": ssl, "server_hostname": server_hostname} if ssl else {}
        try:
            addresses = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except ValueError:  # UnicodeError is one
            raise OSError("no host can have this name")
        for address in addresses[:-1]:
            try:
                return await limit(asyncio.open_connection(address[4][0], port, **options), _ADDRESS_SECONDS)
            except OSError:
                pass
        return await asyncio.open_connection(addresses[-1][4][0], port, **options)

    async def receive(reader, view):
        """Read what has come into the memoryview ``view``, return how many bytes; OSError if the peer has closed."""
        data = await reader.read(len(view))
        if not data:
            raise OSError(ENOTCONN, "the broker closed the connection")
        view[: len(data)] = data
        return len(data)

    def write(writer, data):
        """Hand ``data`` over; whether some of it still waits to be sent."""
        writer.write(bytes(data))  # a copy: the transport may keep what it is given
        return writer.transport.get_write_buffer_size()

    def send_at_once(writer):
        """Nothing to do: asyncio turns Nagle's algorithm off itself."""


def reason(error):
    """An OSError in words: MicroPython has but a number for some."""
    text = str(error)
    if error.args and isinstance(error.args[0], int) and error.args[0] < -1000:  # those of names end before
        from .tls import failure

        return failure(error.args[0])
    if "addrinfo" in text or text[:1] == "-":
        return "the host's name was not found (%s)" % text
    return "the connection broke (%s)" % text if text.isdigit() else text


async def limit(awaitable, seconds):
    """Await at most ``seconds``; OSError after that."""
    try:
        return await wait_for(awaitable, seconds)
    except asyncio.TimeoutError:
        raise OSError(ETIMEDOUT, "the broker does not answer")
