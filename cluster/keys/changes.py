"""What a change of a key comes to, and whether whoever asks for it may. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cluster.errors import Refused
from config.identity import api_keys
from config.identity.api_keys import GRACE, ApiKey, Digest
from config.identity.principal import Principal, Scope

#: What somebody may say of a key. The rest of its fields is the cluster's.
FIELDS = ("scope", "models", "rpm", "tpm", "max_concurrent", "priority", "weight", "expires", "budget")


def maker(who: Principal, keys: Mapping[str, ApiKey], now: float) -> ApiKey | None:
    """The key that asks; None for the owner, who may everything. ``now``: s since the epoch. Raises Refused (403) for
    one that is not there any more, or is no administrator's."""
    if who.may(Scope.OWNER):
        return None
    key = keys.get(who.name)
    if key is None or not key.holds(now) or key.scope is not Scope.ADMIN:
        raise Refused(403, f"this needs the scope {Scope.ADMIN}, which {who.name or 'the caller'} has not got")
    return key


def fields(given: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The values of those of `FIELDS` that are given. ``expires``: s since the epoch, or a time from ``now`` on such as
    ``30d``. Raises Refused (400)."""
    try:
        return {name: api_keys.read(name, _instant(name, value, now)) for name, value in given.items()}
    except ValueError as error:
        raise Refused(400, str(error), str(error).partition(":")[0]) from None


def made(name: str, given: Mapping[str, Any], sha256: str, by: ApiKey | None, now: float) -> ApiKey:
    """A new key. Raises Refused (400, 403)."""
    try:
        key = ApiKey(api_keys.read("name", name), digests=(Digest(sha256),), created=now, **fields(given, now))
    except ValueError as error:
        raise Refused(400, str(error), "name") from None
    _check(key, by, f"{name} would be")
    return key


def updated(key: ApiKey, given: Mapping[str, Any], by: ApiKey | None, now: float) -> ApiKey:
    """``key`` with other limits. Raises Refused (400, 403)."""
    may_change(key, by)
    new = replace(key, **fields(given, now))
    _check(new, by, f"{key.name} would be")
    return new


def rotated(key: ApiKey, sha256: str, grace: float | str | None, by: ApiKey | None, now: float) -> ApiKey:
    """``key`` with one more secret. ``grace``: s, or a time such as ``24h``, for which those before hold. Raises
    Refused (400, 403, 409)."""
    may_change(key, by)
    try:
        seconds = GRACE if grace is None else api_keys.duration(grace) if isinstance(grace, str) else grace
    except ValueError as error:
        raise Refused(400, f"grace: {error}", "grace") from None
    try:
        return key.rotated(sha256, now, seconds)
    except ValueError as error:
        raise Refused(409, str(error)) from None


def may_change(key: ApiKey, by: ApiKey | None) -> None:
    """A key that may more is out of reach: with a secret of it, whoever asks would have what it may. Raises Refused
    (403)."""
    _check(key, by, f"{key.name} is")


def shown(key: ApiKey, now: float, source: str) -> dict[str, Any]:
    """A key as clients see it: nothing of its secrets but until when they hold (s since the epoch). ``source``: whether
    it is kept in the ``state`` or in a ``file``."""
    holding = [one for one in key.digests if one.until is None or now < one.until]
    return {
        "name": key.name, "scope": key.scope, "models": None if key.models is None else list(key.models),
        "rpm": key.rpm, "tpm": key.tpm, "max_concurrent": key.max_concurrent, "priority": key.priority,
        "weight": key.weight, "expires": key.expires, "budget": None if key.budget is None else str(key.budget),
        "created": key.created, "expired": not key.holds(now), "source": source,
        "secrets": [{"until": one.until} for one in holding],
    }  # fmt: skip


def _check(key: ApiKey, by: ApiKey | None, what: str) -> None:
    if by is not None and (wider := api_keys.excess(key, by)):
        raise Refused(403, f"{what} wider in {wider} than {by.name}, which asks for it", wider)


def _instant(name: str, value: Any, now: float) -> Any:
    if name != "expires" or not isinstance(value, str):
        return value
    try:
        return now + api_keys.duration(value)
    except ValueError as error:
        raise ValueError(f"expires: {error}") from None
