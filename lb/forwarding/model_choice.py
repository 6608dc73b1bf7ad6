"""Which model answers a request that asks for a route or an alias."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from config.model_names import Choice, ModelAlias, ModelRoute, Split
from lb.forwarding.shadow import Shadows
from lb.protocol.body import is_light
from lb.protocol.errors import ProxyError
from lb.protocol.fields import said
from lb.protocol.messages import Request
from lb.routing.pool import Pool
from lb.telemetry.instruments import Counter
from lb.telemetry.metrics import Metrics

#: What an answer names the model in.
HEADER = "x-routed-model"

#: Characters of a model's name that a header has as they are.
_PLAIN = "/:@+,;=!$&'()*~ "

_MOST_SPLITS, _MOST_SEEN = 256, 1_024


class ModelChoices:
    """``unknown(model, models)``: the error for a model that is none of the ``models`` that exist for whoever asks."""

    def __init__(
        self, pool: Pool, metrics: Metrics, shadows: Shadows,
        unknown: Callable[[str | None, frozenset[str] | None], ProxyError],
    ) -> None:
        self._pool, self._metrics, self.shadows, self._unknown = pool, metrics, shadows, unknown

        #: Of aliases at hand, for whoever may ask for them by name (None) or for those models only.
        self._splits: dict[tuple[str, frozenset[str] | None], Split] = {}
        #: By the name that was asked for and the model: where that is counted, and what its answer says.
        self._seen: dict[tuple[str, str], tuple[Counter, bytes]] = {}

    def choose(self, request: Request, model: str | None, named: str | None) -> Choice:
        """Of the route or alias ``model``, which was written as ``named``; a route may choose an alias. Whoever is
        bound to models is given one of them; an alias that it may ask for is as good as what it stands for. Raises
        ProxyError (404)."""
        models, pool = request.tenant.models, self._pool
        name = model or ""
        found, choice = pool.named.get(name), None
        if isinstance(found, ModelAlias):
            choice = self._of_alias(request, name, found)
        elif isinstance(found, ModelRoute):
            choice = found.choose(said.last_user_text(_fields(request)), models)
            if choice is not None and isinstance(alias := pool.named.get(choice.model), ModelAlias):
                name, reason = choice.model, choice.reason
                choice = self._of_alias(request, name, alias)
                choice = None if choice is None else choice._replace(reason=f"{reason}, {choice.reason}")
        if choice is None:
            raise self._unknown(named, models)
        assert model is not None
        chosen, _, shadow = choice
        if not pool.exists(chosen):
            why = f"`{model}` stands for the model `{chosen}`, which does not exist"
            raise ProxyError(404, why, param="model", code=404)
        counter, line = self._seen.get((model, chosen)) or self._see(model, chosen)
        counter.value += 1
        request.told += line
        if shadow is not None and request.upload is None:
            self.shadows.send(name, shadow, request)
        return choice

    def _see(self, name: str, model: str) -> tuple[Counter, bytes]:
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        line = f"\r\n{HEADER}: {quote(model, safe=_PLAIN)}".encode()
        seen = self._seen[name, model] = self._metrics.choices(name, model), line
        return seen

    def _of_alias(self, request: Request, name: str, alias: ModelAlias) -> Choice | None:
        models = request.tenant.models
        allowed = None if models is None or name in models else models
        split = self._splits.get((name, allowed))
        if split is None or split.alias is not alias:
            if len(self._splits) >= _MOST_SPLITS:
                self._splits.clear()
            split = self._splits[name, allowed] = Split(name, alias, allowed)
        return split.choose(_who(request) if split.by_asker else "")


def _fields(request: Request) -> dict[str, Any]:
    return said.fields(request) if is_light(request.body) else {}


def _who(request: Request) -> str:
    """The same for all that ought to get the same: of a user or a conversation of one key or, where neither is known,
    of the key; and without one by chance."""
    tenant = request.tenant
    asker = said.user(request) or said.asker(_fields(request)) or (request.id if not tenant.mark else "")
    return f"{tenant.name}\0{asker}"
