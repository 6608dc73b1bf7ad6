"""`--backend`: servers that are balanced and were not started by this cluster."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from cluster.fleet.states import WorkerState
from config import bounded
from config.errors import UsageError
from config.identity.secret import clean
from config.topology import BackendSpec


def parse(urls: tuple[str, ...], key_file: Path | None, epoch: int) -> list[BackendSpec]:
    """``backend_0 …`` in the order given. Raises UsageError for what is no http(s) URL or an unreadable file."""
    key = None
    if key_file is not None:
        try:
            key = clean(bounded.read_text(key_file.expanduser()))
        except UnicodeDecodeError:  # its words quote what could not be read
            raise UsageError(f"--backend-key-file {key_file}: not a UTF-8 text file", exit_code=2) from None
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageError(f"--backend-key-file {key_file}: {error}", exit_code=2) from None
    return [_parse_one(f"backend_{number}", url, key, epoch) for number, url in enumerate(urls)]


def _parse_one(name: str, url: str, key: str | None, epoch: int) -> BackendSpec:
    try:
        parts = urlsplit(url)
        port = parts.port if parts.port is not None else 443 if parts.scheme == "https" else 80
    except ValueError as error:
        raise UsageError(f"--backend {url}: {error}; such as http://10.0.0.7:8000 is needed", exit_code=2) from None
    if port == 0:
        raise UsageError(f"--backend {url}: the port is no number from 1 to 65535", exit_code=2)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise UsageError(f"--backend {url}: a URL such as http://10.0.0.7:8000 is needed", exit_code=2)
    return BackendSpec(
        id=name, incarnation=epoch, state=str(WorkerState.STARTING), scheme=parts.scheme, host=parts.hostname,
        port=port, path=parts.path.rstrip("/").removesuffix("/v1"), managed=False, api_key=key,
    )
