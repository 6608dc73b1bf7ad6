"""`GET /v1/cluster/why`: which workers could have taken a request, which one did, by what, and what became of it.

Answered from the decision logs of all balancer processes: whoever is asked asks the others. And `POST
/v1/cluster/routes/{name}/test`: what a route would choose for a text.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from aiohttp import web

from config import bounded
from config.logs import iso
from config.model_names import ModelRoute, Named
from lb.control.peers import Peers
from lb.protocol.errors import ProxyError
from lb.protocol.facts import MOST_NAME
from lb.records.decision_log import KEPT, DecisionLog, Entry, Row, Step
from lb.routing.backend import Backend
from lb.routing.strategies.base import Decision, Score

#: Decisions in an answer where nobody says how many.
_USUAL = 20


class Why:
    """``under_way()`` tells of requests that are not over. ``clock`` is that of the decision log (s, monotonic)."""

    def __init__(
        self, decision_log: DecisionLog, under_way: Callable[[], Iterable[Row]], peers: Peers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._decision_log, self._under_way, self._peers, self._clock = decision_log, under_way, peers, clock

    async def answer(self, request: web.Request) -> web.Response:
        """Raises ProxyError: 400, 404."""
        id, limit = request.query.get("request_id"), _limit(request.query.get("limit"))
        question = {"type": "why", "request_id": id, "limit": limit}
        own, others = await asyncio.gather(self.own(question), self._peers.ask(question))
        found = [one for answer in (own, *others) for one in answer.get("decisions", ())]
        found.sort(key=lambda decision: str(decision["at"]), reverse=True)
        if id is not None and not found:
            raise ProxyError(
                404, f"nothing is known of a request {id!r}: each balancer process keeps its last {KEPT:,}",
                param="request_id",
            )  # fmt: skip
        return web.json_response({"decisions": found[:limit]})

    async def own(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """What another balancer is answered: what this process knows, the newest first."""
        id, limit = message.get("request_id"), int(message["limit"])
        rows = [*self._decision_log.ring, *self._under_way()]
        found = [row for row in reversed(rows) if id is None or row[0].id == id][:limit]
        epoch = time.time() - self._clock()
        # In a thread: words for a thousand requests must not stand between somebody's tokens.
        now = self._clock()
        made = await asyncio.to_thread(lambda: [decision(Entry._make(row), epoch, now) for row in found])
        return {"type": "why", "decisions": made}


class RouteTrial:
    """``named()``: routes and aliases in force, by name."""

    def __init__(self, named: Callable[[], Mapping[str, Named]]) -> None:
        self._named = named

    async def answer(self, request: web.Request) -> web.Response:
        """Nobody is asked for anything. Raises ProxyError: 400, 404."""
        name, text = request.match_info["name"], _text(await request.read())
        route = self._named().get(name)
        if not isinstance(route, ModelRoute):
            raise ProxyError(404, f"no route is named {name[:MOST_NAME]!r}", param="name")
        choice = route.choose(text)
        assert choice is not None  # nobody is bound to models here
        return web.json_response({"model": choice.model, "reason": choice.reason})


def _text(body: bytes) -> str:
    """Raises ProxyError (400)."""
    try:
        given = bounded.parse_json(body)
    except ValueError as error:
        raise ProxyError(400, f"the body {error}") from None
    if not isinstance(given, dict) or set(given) != {"text"} or not isinstance(given["text"], str):
        raise ProxyError(400, "a text is needed, and nothing else", param="text")
    return str(given["text"])


def decision(entry: Entry, epoch: float, now: float) -> dict[str, Any]:
    """For people and programs. ``epoch``: the clock's 0 in s since the epoch; ``now``: by the clock."""
    info, came = entry.info, entry.came
    steps = [Step._make(step) for step in info.steps]
    attempts = [
        {**_attempt(step.backend, step.began - came, step.decision), "ended_s": _s(step.ended - came),
         "failed": step.reason, "cause": step.cause, **({"continued": step.way} if step.way else {})}
        for step in steps
    ]  # fmt: skip
    if entry.backend is not None:
        attempts.append(_attempt(entry.backend, entry.began - came, info.decision))
    asked: dict[str, Any] = {"cached": True} if entry.status == 200 and entry.backend is None else {}
    asked |= {} if info.asked is None else {"asked": info.asked, "model_chosen": info.chosen}
    return {
        "request_id": info.id, "at": iso(epoch + came), "model": info.model, **asked, "route": info.path,
        "balancer": os.getpid(), "attempts": attempts, "outcome": _outcome(entry),
        "queued": [
            {"began_s": _s(stay.since - came), "waited_s": _s((now if stay.until is None else stay.until) - stay.since),
             "ahead": stay.ahead, "behind": stay.behind or None,
             **({} if stay.absent is None else {"model": stay.absent})}
            for stay in info.stays
        ],
    }  # fmt: skip


def _attempt(backend: Backend, at: float, made_by: Decision | None) -> dict[str, Any]:
    made: dict[str, Any] = {"instance": backend.id, "incarnation": backend.spec.incarnation, "began_s": _s(at)}
    if made_by is None:
        reason = "the only one that has the response this request refers to"
        return {**made, "strategy": None, "reason": reason, "candidates": [{"instance": backend.id}]}
    candidates, strategy, scores = made_by
    if strategy is None:
        reason = "the only available candidate"
        return {**made, "strategy": None, "reason": reason, "candidates": [{"instance": b.id} for b in candidates]}
    by_id = scores if isinstance(scores, Mapping) else dict(zip((b.id for b in candidates), scores or (), strict=False))
    others = {id: score for id, score in by_id.items() if id != backend.id}
    explained = {backend.id, min(others, key=others.__getitem__, default="")} if strategy.terms else set()
    shown = [
        {"instance": b.id, **(_scored(by_id[b.id], strategy.terms, b.id in explained) if b.id in by_id else {})}
        for b in candidates
    ]
    made |= {"strategy": strategy.name, "reason": strategy.rule, "candidates": shown}
    return {**made, "scored_by": strategy.measure} if by_id else made


def _scored(score: Score, names: Sequence[str], explained: bool) -> dict[str, Any]:
    """``explained``: with what it is made of."""
    total, *terms = score if isinstance(score, tuple) else (score,)
    made: dict[str, Any] = {"score": _s(total)}
    return {**made, "terms": dict(zip(names, map(_s, terms), strict=True))} if explained else made


def _outcome(entry: Entry) -> dict[str, Any] | None:
    """None: it is under way."""
    if not entry.status:
        return None
    first = _s(entry.first - entry.came) if entry.first else None
    return {
        "status": entry.status, "error": entry.reason or None, "time_to_first_token_s": first,
        "duration_s": _s(entry.ended - entry.came), "completion_tokens": entry.made or None,
    }  # fmt: skip


def _s(seconds: float) -> float:
    return round(seconds, 6)


def _limit(text: str | None) -> int:
    """Raises ProxyError (400)."""
    try:
        limit = _USUAL if text is None else int(text)
    except ValueError:
        limit = 0
    if not 1 <= limit <= KEPT:
        raise ProxyError(400, f"limit: 1 to {KEPT}", param="limit")
    return limit
