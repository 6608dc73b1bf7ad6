"""The page at `/ui/`: files of this package, sent as they are. There is nothing secret in them, so everybody may load
them; what they show comes from the management API, which asks who wants to know."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from aiohttp import web

from lb.protocol.errors import ProxyError

_FOLDER = Path(__file__).parents[1] / "ui"

_KINDS = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
}  # fmt: skip

#: Nothing from elsewhere, nothing inline, in no frame: what a worker says cannot become a script.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Asked for again each time, answered with 304: files that belong together are never of two releases.
    "Cache-Control": "no-cache",
}


class Page:
    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, str]] = {}

    async def file(self, request: web.Request) -> web.Response:
        """Raises ProxyError (404)."""
        name = request.match_info.get("file") or "index.html"
        if not self._files:
            self._files = await asyncio.to_thread(_read)
        found = self._files.get(name)
        if found is None:
            raise ProxyError(404, f"no route {request.path}")
        body, tag = found
        headers = {**_HEADERS, "ETag": tag}
        if tag in [given.strip().removeprefix("W/") for given in request.headers.get("If-None-Match", "").split(",")]:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers={**headers, "Content-Type": _KINDS[Path(name).suffix]})

    async def root(self, request: web.Request) -> web.Response:
        """`/` is for browsers only; anybody else is told that there is no such route."""
        if request.method not in ("GET", "HEAD") or "text/html" not in request.headers.get("Accept", ""):
            raise ProxyError(404, f"no route {request.path}")
        return _to("ui/")

    async def folder(self, _: web.Request) -> web.Response:
        return _to("ui/")


def _to(place: str) -> web.Response:
    """Relative: whatever path a proxy in front serves this cluster under."""
    return web.Response(status=302, headers={"Location": place, "Cache-Control": "no-store", "Vary": "Accept"})


def _read() -> dict[str, tuple[bytes, str]]:
    """Content and ETag by name."""
    found = {path.name: path.read_bytes() for path in _FOLDER.iterdir() if path.suffix in _KINDS}
    return {name: (body, f'"{hashlib.sha256(body).hexdigest()[:24]}"') for name, body in found.items()}
