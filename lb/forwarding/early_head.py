"""The head of a stream that goes out while its request waits for a model to come up, and comments after it.

A client, or a proxy before it, takes a connection on which nothing comes for a minute for dead. A comment is nothing to
whoever reads the stream (https://html.spec.whatwg.org/multipage/server-sent-events.html, 9.2.6). What fails from then
on can be told in the stream only.
"""

from __future__ import annotations

import asyncio

from lb.protocol import error_shapes
from lb.protocol.errors import ProxyError
from lb.protocol.http1 import response
from lb.protocol.http1.chunked import LAST, frame
from lb.protocol.messages import Downstream, Request
from lb.upstream import headers

#: Seconds that a request waits before the head goes out, and between two comments.
_FIRST_S, _EVERY_S = 1.0, 5.0

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n\r\n"


class EarlyHead:
    """Of the answer to ``request``, which waits for ``model``. ``sent``: it has gone out."""

    def __init__(self, client: Downstream, request: Request, model: str) -> None:
        self._client, self._request = client, request
        self._comment = frame(b": waiting for %b\n\n" % model.encode())
        self._timer: asyncio.TimerHandle | None = None
        self.sent = False
        self.wait()

    @staticmethod
    def fits(request: Request) -> bool:
        """Whether its client can be sent an answer of which nobody knows the length."""
        return request.head.version == 1 and request.head.method == "POST" and request.repeatable

    def wait(self) -> None:
        """Its request waits, once more if it had stopped."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_EVERY_S if self.sent else _FIRST_S, self._say)

    def stop(self) -> None:
        """Its request waits no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def refuse(self, error: ProxyError) -> None:
        """``error`` is the end of the stream."""
        event = error_shapes.event(self._request.head.path, str(error), status=error.status)
        self._client.write(frame(event) + LAST)
        self._client.done()

    def _say(self) -> None:
        self._timer = None
        if not self._client.full:
            start = b"" if self.sent else self._start()
            self.sent = True
            self._client.write(start + self._comment)
        self.wait()

    def _start(self) -> bytes:
        request = self._request
        return headers.to_client(
            response.parse(_HEAD), request_id=request.id, framing=b"Transfer-Encoding: chunked",
            close=self._client.closes_after_this(), grant=request.grant, told=request.told,
        )  # fmt: skip
