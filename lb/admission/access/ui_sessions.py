"""`POST /v1/cluster/ui/link` and `…/session`: the way of a browser to a session, without a key typed into it.

Whoever may manage the cluster asks for a code; the page that is opened with it exchanges it, once, for a bearer
token."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from config.identity.principal import PRINCIPAL_HEADER, Principal, Scope
from lb.admission.access.credentials import SESSION, Credentials
from lb.admission.access.links import LINK_S
from lb.admission.access.sessions import SESSION_S
from lb.protocol.errors import ProxyError, Source

#: Bytes of a body with a code.
_MOST = 1000

_SECRET = {"Cache-Control": "no-store"}


class UiSessions:
    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def link(self, request: web.Request) -> web.Response:
        """Raises ProxyError (400, 403, 507)."""
        who = Principal.from_line(request.headers.get(PRINCIPAL_HEADER, ""))
        # What it leads to may everything; and a session that made another would never end.
        if not who.may(Scope.OWNER) or who.name == SESSION:
            raise ProxyError(403, "only the owner of the cluster makes links, with the admin key where there is one")
        if await _fields(request):
            raise ProxyError(400, "no fields are known here")
        try:
            code = await asyncio.to_thread(self._credentials.new_link)
        except OSError as error:
            raise ProxyError(507, f"no link can be kept: {error.strerror}", source=Source.INTERNAL) from None
        return web.json_response({"code": code, "expires_in": LINK_S}, headers=_SECRET)

    async def session(self, request: web.Request) -> web.Response:
        """Raises ProxyError (400, 401)."""
        given = await _fields(request)
        code = given.pop("code", None)
        if not isinstance(code, str) or given:
            raise ProxyError(400, 'a {"code": …} from `clusterctl ui` is needed', param="code")
        token = await asyncio.to_thread(self._credentials.redeem, code)
        if token is None:
            raise ProxyError(401, "this link was used before or is too old: `clusterctl ui` prints another")
        return web.json_response({"token": token, "expires_in": SESSION_S}, headers=_SECRET)


async def _fields(request: web.Request) -> dict[str, object]:
    body = await request.read()
    if len(body) > _MOST:
        raise ProxyError(413, f"a body of more than {_MOST} bytes")
    try:
        given = json.loads(body or b"{}")
    except ValueError as error:
        raise ProxyError(400, f"no JSON: {error}") from None
    if not isinstance(given, dict):
        raise ProxyError(400, "an object is needed")
    return given
