"""URLs of servers that are balanced and were not started by this cluster: those of `--backend`, and found ones."""

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
    key = read_key(key_file)
    return [parse_url(url, f"--backend {url}", id_of(number), key, epoch) for number, url in enumerate(urls)]


def id_of(number: int) -> str:
    return f"backend_{number}"


def read_key(file: Path | None) -> str | None:
    """What `--backend-key-file` holds. Raises UsageError."""
    if file is None:
        return None
    try:
        return clean(bounded.read_text(file.expanduser()))
    except UnicodeDecodeError:  # its words quote what could not be read
        raise UsageError(f"--backend-key-file {file}: not a UTF-8 text file", exit_code=2) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"--backend-key-file {file}: {error}", exit_code=2) from None


def parse_url(url: str, said: str, name: str = "", key: str | None = None, epoch: int = 0) -> BackendSpec:
    """The server ``name`` at ``url``, asked with ``key``. Raises UsageError, a line that begins with ``said``."""
    try:
        parts = urlsplit(url)
        port = parts.port if parts.port is not None else 443 if parts.scheme == "https" else 80
    except ValueError as error:
        raise UsageError(f"{said}: {error}; such as http://10.0.0.7:8000 is needed", exit_code=2) from None
    if port == 0:
        raise UsageError(f"{said}: the port is no number from 1 to 65535", exit_code=2)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise UsageError(f"{said}: a URL such as http://10.0.0.7:8000 is needed", exit_code=2)
    return BackendSpec(
        id=name, incarnation=epoch, state=str(WorkerState.STARTING), scheme=parts.scheme, host=parts.hostname,
        port=port, path=parts.path.rstrip("/").removesuffix("/v1"), managed=False, api_key=key,
    )
