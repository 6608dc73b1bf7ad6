"""A worker's log over HTTP: its end, and what comes after if asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from config.disk import private
from lb.protocol.errors import ProxyError

_LOOK_EVERY = 0.25
_CHUNK = 64 * 1024

_YES_OR_NO = {"0": False, "false": False, "1": True, "true": True}


async def follow(
    request: web.Request, path: Path, lines: int, go_on: bool, over: Callable[[], bool] = lambda: False
) -> web.StreamResponse:
    """The last ``lines`` lines of ``path`` as text; with ``go_on``, everything written afterwards as it comes,
    until the client goes away or all streams are ``over``. A file that shrinks was rotated: reading goes on from its
    new beginning."""
    response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8", "X-Accel-Buffering": "no"})
    await response.prepare(request)
    text, offset = await asyncio.to_thread(_tail, path, lines)
    await response.write(text)
    while go_on and not over():
        await asyncio.sleep(_LOOK_EVERY)
        text, offset = await asyncio.to_thread(_since, path, offset)
        if text:
            await response.write(text)
    await response.write_eof()
    return response


def _tail(path: Path, lines: int) -> tuple[bytes, int]:
    try:
        with private.open_file(path) as file:
            size = file.seek(0, 2)
            position, found = size, b""
            while position > 0 and found.count(b"\n") <= lines:
                step = min(_CHUNK, position)
                position -= step
                file.seek(position)
                found = file.read(step) + found
    except FileNotFoundError:
        return b"", 0
    if not lines:
        return b"", size
    # Not splitlines: a progress bar's carriage returns make no lines.
    ended = found.removesuffix(b"\n")
    return b"\n".join(ended.split(b"\n")[-lines:]) + found[len(ended) :], size


def _since(path: Path, offset: int) -> tuple[bytes, int]:
    try:
        with private.open_file(path) as file:
            size = file.seek(0, 2)
            start = offset if offset <= size else 0
            file.seek(start)
            text = file.read(_CHUNK)
    except FileNotFoundError:
        return b"", 0
    return text, start + len(text)


async def answer(
    request: web.Request, log: Callable[[str], Path | None], closed: Callable[[], bool]
) -> web.StreamResponse:
    """``log``: where something of that name writes. Raises ProxyError."""
    name = request.match_info["name"]
    path = log(name)
    if path is None:
        raise ProxyError(404, f"no log of {name!r}; instances, jobs, `balancer` and `access` have one")
    try:
        lines = int(request.query.get("lines", "100"))
    except ValueError:
        raise ProxyError(400, "lines: a whole number is needed", param="lines") from None
    if not 0 <= lines <= 100_000:
        raise ProxyError(400, "lines: 0 to 100000", param="lines")
    if (given := request.query.get("follow", "0")) not in _YES_OR_NO:
        raise ProxyError(400, f"follow: 0 or 1, not {given[:100]!r}", param="follow")
    return await follow(request, path, lines, _YES_OR_NO[given], closed)
