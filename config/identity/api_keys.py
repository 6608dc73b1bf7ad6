"""API keys: who may ask the cluster for what. Of a key's secret only the SHA-256 is kept, which is enough to know the
secret again and, as that has 256 random bits, tells nobody what it is. Pure, but for the chance in `mint`."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from config.identity.principal import Scope

#: What every secret begins with, so that people and scanners of repositories know one when they see it.
PREFIX = "cck_"

#: Most keys of a cluster, models of a key, and secrets of a key that hold at the same time.
MOST_KEYS, MOST_MODELS, MOST_SECRETS = 10_000, 256, 8

#: Seconds for which the secret before goes on to hold after `ApiKey.rotated`, where nobody says another time.
GRACE = 24 * 3600.0

#: Of a key. Also part of a header (`config.identity.principal.Principal`), a metric's label, a path.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

#: What principals that are no keys are called: a key of that name would be taken for them.
TAKEN_NAMES = frozenset({"admin-key", "anybody", "anonymous", "owner", "session", "token"})

_SHA256 = re.compile(r"[0-9a-f]{64}")
_DURATION = re.compile(r"([0-9]{1,5})(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_TOKENS = re.compile(r"([1-9][0-9]{0,14})/(day|month)")
_MODEL = re.compile(r"[^\x00-\x20\x7f-\xa0\ud800-\udfff]{1,256}")
_MOST_NUMBER, _LEAST_WEIGHT, _MOST_WEIGHT, _MOST_TIME = 10**15, 0.001, 1_000.0, 1e11


class Priority(StrEnum):
    """Which class a key's requests wait in. A class goes before those below it."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Period(StrEnum):
    """What a budget is for: a day or a month of UTC."""

    DAY = "day"
    MONTH = "month"


#: The scopes of keys. No key is the owner: that one may name paths and run code.
SCOPES = (Scope.INFERENCE, Scope.READ, Scope.ADMIN)


@dataclass(frozen=True, slots=True)
class Budget:
    """``tokens``: of prompts and answers together, in each ``period``."""

    tokens: int
    period: Period

    def __str__(self) -> str:
        """Inverse of `budget`."""
        return f"{self.tokens}/{self.period}"


@dataclass(frozen=True, slots=True)
class Digest:
    """Of one secret: 64 hexadecimal digits, and until when (seconds since the epoch) it holds; None: as long as its
    key."""

    sha256: str
    until: float | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """``digests``: of its secrets, the newest first. ``models``: the only ones it may ask for; None: any. ``rpm``,
    ``tpm``: requests and tokens (prompt and answer) a minute; ``max_concurrent``: requests at the same time; None: no
    limit. ``weight``: its share of the slots among the keys of its ``priority``, over the sum of their weights.
    ``expires``, ``created``: seconds since the epoch; it never expires where the first is None."""

    name: str
    scope: Scope = Scope.INFERENCE
    digests: tuple[Digest, ...] = ()
    models: tuple[str, ...] | None = None
    rpm: int | None = None
    tpm: int | None = None
    max_concurrent: int | None = None
    priority: Priority = Priority.NORMAL
    weight: float = 1.0
    expires: float | None = None
    budget: Budget | None = None
    created: float = 0.0

    def holds(self, now: float) -> bool:
        """Whether it has not expired. ``now``: seconds since the epoch."""
        return self.expires is None or now < self.expires

    def rotated(self, sha256: str, now: float, grace: float = GRACE) -> ApiKey:
        """With one more secret; those before hold for another ``grace`` seconds, and no longer than they would have.
        Raises ValueError where too many hold already."""
        end = now + grace
        kept = tuple(
            Digest(old.sha256, end if old.until is None else min(old.until, end))
            for old in self.digests
            if grace > 0 and (old.until is None or now < old.until)
        )
        if len(kept) >= MOST_SECRETS:
            raise ValueError(f"{MOST_SECRETS} secrets of {self.name} hold already: rotate with a grace of 0")
        return replace(self, digests=(Digest(sha256), *kept))

    def to_json(self) -> dict[str, Any]:
        """What differs from the defaults. Inverse of `from_json`."""
        made: dict[str, Any] = {"name": self.name, "scope": str(self.scope)}
        made["digests"] = [
            {"sha256": one.sha256} if one.until is None else {"sha256": one.sha256, "until": one.until}
            for one in self.digests
        ]
        for field in fields(self)[3:]:
            value = getattr(self, field.name)
            if value != field.default:
                made[field.name] = _PLAIN.get(field.name, _same)(value)
        return made


def mint() -> tuple[str, str]:
    """A new secret, to be shown once, and the SHA-256 that is kept of it."""
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, digest(secret)


