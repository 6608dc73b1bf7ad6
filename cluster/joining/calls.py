"""What clients ask a balancer on another machine that only the supervisor can answer: asked here for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from config.identity.principal import PEER_HEADER, PRINCIPAL_HEADER, Principal, Scope
from config.link import SEQUENCE_HEADER
from config.paths import short_socket_path

#: How long (s) an answer may take: as long as balancers here wait for one.
_PATIENCE_S = 900.0


class SupervisorApi:
    """Over its ``control`` socket, as the balancers of this machine do."""

    def __init__(self, control: Path) -> None:
        connector = aiohttp.UnixConnector(path=short_socket_path(control), limit=64, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, trust_env=False)

    async def close(self) -> None:
        await self._session.close()

    async def answer(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """To a ``call`` of `cluster.joining.protocol`. Raises KeyError, ValueError for what is none."""
        path, method = str(call["path"]), str(call["method"])
        if not path.startswith("/v1/"):
            raise ValueError(path)
        headers = {PRINCIPAL_HEADER: limited(str(call["principal"])), PEER_HEADER: str(call["peer"])}
        try:
            async with self._session.request(
                method, URL(f"http://supervisor{path}", encoded=True), data=str(call["body"]).encode(),
                headers=headers, timeout=aiohttp.ClientTimeout(total=_PATIENCE_S),
            ) as answer:
                status, text = answer.status, await answer.text()
                sequence = answer.headers.get(SEQUENCE_HEADER, "")
        except (aiohttp.ClientError, OSError, TimeoutError):
            status, text, sequence = 503, "", ""
        return {"type": "answer", "id": call["id"], "status": status, "sequence": sequence, "text": text}


def limited(line: str) -> str:
    """The principal of a ``line``, who is no owner here: what names paths or runs code is asked for on the supervisor's
    own machine. Nobody, where there is none: a line that is not there would be the owner's."""
    asked = Principal.from_line(line)
    scopes = {Scope.ADMIN if scope is Scope.OWNER else scope for scope in asked.scopes}
    return Principal(asked.name or "nobody", frozenset(scopes)).line()
