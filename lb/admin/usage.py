"""`GET /v1/cluster/usage`: what was taken, by key, model and day, from the ledger of all balancers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

from aiohttp import web

from lb.protocol.errors import ProxyError, Source
from lb.records.usage import GROUPS, UsageLedger

#: Days that are told where nobody says since when.
_USUAL = 30


class UsagePage:
    """``wall()``: s since the epoch."""

    def __init__(self, ledger: UsageLedger, wall: Callable[[], float]) -> None:
        self._ledger, self._wall = ledger, wall

    async def answer(self, request: web.Request) -> web.Response:
        """Raises ProxyError: 400, 507."""
        by = tuple(dict.fromkeys(request.query.get("by", "key,model").split(",")))
        if not set(by) <= set(GROUPS):
            raise ProxyError(400, f"by: some of {', '.join(GROUPS)} with commas between them are needed", param="by")
        end = _day(request, "to", datetime.fromtimestamp(self._wall(), UTC).date())
        begin = _day(request, "from", end - timedelta(min(_USUAL, end.toordinal()) - 1))
        try:
            found = await self._ledger.query(by, begin.isoformat(), end.isoformat())
        except OSError as error:
            raise ProxyError(507, f"the ledger cannot be read: {error}", source=Source.INTERNAL) from None
        said = {"from": begin.isoformat(), "to": end.isoformat(), "by": by, "usage": found}
        return web.json_response(said, headers={"Cache-Control": "no-store"})


def _day(request: web.Request, name: str, usual: date) -> date:
    text = request.query.get(name)
    try:
        return usual if text is None else date.fromisoformat(text)
    except ValueError:
        raise ProxyError(400, f"{name}: a day such as 2026-01-31 is needed", param=name) from None
