"""Whether a cluster may listen where its settings say, as nobody there has to show a key. Pure."""

from __future__ import annotations

import ipaddress

from config.errors import UsageError
from config.settings import Settings


def check(settings: Settings, has_keys: bool) -> None:
    """Raises UsageError for a cluster that would be open to whoever reaches this machine. Who has to show a
    certificate of an authority that was named for it is not whoever."""
    if settings.insecure or settings.admin_key or settings.tls_client_ca or has_keys or is_local(settings.host):
        return
    raise UsageError(
        f"on {settings.host} everybody who reaches this machine could use the cluster: set CLUSTERCTL_ADMIN_KEY or "
        "name API keys with --api-keys FILE (keys made with `clusterctl key create` count too), demand certificates "
        "with --tls-client-ca FILE, or say --insecure",
        exit_code=2,
    )


def is_local(host: str) -> bool:
    """Whether only this machine can connect to ``host``."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
