"""The bearer tokens by which somebody may manage the cluster: the admin key, the token in the state directory,
sessions that one-time links were exchanged for, and API keys."""

from __future__ import annotations

import hmac
import secrets
import time

from config.identity import admin_token
from config.identity.principal import Principal, owner
from config.paths import StateDir
from lb.admission.access import sessions
from lb.admission.access.keys import KeyRing
from lb.admission.access.links import Links

#: The name of who came by a one-time link.
SESSION = "session"


class Credentials:
    """The files are read when they are needed: a token that was replaced is refused at once."""

    def __init__(self, admin_key: str | None, state: StateDir, keys: KeyRing) -> None:
        self._key, self._token_file, self._links = admin_key or None, state.admin_token, Links(state.links)
        self._keys = keys

    @property
    def has_key(self) -> bool:
        """Whether an admin key is set: then the token in the state directory opens nothing."""
        return self._key is not None

    @property
    def has_api_keys(self) -> bool:
        return len(self._keys) > 0

    def principal(self, bearer: str) -> Principal | None:
        """Whom ``bearer`` speaks for; None for one that is not known, or does not hold any more."""
        found = self._keys.find(bearer.encode(errors="surrogateescape")) if self.has_api_keys else None
        if found is None:
            return self.owner(bearer)
        return Principal(found.key.name, frozenset({found.key.scope})) if time.time() < found.until else None

    def owner(self, bearer: str) -> Principal | None:
        """The same of those that are no API keys: all of them may everything."""
        given = bearer.encode(errors="surrogateescape")
        if self._key is not None and hmac.compare_digest(given, self._key.encode()):
            return owner("admin-key")
        token = admin_token.read(self._token_file)
        if token is None or not bearer.isascii():
            return None
        if self._key is None and hmac.compare_digest(given, token.encode()):
            return owner("token")
        if sessions.is_valid(sessions.secret(token, self._key), bearer, time.time()):
            return owner(SESSION)
        return None

    def new_link(self) -> str:
        """A code for `redeem`. Raises OSError."""
        return self._links.new(time.time())

    def redeem(self, code: str) -> str | None:
        """A session for ``code``; None if it was used before, is too old or was never one, or if there is no token to
        sign sessions with."""
        token = admin_token.read(self._token_file)
        if token is None or not self._links.use(code, time.time()):
            return None
        return sessions.issue(sessions.secret(token, self._key), secrets.token_urlsafe(16), time.time())
