"""``--backend-discovery``: where servers are listed that this cluster did not start, as text and as values. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

from config.values.addresses import bracketed, is_address, is_loopback

_SCHEMES = ("http", "https")

#: A name as DNS takes it; an underscore begins the labels of SRV names.
_NAME = re.compile(r"(?=.{1,253}\.?$)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})\.)*[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})\.?")

#: Of a query for healthy instances that Consul documents; the others would change what is waited for.
_OF_CONSUL = frozenset({"tag", "dc", "filter", "ns", "partition"})

_NAME_SERVER = "{!r}: the name server is an address such as 10.0.0.2 or 10.0.0.2:53"

_FORMS = "dns:NAME:PORT, dns:NAME (SRV), file:PATH or consul:URL/SERVICE"


@dataclass(frozen=True, slots=True)
class ListFile:
    """A JSON or YAML file at ``path``."""

    path: Path

    @property
    def on_this_machine(self) -> bool:
        """Whether what it says of loopback means ours."""
        return True

    def __str__(self) -> str:
        return f"file:{self.path}"


@dataclass(frozen=True, slots=True)
class DnsName:
    """The addresses of ``name`` at ``port`` or, without one, its SRV records; asked of ``server`` (address and port)
    or, without one, of those of this machine. ``scheme``: how the servers are spoken to."""

    name: str
    port: int | None
    server: tuple[str, int] | None = None
    scheme: str = "http"

    @property
    def on_this_machine(self) -> bool:
        return self.server is not None and is_loopback(self.server[0])

    def __str__(self) -> str:
        host = "" if self.server is None else f"//{bracketed(self.server[0])}:{self.server[1]}/"
        port = "" if self.port is None else f":{self.port}"
        return f"dns:{host}{self.name}{port}{'' if self.scheme == 'http' else f'?scheme={self.scheme}'}"


@dataclass(frozen=True, slots=True)
class ConsulService:
    """The instances of ``service`` that pass their checks, as the agent at ``url`` knows them. ``query``: what else is
    asked for, as names and values."""

    url: str
    service: str
    query: tuple[tuple[str, str], ...] = ()
    scheme: str = "http"

    @property
    def on_this_machine(self) -> bool:
        return is_loopback(urlsplit(self.url).hostname or "")

    def __str__(self) -> str:
        scheme = [] if self.scheme == "http" else [("scheme", self.scheme)]
        more = urlencode([*self.query, *scheme])
        return f"consul:{self.url}/{quote(self.service, safe='')}{more and '?'}{more}"


Discovery = ListFile | DnsName | ConsulService


def parse(text: str) -> Discovery:
    """Inverse of `str`. Raises ValueError, one sentence that repeats no more than was given."""
    kind, separator, rest = text.partition(":")
    if not separator or not rest or kind not in _KINDS:
        raise ValueError(f"{text!r} names no list of servers: {_FORMS} is needed")
    return _KINDS[kind](text, rest)


def _file(text: str, rest: str) -> ListFile:
    return ListFile(Path(rest))


def _dns(text: str, rest: str) -> DnsName:
    server = None
    parts = _split(text, rest if rest.startswith("//") else f"///{rest}")
    if parts.netloc:
        server = _address(text, parts.hostname or ""), parts.port or 53
    name, colon, port = parts.path.removeprefix("/").partition(":")
    if not _NAME.fullmatch(name) or is_address(name):
        raise ValueError(f"{text!r}: {name!r} is no name that DNS could know")
    if colon and not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise ValueError(f"{text!r}: the port is no number from 1 to 65535")
    return DnsName(name, int(port) if colon else None, server, _query(text, parts.query, frozenset())[1])


def _consul(text: str, rest: str) -> ConsulService:
    parts = _split(text, rest)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError(f"{text!r}: the URL of an agent and a service are needed: consul:http://127.0.0.1:8500/vllm")
    path, _, service = parts.path.rpartition("/")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", service):
        raise ValueError(f"{text!r}: the last part of the path is the service: letters, digits, '.', '_' and '-'")
    query, scheme = _query(text, parts.query, _OF_CONSUL)
    return ConsulService(f"{parts.scheme}://{parts.netloc}{path}", service, query, scheme)


_KINDS: Mapping[str, Callable[[str, str], Discovery]] = {"file": _file, "dns": _dns, "consul": _consul}


def _split(text: str, rest: str) -> SplitResult:
    """Its port is a number, and nobody's name and password stand in it."""
    if "@" in rest:
        raise ValueError("no '@' in it: Consul's token belongs into CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE")
    if any(ord(character) <= 32 or ord(character) == 127 for character in rest):
        raise ValueError(f"{text!r}: a space or a control character is in it")
    try:
        parts = urlsplit(rest)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    if parts.fragment:
        raise ValueError(f"{text!r}: nothing is named by what stands behind '#'")
    return parts


def _query(text: str, query: str, known: frozenset[str]) -> tuple[tuple[tuple[str, str], ...], str]:
    """What is asked for beside the scheme of the servers, and that."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=16)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    scheme = "http"
    for name, value in pairs:
        if name == "scheme" and value in _SCHEMES:
            scheme = value
        elif name not in known:
            names = ", ".join(sorted({*known, "scheme=http", "scheme=https"}))
            raise ValueError(f"{text!r}: {name}={value} is not understood; there are {names}")
    return tuple((name, value) for name, value in pairs if name != "scheme"), scheme


def _address(text: str, host: str) -> str:
    if not is_address(host):
        raise ValueError(_NAME_SERVER.format(text))
    return host
