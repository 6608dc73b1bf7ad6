"""Which model answers a request that asks for a route or an alias."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from config.model_names import Choice, ModelAlias, ModelRoute
from lb.forwarding.shadow import Shadows
from lb.protocol.body import is_light
from lb.protocol.errors import ProxyError
from lb.protocol.fields import said
from lb.protocol.messages import Request
from lb.routing.pool import Pool
from lb.telemetry.metrics import Metrics

#: What an answer names the model in.
HEADER = "x-routed-model"

#: Characters of a model's name that a header has as they are.
_PLAIN = "/:@+,;=!$&'()*~ "


class ModelChoices:
    """``unknown(model, models)``: the error for a model that is none of the ``models`` that exist for whoever asks."""

    def __init__(
        self, pool: Pool, metrics: Metrics, shadows: Shadows,
        unknown: Callable[[str | None, frozenset[str] | None], ProxyError],
    ) -> None:
        self._pool, self._metrics, self.shadows, self._unknown = pool, metrics, shadows, unknown

    def choose(self, request: Request, model: str | None, named: str | None) -> Choice:
        """Of the route or alias ``model``, which was written as ``named``; a route may choose an alias. Whoever is
        bound to models is given one of them; an alias that it may ask for is as good as what it stands for. Raises
        ProxyError (404)."""
        models, pool = request.tenant.models, self._pool
        found = pool.named.get(model or "")
        chosen, reasons, name = model, [], model
        if isinstance(found, ModelRoute):
            choice = found.choose(said.last_user_text(_fields(request)), models)
            if choice is None:
                raise self._unknown(named, models)
            chosen, reasons = choice.model, [choice.reason]
            found = pool.named.get(chosen)
        shadow = None
        if isinstance(found, ModelAlias):
            assert chosen is not None
            name = chosen
            who = _who(request, _fields(request)) if found.is_split else ""
            choice = found.choose(name, who, None if models is None or name in models else models)
            if choice is None:
                raise self._unknown(named, models)
            chosen, shadow = choice.model, choice.shadow
            reasons.append(choice.reason)
        elif not reasons:
            raise self._unknown(named, models)
        assert chosen is not None and model is not None
        if not (chosen in pool.registered or pool.serving(chosen)):
            why = f"`{model}` stands for the model `{chosen}`, which does not exist"
            raise ProxyError(404, why, param="model", code=404)
        self._metrics.model_chosen(model, chosen)
        request.told += _line(chosen)
        if shadow is not None and request.upload is None:
            self.shadows.send(str(name), shadow, request)
        return Choice(chosen, ", ".join(reasons))


@functools.lru_cache(maxsize=256)
def _line(model: str) -> bytes:
    return f"\r\n{HEADER}: {quote(model, safe=_PLAIN)}".encode()


def _fields(request: Request) -> dict[str, Any]:
    return said.fields(request) if is_light(request.body) else {}


def _who(request: Request, body: dict[str, Any]) -> str:
    """The same for all that ought to get the same: of a user or a conversation of one key or, where neither is known,
    of the key; and without one by chance."""
    tenant = request.tenant
    return f"{tenant.name}\0{said.asker(body) or (request.id if not tenant.mark else '')}"


