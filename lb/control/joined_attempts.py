"""What balancers on several machines have under way, as they tell each other through the supervisor: in batches, a few
times a second, while each process of one machine hears the others' there at once."""

from __future__ import annotations

import math
import secrets
from array import array
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from lb.routing.others import Board

#: Values that wait to be told, records that wait to be read; more, and whoever they are for begins anew.
_MOST_TOLD, _MOST_HEARD = 1 << 16, 1 << 16

#: Each says something this often (s); of one that has been silent for so long nothing counts any more.
_ALIVE_S, _SILENT_S = 0.5, 3.0


class LocalBoard(Board, Protocol):
    """`lb.telemetry.shared_attempts.SharedAttempts`."""

    def look(self) -> None: ...


class JoinedAttempts:
    """A board over that of the processes ``here``, if there are several. ``clock``: seconds, monotonic."""

    def __init__(self, here: LocalBoard | None, clock: Callable[[], float]) -> None:
        self._here, self._clock = here, clock
        self._who = 1 + secrets.randbits(62)
        self._told, self._anew, self._told_at = array("Q"), True, -math.inf
        self._news: list[tuple[int, Sequence[int] | None]] = []
        self._heard_at: dict[int, float] = {}

    def tell(self, record: Sequence[int]) -> None:
        if self._here is not None:
            self._here.tell(record)
        if len(self._told) > _MOST_TOLD:  # nobody has asked for it for long
            self._told, self._anew = array("Q"), True
        self._told.append(len(record))
        self._told.extend(record)

    def news(self) -> Iterable[tuple[int, Sequence[int] | None]]:
        if self._here is not None:
            yield from self._here.news()
        news, self._news = self._news, []
        yield from news

    def look(self) -> None:
        """For processes and machines that are gone."""
        if self._here is not None:
            self._here.look()
        late = self._clock() - _SILENT_S
        for who in [who for who, at in self._heard_at.items() if at < late]:
            del self._heard_at[who]
            self._news.append((who, None))

    # over the link

    def due(self) -> dict[str, Any] | None:
        """What is to be told to other machines now."""
        now = self._clock()
        if not self._told and now - self._told_at < _ALIVE_S:
            return None
        records = b64encode(self._told.tobytes()).decode()
        message = {"type": "attempts", "who": self._who, "anew": self._anew, "records": records}
        self._told, self._anew, self._told_at = array("Q"), False, now
        return message

    def hear(self, message: Mapping[str, Any]) -> None:
        """What another machine's said. Raises ValueError, KeyError, TypeError for what is no such thing."""
        who, values = int(message["who"]), array("Q")
        values.frombytes(b64decode(message["records"], validate=True))
        if message["anew"] or who not in self._heard_at:
            self._news.append((who, None))
        self._heard_at[who] = self._clock()
        at = 0
        while at < len(values):
            size = values[at]
            self._news.append((who, values[at + 1 : at + 1 + size].tolist()))
            at += 1 + size
        if len(self._news) > _MOST_HEARD:  # no strategy here wants to know
            self._news = [(who, None) for who in self._heard_at]
