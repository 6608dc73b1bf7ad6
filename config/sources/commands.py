"""What the environment says to the commands that look for a cluster: where it is, and what to show it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from urllib.parse import urlsplit

from config.errors import UsageError
from config.identity.secret import clean
from config.paths import StateDir, default_state_dir
from config.sources.names import PREFIX


def cluster_url() -> str:
    """Where the cluster is, for the commands that look for one: the port that `up` would take is the one to ask, over
    TLS if its state directory says so."""
    if given := os.environ.get("CLUSTERCTL_URL"):
        return given
    port, scheme = os.environ.get(f"{PREFIX}PORT") or "8000", "http"
    with contextlib.suppress(UsageError, ValueError):  # no home, no number
        scheme += "s" * StateDir(own_state_dir(int(port))).tls.exists()
    return f"{scheme}://127.0.0.1:{port}"


def names_cluster() -> bool:
    """Whether somebody has said where the cluster is, rather than that `cluster_url` looks at the usual port."""
    return bool(os.environ.get("CLUSTERCTL_URL"))


def cluster_port(url: str | None = None) -> int:
    """Of ``url``, by default that one: a cluster of this machine has its state directory by it. Raises UsageError."""
    url = url or cluster_url()
    try:
        parts = urlsplit(url)
        return parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise UsageError(f"{url}: {error}", exit_code=2) from None


def own_api_key() -> str | None:
    """For the inference endpoints of whatever server is asked. ``OPENAI_API_KEY`` is not read: it is somebody else's
    secret, and not for every URL."""
    return _own_key("CLUSTERCTL_API_KEY")


def key_of(variable: str) -> str:
    """The key in a variable of the environment that somebody has named. Raises UsageError."""
    if (key := _own_key(variable)) is None:
        raise UsageError(f"environment {variable}: no key in it", exit_code=2)
    return key


def own_state_dir(port: int) -> Path:
    """Of the cluster on ``port`` of this machine, as far as its commands are told."""
    return given_state_dir() or default_state_dir(port)


def given_state_dir() -> Path | None:
    """What CLUSTERCTL_STATE_DIR names; None where it is unset or empty."""
    return _own_file(f"{PREFIX}STATE_DIR")


def own_ca() -> Path | None:
    """A file of the authorities by which a cluster's certificate is checked."""
    return _own_file("CLUSTERCTL_CA")


def own_certificate() -> Path | None:
    """A file with the certificate, and its key, that is shown to clusters which ask for one."""
    return _own_file("CLUSTERCTL_CLIENT_CERT")


def _own_file(variable: str) -> Path | None:
    given = os.environ.get(variable)
    return Path(given).expanduser().absolute() if given else None


def own_admin_key() -> str | None:
    return _own_key("CLUSTERCTL_ADMIN_KEY")


def _own_key(variable: str) -> str | None:
    """Raises UsageError for one that no header can carry."""
    try:
        value = os.environ.get(variable)
        return clean(value) if value else None
    except ValueError as error:
        raise UsageError(f"environment {variable}: {error}", exit_code=2) from None
