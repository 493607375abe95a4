"""The HTTP side of a service, for who watches over it: its metrics, whether it lives, whether it can work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from http import HTTPStatus

from .errors import CoordinatorError
from .metrics import Metrics
from .runs import Runs

REQUEST_BYTES = 8192  # of a request with its headers
SECONDS = 10.0  # for a request and its answer
CONNECTIONS = 50  # at once

_TEXT = "text/plain; charset=utf-8"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' text format

Answer = tuple[HTTPStatus, str, bytes]  # its status, its type, its body


@contextlib.asynccontextmanager
async def watched(runs: Runs, host: str, port: int) -> AsyncIterator[int]:
    """``/metrics``, ``/healthz`` and ``/readyz`` of ``runs`` at ``host`` and ``port``; gives the port.

    It answers in the event loop that it is called in, so an answer shows that the loop is alive. Raises
    `CoordinatorError` where it can't listen.
    """
    site = _Site(runs)
    try:
        server = await asyncio.start_server(site.serve, host, port, limit=REQUEST_BYTES)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CoordinatorError(
            f"metrics can't be served at {host}:{port} ({reason}); name another address with --metrics [HOST:]PORT"
        ) from None
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class _Site:
    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._metrics = Metrics(runs)
        self._connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request; the connection ends with its answer."""
        self._connections += 1
        try:
            if self._connections <= CONNECTIONS:
                async with asyncio.timeout(SECONDS):
                    writer.write(self._response(await reader.readuntil(b"\r\n\r\n")))
                    await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass  # whoever asked is gone, is slow, or says what is no request
        finally:
            self._connections -= 1
            writer.close()

    def _response(self, request: bytes) -> bytes:
        method, _, rest = request.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        status, kind, body = self._answer(method, path)
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "Connection: close",
        ]
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            lines.append("Allow: GET, HEAD")
        head = "\r\n".join([*lines, "", ""]).encode()
        return head if method == "HEAD" else head + body

    def _answer(self, method: str, path: str) -> Answer:
        if method not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"only GET and HEAD are answered\n"
        if path == "/metrics":
            return HTTPStatus.OK, _METRICS, self._metrics.text()
        if path == "/healthz":
            return _verdict(self._runs.failure, "alive")
        if path == "/readyz":
            return _verdict(self._runs.obstacle, "ready")
        return HTTPStatus.NOT_FOUND, _TEXT, b"there are /metrics, /healthz and /readyz\n"


def _verdict(obstacle: str, well: str) -> Answer:
    """The answer ``well``, or 503 and the ``obstacle``."""
    status = HTTPStatus.SERVICE_UNAVAILABLE if obstacle else HTTPStatus.OK
    return status, _TEXT, f"{obstacle or well}\n".encode(errors="replace")
