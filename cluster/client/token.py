"""The token of a cluster on this machine, for where the kernel cannot say that it is its owner who asks."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Generator

import httpx

from config import admin_token
from config.paths import StateDir
from config.peer_credentials import uid_of_listener
from config.settings import own_state_dir


class LocalToken(httpx.Auth):
    """Asks again with the token of the state directory (CLUSTERCTL_STATE_DIR, or the usual one of the port) where a
    cluster of this machine has refused. It is never sent to another machine, nor to a port on which another user
    listens: whoever takes a port that a cluster has left could collect it there."""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        response = yield request
        if response.status_code in (401, 403) and (token := _token_for(request.url)) is not None:
            request.headers["Authorization"] = f"Bearer {token}"
            yield request


def _token_for(url: httpx.URL) -> str | None:
    port = url.port or (443 if url.scheme == "https" else 80)
    token = admin_token.read(StateDir(own_state_dir(port)).admin_token)
    return token if token is not None and _is_ours(url.host, port) else None


def _is_ours(host: str, port: int) -> bool:
    """Whether every address of ``host`` is one of this machine on which nobody else listens. Where nothing is seen to
    listen, the port is one that root leads elsewhere, as into a container."""
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    ours = (0, os.geteuid(), None)
    return all(is_of_this_machine(address) and uid_of_listener((address, port)) in ours for address in addresses)


def is_of_this_machine(host: str) -> bool:
    """Only an address of ours can be bound."""
    with contextlib.suppress(OSError, ValueError):
        for family, kind, protocol, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
                return True
    return False
