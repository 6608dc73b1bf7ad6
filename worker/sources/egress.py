"""Whom a job that fetches may connect to. Every connection of the process passes here once its address is known, from
whatever library and after whatever redirect, so no name that changes its address in between gets past it: an audit
hook, which nothing can take out again. Libraries that connect without Python (hf_xet) are kept out by their switches.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from worker.jobs.job import JobFailed

#: Variables that name servers of the operator's choice, which may lie anywhere.
ENDPOINTS = ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class EgressRefused(PermissionError):
    """Nothing is sent there."""


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """``hosts``: those that may be asked, ``*.example.com`` for all below; empty: any. ``private``: also such as no
    public address has. Servers that the environment names count as asked for by the operator."""

    hosts: tuple[str, ...] = ()
    private: bool = False

    def check_host(self, host: str) -> None:
        """Raises JobFailed 403."""
        name = host.lower().rstrip(".")
        for allowed in (one.lower() for one in self.hosts):
            if name == allowed or (allowed.startswith("*.") and name.endswith(allowed[1:])):
                return
        if self.hosts:
            raise JobFailed(f"{host} is none of the hosts that source_hosts allows", 403)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the Internet, and leads to no other: not in IPv6 that carries a private IPv4."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if found.teredo is not None:
            return False
    return found.is_global and not found.is_multicast


class EgressGuard:
    """``refused``: what was refused last, as libraries wrap what they catch in words of their own."""

    def __init__(self, policy: EgressPolicy, environment: Mapping[str, str]) -> None:
        self._policy = policy
        proxies = urllib.request.getproxies_environment()
        named = [*(environment.get(name, "") for name in ENDPOINTS), *proxies.values()]
        self._operators = [place for url in named if (place := _place(url)) is not None]
        self.refused: str | None = None

    def install(self) -> None:
        """For the rest of this process."""
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            self.check(arguments[1])

    def check(self, address: Any) -> None:
        """Raises EgressRefused. ``address`` as `socket.connect` takes it."""
        if self._policy.private or not isinstance(address, tuple):
            return  # a tuple is an internet address
        host, port = str(address[0]), int(address[1])
        try:
            if is_public(host) or self._is_operators(host, port):
                return
        except ValueError:
            pass  # a name: nobody has looked at its address
        self.refused = (
            f"{host} is an address of this machine or of a private network: source_private: true allows those"
        )
        raise EgressRefused(self.refused)

    def _is_operators(self, address: str, port: int) -> bool:
        return any(port == at and address in _addresses(host) for host, at in self._operators)


def without_detours(environment: dict[str, str], private: bool) -> None:
    """Switches off what does not go by `EgressGuard`, and what would only wait for its refusal."""
    environment["HF_HUB_DISABLE_XET"] = "1"
    environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
    environment["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    if not private:
        environment["AWS_EC2_METADATA_DISABLED"] = "true"


def environment_guard(policy: EgressPolicy) -> EgressGuard:
    """By the environment of this process, whose detours are switched off."""
    own = dict(os.environ)
    without_detours(own, policy.private)
    os.environ.update(own)
    return EgressGuard(policy, own)


def _place(url: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(url)
        return None if not parts.hostname else (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
    except ValueError:
        return None


def _addresses(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError:
        return set()
