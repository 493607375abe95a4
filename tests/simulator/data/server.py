"""A web server of the test's own: one file, and the faults that a test asks for."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Serves ``content`` at `address` on the loopback, whatever the path; the attributes may be changed at any time.

    Attributes:
        content: the file.
        etag: its ETag; None: the server sends none.
        date: its Last-Modified; None: the server sends none.
        ranges: whether it knows Range at all.
        break_after: bytes of the body after which it hangs up; None: never.
        hold_after: bytes of the body after which it falls silent, until it is closed; None: never.
        length: whether it says how long the body is.
        status: a status to answer instead; None: what is right.
        asked: the Range of every request, None for one without.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag: str | None = '"one"'
        self.date: str | None = None
        self.ranges = True
        self.break_after: int | None = None
        self.hold_after: int | None = None
        self.length = True
        self.status: int | None = None
        self.asked: list[str | None] = []
        self._closed = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
                """Nothing on the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{name}"

    def close(self) -> None:
        self._closed.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.asked.append(wanted)
        if self.status:
            handler.send_error(self.status)
            return
        begin = 0
        matches = handler.headers.get("If-Range") in (None, self.etag, self.date)
        if wanted and self.ranges and matches:
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if begin >= len(self.content) > 0:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(self.content)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        body = self.content[begin:]
        handler.send_response(206 if begin else 200)
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}")
        if self.etag:
            handler.send_header("ETag", self.etag)
        if self.date:
            handler.send_header("Last-Modified", self.date)
        if self.length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: self.break_after if self.hold_after is None else self.hold_after])
        if self.hold_after is not None:
            self._closed.wait(60)
