"""Streams: what is asked for, how a line is read, and how one that ends is taken up again. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import quote

from cluster.client.core import SLOW, Call, ClusterError, no_result
from cluster.client.results import Event

NO_TOKEN = "an answer without a token"

#: Seconds until a stream that ended is opened again.
AGAIN = 0.5

#: A stream of events that is silent for so long (s) is dead: it would have had comments.
_SILENCE = 40.0


def listen(since: int) -> Call[None]:
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(since)}
    return Call("GET", "/v1/cluster/events", no_result, headers=headers, silence=_SILENCE)


def logs(instance: str, lines: int, follow: bool) -> Call[None]:
    path = f"/v1/cluster/instances/{quote(instance, safe='')}/logs"
    params: dict[str, str | int] = {"lines": lines, "follow": "1" if follow else "0"}
    return Call("GET", path, no_result, params=params, silence=None if follow else 10.0)


def first_token(model: str, prompt: str) -> Call[None]:
    body = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "stream": True}
    return Call("POST", "/v1/completions", no_result, body, silence=SLOW)


class Following:
    """The events after the one with the id ``last``, over the ends of connections and balancers. ``trouble`` is told
    once of each time that the cluster cannot be reached."""

    def __init__(self, last: int, trouble: Callable[[ClusterError], None]) -> None:
        self._last, self._trouble = last, trouble
        self._told = False

    def call(self) -> Call[None]:
        return listen(self._last)

    def opened(self) -> None:
        self._told = False

    def on_event(self, event: Event) -> None:
        self._last = event["id"]

    def broken(self, error: ClusterError) -> None:
        """Raises ``error`` where it is no use to try again."""
        if error.status not in (None, 503):
            raise error
        if not self._told:
            self._trouble(error)
        self._told = True


def _data(line: str) -> Any:
    """The JSON of a line of a stream, None for one without. Raises ValueError."""
    return json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else None


def event(line: str) -> Event | None:
    """The event that a line of a stream holds. Raises ValueError."""
    data = _data(line)
    if data is None:
        return None
    if not isinstance(data, dict) or not isinstance(data.get("id"), int):
        raise ValueError("no event of a cluster")
    return cast(Event, data)


def is_token(line: str) -> bool:
    """Whether a line of a streamed answer is a token. Raises ClusterError where it says why there is none."""
    if not line.startswith("data: {"):
        return False
    try:
        error = _data(line).get("error")
    except (ValueError, AttributeError):
        raise ClusterError(NO_TOKEN) from None
    if error:
        raise ClusterError(str(error.get("message") if isinstance(error, dict) else error))
    return True
