"""Whether a cluster may listen where its settings say, as nobody there has to show a key. Pure."""

from __future__ import annotations

from config.errors import UsageError
from config.settings import Settings
from config.values.addresses import is_loopback


def check(settings: Settings, has_keys: bool) -> None:
    """Raises UsageError for a cluster that would be open to whoever reaches this machine. Who has to show a
    certificate of an authority that was named for it is not whoever."""
    if settings.insecure or settings.admin_key or settings.tls_client_ca or has_keys or is_loopback(settings.host):
        return
    raise UsageError(
        f"on {settings.host} everybody who reaches this machine could use the cluster: set CLUSTERCTL_ADMIN_KEY or "
        "name API keys with --api-keys FILE (keys made with `clusterctl key create` count too), demand certificates "
        "with --tls-client-ca FILE, or say --insecure",
        exit_code=2,
    )
