"""The token of a cluster on this machine, for where the kernel cannot say that it is its owner who asks."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Generator

import httpx

from config.identity import admin_token
from config.identity.peer_credentials import kernel_tells, uid_of_listener
from config.paths import StateDir
from config.sources.commands import own_state_dir


class LocalToken(httpx.Auth):
    """Asks again with the token of the state directory (CLUSTERCTL_STATE_DIR, or the usual one of the port) where a
    cluster of this machine has refused. It is never sent to another machine, nor to a port on which another user
    listens: whoever takes a port that a cluster has left could collect it there."""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        response = yield request
        if response.status_code in (401, 403) and (token := _token_for(request.url, _answerer(response))) is not None:
            request.headers["Authorization"] = f"Bearer {token}"
            yield request


def key_for(root: str, given: str | None, verify: ssl.SSLContext | bool = True) -> str | None:
    """``given`` or, where that is None, the token of the cluster at ``root`` if it asks for a key: for what sends its
    requests itself, and many of them."""
    if given is not None:
        return given
    try:
        with httpx.Client(auth=LocalToken(), trust_env=False, timeout=10.0, verify=verify) as http:
            answer = http.get(f"{root}/v1/models")
    except httpx.HTTPError:
        return None  # whoever asks next says it better
    sent = answer.request.headers.get("Authorization")
    return None if sent is None else str(sent).removeprefix("Bearer ")


def _answerer(response: httpx.Response) -> str | None:
    """The address at the other end of the connection that the answer came on."""
    stream = response.extensions.get("network_stream")
    with contextlib.suppress(OSError):
        if stream is not None and (address := stream.get_extra_info("server_addr")):
            return str(address[0])
    return None


def _token_for(url: httpx.URL, answerer: str | None) -> str | None:
    port = url.port or (443 if url.scheme == "https" else 80)
    token = admin_token.read(StateDir(own_state_dir(port)).admin_token)
    return token if token is not None and _is_ours(url.host, port, answerer) else None


def _is_ours(host: str, port: int, answerer: str | None) -> bool:
    """Whether every address of ``host`` is one of this machine on which nobody else listens, and on that of the
    ``answerer`` we or root do: whoever has taken a connection may have closed his listening socket since."""
    trusted = (0, os.geteuid())
    if answerer is None or (kernel_tells() and uid_of_listener((answerer, port)) not in trusted):
        return False
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return all(is_of_this_machine(a) and uid_of_listener((a, port)) in (*trusted, None) for a in addresses)


def is_of_this_machine(host: str) -> bool:
    """Only an address of ours can be bound."""
    with contextlib.suppress(OSError, ValueError):
        for family, kind, protocol, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
                return True
    return False
