"""Which worker made a response id: the Responses API keeps its answers in the memory of one worker. Pure."""

from __future__ import annotations

import re
from collections import OrderedDict

_ID = re.compile(rb'"id"\s*:\s*"(resp_[A-Za-z0-9_-]{1,128})"')


class ResponseOwners:
    """The last ``most`` ids."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._owner: OrderedDict[str, tuple[str, int]] = OrderedDict()

    def learn(self, answer: bytes, backend: str, incarnation: int) -> None:
        """``answer``: the first bytes of an answer, plain or event stream; the id stands at their beginning."""
        match = _ID.search(answer, 0, 4096)
        if match:
            self.remember(match[1].decode(), backend, incarnation)

    def remember(self, response: str, backend: str, incarnation: int) -> None:
        self._owner[response] = (backend, incarnation)
        while len(self._owner) > self._most:
            self._owner.popitem(last=False)

    def owner(self, response: str) -> tuple[str, int] | None:
        """(backend id, incarnation), if the id is known."""
        return self._owner.get(response)
