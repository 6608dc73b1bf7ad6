"""Which certificate of a cluster is trusted."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import httpx

from cluster.client.token import is_of_this_machine
from config import tls
from config.errors import UsageError
from config.paths import StateDir
from config.sources.commands import own_state_dir

#: What says whom to trust: a file of authorities, all of a context, or nothing in particular.
Verify = Path | ssl.SSLContext | None


def verification(url: httpx.URL, verify: Verify = None, cert: Path | None = None) -> ssl.SSLContext | bool:
    """For httpx and aiohttp, of connections to ``url``. Where nothing is said, the certificate of a cluster of this
    machine is known from its state directory (CLUSTERCTL_STATE_DIR, or the usual one of the port), and any other has to
    be signed by an authority that the system trusts. ``cert``: a file with the client's own and its key. Raises OSError
    and ssl.SSLError for files that are none."""
    if url.scheme != "https" or isinstance(verify, ssl.SSLContext):
        return verify if isinstance(verify, ssl.SSLContext) else True
    context = None if verify else _pinned(url)
    if context is None:
        if verify is None and cert is None:
            return True
        context = ssl.create_default_context(cafile=verify)
    if cert is not None:
        context.load_cert_chain(cert)
    return context


class KeptCertificate(ssl.SSLContext):
    """Trusts exactly the certificate that the cluster of a state directory serves, also when that is replaced."""

    path: Path

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        self._look()
        return super().wrap_bio(*args, **options)

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        self._look()
        return super().wrap_socket(*args, **options)

    def _look(self) -> None:
        if (leaf := tls.kept_leaf(self.path)) is not None:
            self.load_verify_locations(cadata=leaf)


def kept_certificate(path: Path) -> KeptCertificate:
    """``path``: as `StateDir.tls`."""
    context = KeptCertificate(ssl.PROTOCOL_TLS_CLIENT)
    tls.trust_pinned(context)
    context.path = path
    return context


def _pinned(url: httpx.URL) -> ssl.SSLContext | None:
    try:
        path = StateDir(own_state_dir(url.port or 443)).tls
    except UsageError:  # no home
        return None
    return kept_certificate(path) if path.exists() and is_of_this_machine(url.host) else None
