"""What a source lists, made into URLs of servers. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cluster.deployment.backend_urls import parse_url
from config.errors import UsageError
from config.text import printable
from config.values.addresses import bracketed

#: Servers of one source; the balancer holds 1,024 backends at most.
MOST = 512

_SHOWN = 3

#: A name; one whose last part begins like a number is an address to resolvers (2130706433 is 127.0.0.1).
_HOST = re.compile(r"(?=.{1,253}$)(?:[A-Za-z0-9_-]{1,63}\.)*(?![0-9])[A-Za-z0-9_-]{1,63}\.?")


class SourceFailed(Exception):
    """There is no list just now; the text says why, in a line that is safe to show."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(" ".join(text.split()))[:300])


@dataclass(frozen=True, slots=True)
class Listing:
    """URLs, each once, and in words what else was listed and is not taken; "": nothing."""

    urls: tuple[str, ...]
    left_out: str = ""


def of_file(data: Any) -> Listing:
    """A list of URLs or ``host:port``, or of Prometheus' groups (``targets`` and perhaps ``labels``, of which
    ``__scheme__`` counts). A file is taken as a whole or not at all. Raises SourceFailed."""
    if not isinstance(data, list):
        raise SourceFailed("a list of servers is needed, each as http://10.0.0.7:8000")
    urls = []
    for number, entry in enumerate(data, 1):
        for address, scheme in _targets(entry, number):
            urls.append(_url(address if "://" in address else f"{scheme}://{address}", number))
    return _listing(urls)


def _targets(entry: Any, number: int) -> Iterable[tuple[str, str]]:
    if isinstance(entry, str):
        return [(entry, "http")]
    try:
        targets, scheme = entry["targets"], entry.get("labels", {}).get("__scheme__", "http")
    except (TypeError, KeyError, AttributeError):
        raise SourceFailed(f"entry {number} is neither a URL nor an object with targets") from None
    if not isinstance(targets, list) or not all(isinstance(one, str) for one in targets):
        raise SourceFailed(f"entry {number}: targets is a list of texts such as 10.0.0.7:8000")
    return [(one, str(scheme)) for one in targets]


def _url(text: str, number: int) -> str:
    if not text.isprintable() or " " in text:
        raise SourceFailed(f"entry {number} has a space or a control character in it")
    try:
        return parse_url(text, f"entry {number}, {text[:200]}").address
    except UsageError as error:
        raise SourceFailed(str(error)) from None


def of_network(found: Iterable[tuple[str, int]], scheme: str, *, on_this_machine: bool) -> Listing:
    """Of hosts and ports that somebody on the network names. What cannot be a server there is left out, one by one:
    the network would otherwise stop at one bad entry. Loopback means ours only if who says so is ``on_this_machine``.
    Raises SourceFailed where it names nothing but such."""
    urls, out = [], []
    for host, port in found:
        if why := _unfit(host, on_this_machine) or ("" if 0 < port < 65536 else "no port"):
            out.append(f"{host[:100]}:{port} ({why})")
            continue
        urls.append(parse_url(f"{scheme}://{bracketed(host)}:{port}", host).address)
    words = ", ".join(sorted(set(out))[:_SHOWN]) + (f" and {len(out) - _SHOWN} more" if len(out) > _SHOWN else "")
    if out and not urls:
        raise SourceFailed(f"nothing but {words} is listed")
    return _listing(urls, printable(words))


def _unfit(host: str, on_this_machine: bool) -> str:
    """Why nothing is asked there, as it is no address of a server elsewhere; "" for a name and for the others."""
    try:
        address: Any = ipaddress.ip_address(host)
    except ValueError:
        if not _HOST.fullmatch(host):
            return "no host"
        return "loopback" if host.rstrip(".").lower() == "localhost" and not on_this_machine else ""
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return "" if on_this_machine else "loopback"
    for kind in ("link_local", "multicast", "unspecified"):
        if getattr(address, f"is_{kind}"):
            return kind.replace("_", "-")
    return ""


def _listing(urls: list[str], left_out: str = "") -> Listing:
    once = tuple(dict.fromkeys(urls))
    if len(once) > MOST:
        raise SourceFailed(f"{len(once)} servers are listed, and {MOST} are taken at most")
    return Listing(once, left_out)
