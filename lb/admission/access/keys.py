"""Who asks for models: API keys, as the supervisor last told them, and by what a request shows one. Pure but for the
clock that is handed in.

Until there is a key for models nobody needs one. What a connection has shown is noted with the head of its requests
(`lb.protocol.http1.heads`): the next one like it is neither hashed nor looked up.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from config.identity import api_keys
from config.identity.api_keys import ApiKey
from config.identity.principal import Principal, Scope
from lb.admission.access.admin_guard import is_loopback
from lb.protocol.errors import ProxyError
from lb.protocol.http1.request import RequestHead
from lb.protocol.tenant import ANYBODY, Tenant

log = logging.getLogger(__name__)

#: What Anthropic's clients send a key in.
X_API_KEY = b"x-api-key"

#: What a secret may be made of: one word of visible characters.
_SECRET = re.compile(rb"[\x21-\x7e]{1,512}")

#: Seconds for which the owner is believed on one connection: the token in the state directory may be replaced.
_OWNER_S = 1.0

#: The name of who asks without a key where some models need none.
ANONYMOUS = "anonymous"

_NEEDED = "an API key is needed: Authorization: Bearer … or x-api-key (`clusterctl key create` makes one)"


class Owners(Protocol):
    """`lb.admission.access.credentials.Credentials`."""

    def owner(self, bearer: str) -> Principal | None: ...


@dataclass(frozen=True, slots=True)
class Found:
    """A key by one of its secrets, which holds ``until`` then (s since the epoch)."""

    key: ApiKey
    until: float


class KeyRing:
    """``generation`` changes whenever the keys do; ``has_inference``: there is a key for models; ``keyed``: there has
    been one."""

    def __init__(self) -> None:
        self.generation = 0
        self.has_inference = self.keyed = False
        self.tenants: dict[str, Tenant] = {}
        self._version: tuple[int, ...] = (0, 0)
        self._found: dict[bytes, list[tuple[bytes, Found]]] = {}

    def __len__(self) -> int:
        return len(self.tenants)

    def apply(self, message: Mapping[str, Any]) -> None:
        """Puts these keys in the place of all others, unless they are older. A key that is not understood, of a later
        release, is there and lets nobody in."""
        version = tuple(message["version"])
        if version <= self._version:
            return
        self._version, self.generation, self.keyed = version, self.generation + 1, bool(message["keyed"])
        self.has_inference, self.tenants, self._found = False, {}, {}
        for given in message["keys"]:
            try:
                self._add(api_keys.from_json(given))
            except ValueError as error:
                log.warning("a key is not understood, and lets nobody in: %s", error)
                self.has_inference = True

    def find(self, secret: bytes) -> Found | None:
        """The key that ``secret`` belongs to, if it is one, whether it holds or not. Which entries are compared follows
        from a hash that nobody can aim at; the comparison itself takes the same time for all."""
        sha256 = hashlib.sha256(secret).digest()
        for known, found in self._found.get(sha256[:8], ()):
            if hmac.compare_digest(known, sha256):
                return found
        return None

    def _add(self, key: ApiKey) -> None:
        self.tenants[key.name] = Tenant.of(key)
        self.has_inference = self.has_inference or key.scope is Scope.INFERENCE
        for one in key.digests:
            ends = [end for end in (key.expires, one.until) if end is not None]
            sha256 = bytes.fromhex(one.sha256)
            found = Found(key, min(ends, default=float("inf")))
            self._found.setdefault(sha256[:8], []).append((sha256, found))


class Gate:
    """Says for whom a request for models is. ``anonymous``: the models that need no key; ``insecure``: while there is
    no key for models, other machines need none; ``guarded``: they need none before there has been one, as not
    everybody gets that far (an admin key is set, or client certificates are demanded).
    ``wall()``: s since the epoch."""

    def __init__(
        self, ring: KeyRing, owners: Owners, anonymous: frozenset[str], *, insecure: bool, guarded: bool,
        wall: Callable[[], float],
    ) -> None:
        self._ring, self._owners, self._insecure, self._guarded = ring, owners, insecure, guarded
        self._anonymous = Tenant(ANONYMOUS, anonymous, mark=ANONYMOUS) if anonymous else None
        self._wall = wall

    def tenant(self, head: RequestHead, peer: str) -> Tenant:
        """``peer``: the address at the other end. Raises ProxyError (401, 403), which repeats nothing of a key."""
        ring = self._ring
        if not ring.has_inference and (is_loopback(peer) or not self._is_shut):
            return ANYBODY
        now, noted = self._wall(), head.notes.get(Gate)
        if noted is not None and noted[0] == ring.generation and now < noted[1]:
            return noted[2]  # type: ignore[no-any-return]
        tenant, until = self._identify(head, now)
        head.notes[Gate] = ring.generation, until, tenant
        return tenant

    def models_for(self, name: str) -> frozenset[str] | None:
        """Those that exist for who is called so; None: all. For a key that has just gone there are none."""
        if name == ANONYMOUS and self._anonymous is not None:
            return self._anonymous.models
        if not name or name in api_keys.TAKEN_NAMES:
            return None
        tenant = self._ring.tenants.get(name)
        return frozenset() if tenant is None else tenant.models

    @property
    def _is_shut(self) -> bool:
        """Whether other machines need a key where there is none. Where its owner has set an admin key, or demands
        certificates, a cluster is meant to be reached; from the first key on it is not meant to be open."""
        return not self._insecure and (self._ring.keyed or not self._guarded)

    def _identify(self, head: RequestHead, now: float) -> tuple[Tenant, float]:
        """And until when (s since the epoch) that holds."""
        given = presented(head)
        if given is None:
            if self._anonymous is None:
                raise refused(_NEEDED)
            return self._anonymous, float("inf")
        found = self._ring.find(given) if _SECRET.fullmatch(given) else None
        if found is not None:
            if now >= found.until:
                raise refused("the API key has expired")
            if found.key.scope is Scope.READ:
                raise ProxyError(403, f"this needs the scope {Scope.INFERENCE}, which {found.key.name} has not got")
            return self._ring.tenants[found.key.name], found.until
        # What is none of ours any more is not looked for in the files of the state directory.
        foreign = given.startswith(api_keys.PREFIX.encode())
        owner = None if foreign else self._owners.owner(given.decode(errors="surrogateescape"))
        if owner is None:
            raise refused("the API key is not known" if _SECRET.fullmatch(given) else "the API key is malformed")
        return Tenant(owner.name), now + _OWNER_S


def presented(head: RequestHead) -> bytes | None:
    """What a request shows of a key; None for nothing. Raises ProxyError (401) for two of them, or another scheme than
    ``Bearer``."""
    authorization, given = head.ours.get(b"authorization"), head.ours.get(X_API_KEY)
    if authorization is None:
        return None if given is None else given.strip(b" \t")
    if given is not None:
        raise refused("Authorization and x-api-key are both sent: one of them is needed")
    scheme, _, token = authorization.strip(b" \t").partition(b" ")
    if scheme.lower() != b"bearer":
        raise refused("Authorization has to be Bearer, and an API key")
    return token.strip(b" \t")


def refused(reason: str) -> ProxyError:
    return ProxyError(401, reason, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
