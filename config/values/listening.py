"""Addresses that balancers of other machines connect to. Pure."""

from __future__ import annotations

import ipaddress

from config.values.addresses import is_loopback


def check(join_listen: str | None, worker_host: str, has_workers: bool, driver: str) -> None:
    """Raises ValueError for addresses that are none, and where balancers could join and not reach the workers."""
    try:
        workers = ipaddress.IPv4Address(worker_host)
    except ValueError:
        raise ValueError(f"worker_host {worker_host!r}: an IPv4 address of this machine is needed") from None
    if workers.is_unspecified:
        raise ValueError(f"worker_host {worker_host} is no address that anybody can connect to: name one")
    if join_listen is None:
        return
    host, colon, port = join_listen.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"join_listen {join_listen!r}: ADDRESS:PORT is needed, such as 10.0.0.5:8443")
    if has_workers and driver == "local" and workers.is_loopback and not is_loopback(host):
        raise ValueError(
            f"join_listen {join_listen} lets balancers of other machines join, and they reach no worker on "
            f"{worker_host}: name an address of this machine's with worker_host"
        )
