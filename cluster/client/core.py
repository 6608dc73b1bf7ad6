"""Requests and errors, for both clients. No I/O."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar, cast

import httpx

from cluster.client.token import LocalToken
from cluster.client.trust import Verify, verification
from config.identity.secret import clean
from config.paths import StateDir, short_socket_path

T = TypeVar("T")

#: How long (s) what concerns every worker may take: an adapter is copied, then loaded on one after the other.
SLOW = 600.0


class ClusterError(Exception):
    """The cluster answered with an error, or there is none. ``status`` is the HTTP status, None where nothing
    answered; ``type`` (such as ``ConflictError``) and ``param`` are what the error says besides its ``message``."""

    def __init__(
        self, message: str, status: int | None = None, *, type: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.type, self.param = message, status, type, param


class Foreign(Exception):
    """Not an answer that a cluster gives."""

    def __init__(self, words: str = "no clusterctl answers there") -> None:
        super().__init__(words)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request; ``read`` makes its result of the answer's body, or raises Foreign. ``timeout`` in seconds, None for
    the client's own; a stream may be silent for ``silence`` seconds, None for as long as it likes."""

    method: str
    path: str
    read: Callable[[bytes], T]
    body: Mapping[str, Any] | None = None
    params: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None
    silence: float | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """Where a cluster is: the balancer at ``url`` or, given a ``state_dir``, the supervisor there; whom to ``verify``
    it by, and the client's own ``cert``, as `verification` takes them. Raises ClusterError for a ``url`` that is
    none."""

    url: str
    admin_key: str | None = field(repr=False)
    state_dir: Path | None
    verify: Verify = None
    cert: Path | None = None

    def __post_init__(self) -> None:
        root_of(self.url)

    def __str__(self) -> str:
        return str(self.state_dir) if self.state_dir else self.url

    @property
    def socket(self) -> str | None:
        return short_socket_path(StateDir(self.state_dir).control) if self.state_dir is not None else None

    @property
    def base_url(self) -> str:
        return "http://supervisor" if self.state_dir is not None else root_of(self.url)

    @property
    def verification(self) -> ssl.SSLContext | bool:
        """Raises ClusterError for files that are none."""
        return verified(self.url, self.verify, self.cert) if self.state_dir is None else True

    @property
    def auth(self) -> httpx.Auth | None:
        """For where no key is given."""
        return LocalToken() if self.state_dir is None and not self.admin_key else None

    @property
    def headers(self) -> httpx.Headers:
        return bearer(self.admin_key if self.state_dir is None else None)

    def build(self, http: httpx.Client | httpx.AsyncClient, call: Call[Any], stream: bool = False) -> httpx.Request:
        timeout = httpx.Timeout(10.0, read=call.silence) if stream else httpx.Timeout(call.timeout or http.timeout)
        return http.build_request(
            call.method, call.path, json=call.body, params=call.params or None, headers=call.headers, timeout=timeout
        )

    def result(self, call: Call[T], response: httpx.Response) -> T:
        """Of an answer that has been read whole. Raises ClusterError."""
        if response.status_code >= 400:
            self.refuse(response)
        try:
            return call.read(response.content)
        except Foreign as error:
            raise ClusterError(f"{self}: {error}") from None

    def refuse(self, response: httpx.Response) -> NoReturn:
        """Raises the ClusterError that the answer, read whole, stands for."""
        status = response.status_code
        try:
            error = response.json()["error"]
            message, kind, param = str(error["message"]), error.get("type"), error.get("param")
        except (ValueError, LookupError, TypeError, AttributeError):
            told = response.text.strip()
            what = told if told.startswith("this port speaks TLS") else "no clusterctl answers there"
            message = f"{self}: {status} {response.reason_phrase}; {what}"
            raise ClusterError(message, status) from None
        raise ClusterError(message, status, type=kind, param=param)

    def failed(self, error: httpx.HTTPError | httpx.StreamError | OSError | ValueError) -> ClusterError:
        return unanswered(str(self), error)


