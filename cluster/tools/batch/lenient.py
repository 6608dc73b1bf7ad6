"""Asks servers that do not take every field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cluster.tools.batch.lines import BatchRequest
from cluster.tools.batch.run import RequestSender
from cluster.tools.batch.structured import FIELD

#: How a server says that it does not take a field.
_REFUSED = frozenset({400, 404, 415, 422, 501})

#: Fields that a request can be answered without; and one of them under the name that some servers want.
_HELPFUL = (FIELD, "max_tokens", "max_completion_tokens", "temperature", "seed")
_RENAMED = {"max_tokens": "max_completion_tokens"}


class LenientSender:
    """Sends as ``sender`` does, but where the server refuses a field that only helps, without that one, and from then
    on if that was it: a schema, or what newer models of OpenAI have no more."""

    def __init__(self, sender: RequestSender) -> None:
        self._sender = sender
        self.without: frozenset[str] = frozenset()

    async def __call__(self, ask: BatchRequest) -> dict[str, Any]:
        """As `RequestSender.__call__`."""
        without = self.without
        while True:
            answer = await self._sender(_fitted(ask, without))
            error = answer.get("error")
            if not error:
                self.without |= without
            if not error or error["status"] not in _REFUSED or (more := _culprit(ask, error, without)) is None:
                return answer
            without |= {more}


def _culprit(ask: BatchRequest, error: Mapping[str, Any], without: frozenset[str]) -> str | None:
    """The field that an error is about: one that it names, by its old or its new name, otherwise the schema."""
    body = json.loads(_fitted(ask, without).body or b"{}")
    left = [name for name in _HELPFUL if name in body]
    named = [name for name in left if name in error["message"] or _RENAMED.get(name, name) in error["message"]]
    return next(iter(named or [name for name in left if name == FIELD]), None)


def _fitted(ask: BatchRequest, without: frozenset[str]) -> BatchRequest:
    """The same without those fields, or with what they are called now, under the hash of what was meant."""
    if not without or not ask.path:
        return ask
    given = json.loads(ask.body)
    body = {name: value for name, value in given.items() if name not in without}
    for old, new in _RENAMED.items():
        if old in given and old in without and new not in without:
            body[new] = given[old]
    return replace(ask, body=json.dumps(body, sort_keys=True).encode())