def digest(secret: str) -> str:
    """SHA-256, hexadecimal. Takes any text: what is no secret of ours is none of theirs either."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def duration(text: str) -> float:
    """Seconds of ``30d``, ``12h``, ``90m``, ``45s``, ``2w``. Raises ValueError."""
    if (found := _DURATION.fullmatch(text)) is None:
        raise ValueError("a time such as 30d, 12h, 90m, 45s or 2w is needed")
    return float(int(found[1]) * _SECONDS[found[2]])


def budget(text: str) -> Budget:
    """Of ``N/day`` or ``N/month``. Raises ValueError."""
    if (found := _TOKENS.fullmatch(text)) is None:
        raise ValueError("tokens such as 1000000/day or 20000000/month are needed")
    return Budget(int(found[1]), Period(found[2]))


def from_json(data: object) -> ApiKey:
    """Inverse of `ApiKey.to_json`. Raises ValueError, which names the field and repeats nothing of a digest, for
    whatever is not exactly that: a limit that is not understood is one that would not be kept."""
    if not isinstance(data, Mapping):
        raise ValueError("a key is an object")
    for name in data:
        if name not in _PARSE:
            raise ValueError(f"no field of a key is called {str(name)[:50]!r}")
    if "name" not in data:
        raise ValueError("name is missing")
    return ApiKey(**{name: read(name, value) for name, value in data.items()})


def read(name: str, value: object) -> Any:
    """The ``value`` of the field ``name`` out of JSON. Raises ValueError, KeyError."""
    try:
        return _PARSE[name](value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def excess(key: ApiKey, maker: ApiKey) -> str:
    """The first field in which ``key`` may more than ``maker``; empty where it may nowhere more. What one may do to
    the cluster counts by scope, what one may ask models for by the other fields."""
    if _RANK[key.scope] > _RANK[maker.scope]:
        return "scope"
    if maker.models is not None and (key.models is None or not set(key.models) <= set(maker.models)):
        return "models"
    for name in ("rpm", "tpm", "max_concurrent", "expires"):
        if _more(getattr(key, name), getattr(maker, name)):
            return name
    if list(Priority).index(key.priority) < list(Priority).index(maker.priority):
        return "priority"
    if key.weight > maker.weight:
        return "weight"
    if maker.budget is not None and (
        key.budget is None
        or key.budget.tokens > maker.budget.tokens
        or (key.budget.period is not maker.budget.period and key.budget.period is Period.DAY)
    ):
        return "budget"
    return ""


def _more(one: float | None, most: float | None) -> bool:
    return most is not None and (one is None or one > most)


def _name(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("1 to 64 of A-Z a-z 0-9 . _ - are needed, the first of them a letter or a digit")
    if value in TAKEN_NAMES:
        raise ValueError(f"{value} is what the cluster calls somebody else")
    return value


def _scope(value: object) -> Scope:
    if value not in SCOPES:
        raise ValueError(f"one of {', '.join(SCOPES)} is needed")
    return Scope(str(value))


def _priority(value: object) -> Priority:
    if value not in list(Priority):
        raise ValueError(f"one of {', '.join(Priority)} is needed")
    return Priority(str(value))


def _list(value: object, what: str, most: int) -> list[Any]:
    if not isinstance(value, list | tuple) or not 0 < len(value) <= most:
        raise ValueError(f"a list of 1 to {most} {what} is needed")
    return list(value)


def _models(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = _list(value, "models", MOST_MODELS)
    if not all(isinstance(name, str) and _MODEL.fullmatch(name) for name in names):
        raise ValueError("names of 1 to 256 visible characters are needed")
    return tuple(dict.fromkeys(names))


def _digests(value: object) -> tuple[Digest, ...]:
    return tuple(_digest(one) for one in _list(value, "digests", MOST_SECRETS))


def _digest(value: object) -> Digest:
    if not isinstance(value, Mapping) or not {"sha256"} <= set(value) <= {"sha256", "until"}:
        raise ValueError("an object of sha256 and until is needed")
    sha256 = value["sha256"]
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError("sha256 has to be 64 hexadecimal digits, lower case")
    return Digest(sha256, _time(value.get("until")))


def _count(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MOST_NUMBER:
        raise ValueError(f"a whole number from 1 to {_MOST_NUMBER} is needed")
    return value


def _number(value: object, most: float, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"a number from {least:g} to {most:g} is needed")
    return float(value)


def _time(value: object) -> float | None:
    return None if value is None else _number(value, _MOST_TIME)


def _weight(value: object) -> float:
    return _number(value, _MOST_WEIGHT, _LEAST_WEIGHT)


def _budget(value: object) -> Budget | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("a text such as 1000000/day is needed")
    return budget(value)


def _same(value: Any) -> Any:
    return value


_PLAIN: dict[str, Callable[[Any], Any]] = {"models": list, "priority": str, "budget": str}

_RANK = {Scope.INFERENCE: 0, Scope.READ: 1, Scope.ADMIN: 2}

_PARSE: dict[str, Callable[[object], Any]] = {
    "name": _name, "scope": _scope, "digests": _digests, "models": _models, "rpm": _count, "tpm": _count,
    "max_concurrent": _count, "priority": _priority, "weight": _weight, "expires": _time, "budget": _budget,
    "created": lambda value: _number(value, _MOST_TIME),
}  # fmt: skip