def bearer(key: str | None) -> httpx.Headers:
    """What sends ``key``. Raises ClusterError, which does not show it, for one that no header can carry."""
    try:
        return httpx.Headers({"Authorization": f"Bearer {clean(key)}"} if key else {}, encoding="utf-8")
    except ValueError as error:
        raise ClusterError(f"the key cannot be sent: {error}") from None


def root_of(url: str) -> str:
    """What the paths of all APIs are added to; ``url`` may be the ``base_url`` of OpenAI's clients, which ends in
    ``/v1``. Raises ClusterError for one that is none."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ClusterError(f"{url}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ClusterError(f"{url}: no URL of a cluster, which is such as http://127.0.0.1:8000")
    root = url.rstrip("/")
    return root.removesuffix("/v1") if parts.path.rstrip("/").endswith("/v1") else root  # a host may be called v1


#: How the ``base_url`` of an API that is not at ``/v1`` ends.
_BASE = re.compile(r"/(v[0-9]+[a-z0-9]*|openai)$")


def address(url: str, path: str) -> str:
    """Of ``path``, which begins with ``/v1/``, at ``url``: the root of a cluster, or the ``base_url`` of any server of
    the API, such as ``https://host/api/paas/v4``. Raises ClusterError."""
    root = root_of(url)
    is_base = _BASE.search(httpx.URL(root).path.rstrip("/")) is not None
    return root + (path.removeprefix("/v1") if is_base else path)


def verified(url: str, verify: Verify = None, cert: Path | None = None) -> ssl.SSLContext | bool:
    """As `verification`; raises ClusterError."""
    try:
        return verification(httpx.URL(url), verify, cert)
    except OSError as error:  # ssl.SSLError is one
        files = " or ".join(str(path) for path in (verify, cert) if isinstance(path, Path))
        raise ClusterError(f"certificates in {files}: {error.strerror or error}") from None


def unanswered(where: str, error: httpx.HTTPError | httpx.StreamError | OSError | ValueError) -> ClusterError:
    """Of a question that got no answer from ``where``, or not all of one."""
    if not isinstance(error, httpx.ConnectError):
        return ClusterError(f"{where}: {str(error) or type(error).__name__}")
    cause = error.__context__ and error.__context__.__context__
    why = f": {error}" if isinstance(cause, socket.gaierror | ssl.SSLError) else ""  # it may well be up
    hint = "is it up? --url or CLUSTERCTL_URL name another"
    if isinstance(cause, ssl.SSLError):
        hint = "--ca or CLUSTERCTL_CA say whom to trust, CLUSTERCTL_STATE_DIR where a cluster of this machine is"
    return ClusterError(f"no cluster at {where}{why} ({hint})")


def parsed(content: bytes) -> Any:
    """Raises Foreign for what is no JSON."""
    try:
        return json.loads(content)
    except ValueError:
        raise Foreign from None


def as_object(kind: type[T]) -> Callable[[bytes], T]:
    """A reader of an answer that is an object; that it is of this ``kind``, the API's description promises."""
    def read(content: bytes) -> T:
        data = parsed(content)
        if not isinstance(data, dict):
            raise Foreign
        return cast(T, data)

    return read


def as_list(kind: type[T], key: str) -> Callable[[bytes], list[T]]:
    """A reader of an answer that wraps a list in an object."""
    return _part(key, list)


def as_part(kind: type[T], key: str) -> Callable[[bytes], dict[str, T]]:
    """A reader of an answer that wraps an object in an object."""
    return _part(key, dict)


def _part(key: str, form: type[T]) -> Callable[[bytes], T]:
    def read(content: bytes) -> T:
        data = parsed(content)
        part = data.get(key) if isinstance(data, dict) else None
        if not isinstance(part, form):
            raise Foreign
        return part

    return read


def no_result(content: bytes) -> None:
    """A reader where only the status counts, or of a stream."""
