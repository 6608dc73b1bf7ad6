"""Names and addresses of hosts. Pure."""

from __future__ import annotations

import ipaddress


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether ``host``, by its name or its address, is whoever looks at it: on another machine that is somebody
    else, and nobody there can connect to it here."""
    name = host.strip("[]").lower()
    return name == "localhost" or (is_address(name) and ipaddress.ip_address(name).is_loopback)


def bracketed(host: str) -> str:
    """As a URL has it."""
    return f"[{host}]" if ":" in host else host


def local_url(host: str, port: int, tls: bool) -> str:
    """Where a program of this machine finds who listens on ``host``: nobody can connect to "every address"."""
    host = host.strip("[]")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{'https' if tls else 'http'}://{bracketed(host)}:{port}"
