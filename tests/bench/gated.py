"""What can be on of the gate, step by step: each variant has what those before it have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from config.identity import api_keys
from config.identity.api_keys import ApiKey, Budget, Digest, Period

SECRET = api_keys.PREFIX + "x" * 43
_KEY = ApiKey("team-a", digests=(Digest(api_keys.digest(SECRET)),))
_RATED = replace(_KEY, models=("base", "split"), rpm=10**9, tpm=10**9)
_BUDGETED = replace(_RATED, budget=Budget(10**14, Period.MONTH))
_LIMITED = replace(_BUDGETED, max_concurrent=10**6)

_LIMITS = {"max_concurrent": 10**6, "per_adapter_limit": 10**6}
_CAPS = {
    "cap_tokens": 4096, "cap_logprobs": 20, "cap_n": 4, "cap_best_of": 4, "cap_prompts": 128, "cap_depth": 32,
    "allow_chat_template_kwargs": False,
}  # fmt: skip
#: Clients' is the side that there is.
_NAMES = {
    "split": {"sides": {"base": 90.0, "other": 10.0}},
    "finance": {"rules": [{"keywords": ["bill"], "model": "base"}], "default": "base"},
}


@dataclass(frozen=True)
class Variant:
    """``key``: what clients show, if they do, ``model``: what they ask, ``user``: for whom, if they say that;
    ``settings`` of the balancer."""

    key: ApiKey | None = None
    model: str = "base"
    user: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, str]:
        """Of what clients send."""
        return {"model": self.model} if self.user is None else {"model": self.model, "user": self.user}

    @property
    def secret(self) -> str:
        return "none" if self.key is None else SECRET

    @property
    def names(self) -> Mapping[str, Any]:
        return _NAMES if self.model == "split" else {}

    @property
    def message(self) -> dict[str, Any] | None:
        """By which the balancer hears of the key."""
        if self.key is None:
            return None
        return {"type": "keys", "version": [1, 1], "keyed": True, "keys": [self.key.to_json()]}


OFF = Variant()
EVERYTHING = Variant(_LIMITED, "split", settings={**_LIMITS, **_CAPS})

#: ``off`` comes twice: the difference says how far to believe the figures.
VARIANTS: Mapping[str, Variant] = {
    "off": OFF, "off again": OFF, "a key": Variant(_KEY), "rates": Variant(_RATED), "a budget": Variant(_BUDGETED),
    "limits": Variant(_LIMITED, settings=_LIMITS), "caps": replace(EVERYTHING, model="base"),
    "an alias, by user": replace(EVERYTHING, user="user-1"), "an alias, by conversation": EVERYTHING,
    "`--limits-store`": replace(EVERYTHING, settings={**EVERYTHING.settings, "limits_store": "unix:///nowhere"}),
}  # fmt: skip
