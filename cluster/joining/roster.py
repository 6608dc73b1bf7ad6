"""Which machines may join, and which have: tokens that let machines in for a while, and the secret that each machine
gets instead, of which the SHA-256 is kept. Pure."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from config.identity.api_keys import digest

#: Most tokens that hold at a time, and machines.
MOST_TOKENS, MOST_MACHINES = 100, 64

#: Seconds that a token may hold at most.
LONGEST_S = 30 * 86400.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_TOKEN = re.compile(r"([0-9a-f]{8})\.([A-Za-z0-9_-]{43})\.([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What a person carries from machine to machine. ``fingerprint``: SHA-256 of the certificate (DER, hexadecimal)
    that the supervisor will show."""

    id: str
    secret: str = field(repr=False)
    fingerprint: str

    def text(self) -> str:
        return f"{self.id}.{self.secret}.{self.fingerprint}"

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Inverse of `text`. Raises ValueError."""
        if (found := _TOKEN.fullmatch(text.strip())) is None:
            raise ValueError("not a token that `clusterctl balancer token` made")
        return cls(*found.groups())


@dataclass(frozen=True, slots=True)
class Invitation:
    """Of a token: ``expires`` in s since the epoch."""

    sha256: str = field(repr=False)
    expires: float


@dataclass(frozen=True, slots=True)
class RosterEntry:
    """One that has joined: ``joined`` in s since the epoch, by the token ``token``."""

    sha256: str = field(repr=False)
    joined: float
    token: str


class NotAdmitted(Exception):
    """It may not join, or not any more; the text says why."""


@dataclass(frozen=True, slots=True)
class Roster:
    """``tokens`` by id, ``machines`` by name."""

    tokens: Mapping[str, Invitation] = field(default_factory=dict)
    machines: Mapping[str, RosterEntry] = field(default_factory=dict)

    def invited(self, fingerprint: str, ttl: float, now: float) -> tuple[Roster, JoinToken]:
        """With a token that holds ``ttl`` seconds; what has expired is forgotten. Raises ValueError where there are too
        many."""
        held = {id: each for id, each in self.tokens.items() if each.expires > now}
        if len(held) >= MOST_TOKENS:
            raise ValueError(f"there are {MOST_TOKENS} tokens that hold already")
        token = JoinToken(secrets.token_hex(4), secrets.token_urlsafe(32), fingerprint)
        return replace(self, tokens={**held, token.id: Invitation(digest(token.secret), now + ttl)}), token

    def admitted(self, token: str, secret: str, name: str, now: float) -> tuple[Roster, str, str]:
        """With another machine, its name and its secret; one that is taken gets a number. Raises NotAdmitted."""
        found = self.tokens.get(token)
        if found is None or not hmac.compare_digest(found.sha256, digest(secret)):
            raise NotAdmitted("the token is not known, or was revoked")
        if found.expires <= now:
            raise NotAdmitted("the token has expired: make another with `clusterctl balancer token`")
        if len(self.machines) >= MOST_MACHINES:
            raise NotAdmitted(f"{MOST_MACHINES} machines have joined already: evict one that is gone")
        free = self._free(name if _NAME.fullmatch(name) else "balancer")
        own = secrets.token_urlsafe(32)
        machines = {**self.machines, free: RosterEntry(digest(own), now, token)}
        return replace(self, machines=machines), free, own

    def check(self, name: str, secret: str) -> None:
        """Raises NotAdmitted for who is no member."""
        found = self.machines.get(name)
        if found is None or not hmac.compare_digest(found.sha256, digest(secret)):
            raise NotAdmitted("this machine is no member, or was evicted: join with a new token")

    def without_machine(self, name: str) -> Roster:
        """Raises KeyError."""
        return replace(self, machines=_without(self.machines, name))

    def without_token(self, id: str) -> Roster:
        """Raises KeyError."""
        return replace(self, tokens=_without(self.tokens, id))

    def _free(self, name: str) -> str:
        number, free = 1, name
        while free in self.machines:
            number += 1
            free = f"{name}-{number}"
        return free

    def to_json(self) -> dict[str, Any]:
        return {
            "tokens": {id: asdict(each) for id, each in self.tokens.items()},
            "machines": {name: asdict(each) for name, each in self.machines.items()},
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Roster:
        return cls(
            {id: Invitation(**each) for id, each in kept.get("tokens", {}).items()},
            {name: RosterEntry(**each) for name, each in kept.get("machines", {}).items()},
        )


def _without(named: Mapping[str, Any], name: str) -> dict[str, Any]:
    left = dict(named)
    del left[name]
    return left
