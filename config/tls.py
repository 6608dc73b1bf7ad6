"""The certificate that the one port is served with: read from the files of the settings, checked, watched, and kept.

What was good last is kept in the state directory. A balancer that is started while somebody is replacing the files, or
has put broken ones there, takes that; the command line of this machine trusts exactly the certificate in it."""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from config import bounded
from config.disk import private
from config.disk.files import replacing
from config.errors import UsageError
from config.topology import TlsFiles

#: X509_V_FLAG_NO_CHECK_TIME (openssl/x509_vfy.h), which the module has no name for.
_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"

#: Bytes of a file of certificates: those of the longest chains and of many authorities.
_MOST = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServerTls:
    """``context`` serves; ``pem`` is the private key and the chain, ``client_ca`` the authorities. ``expires``: s since
    the epoch; ``names``: what the certificate is for."""

    context: ssl.SSLContext
    pem: str
    client_ca: str | None
    expires: float
    names: tuple[str, ...]


def load(files: TlsFiles) -> ServerTls:
    """Raises UsageError with one sentence that names the file, for whatever a client would be refused by but the date
    (`check_dates`)."""
    chain, authorities = _text("cert", files.cert), files.client_ca and _text("client-ca", files.client_ca)
    try:
        private.require_secret(Path(files.key))
    except (OSError, UsageError) as error:
        raise UsageError(f"--tls-key {files.key}: {getattr(error, 'strerror', None) or error}") from None
    key = _text("key", files.key)
    if "ENCRYPTED" in key:
        raise UsageError(f"--tls-key {files.key}: it has a passphrase; one without is needed")
    if "PRIVATE KEY-----" not in key:
        raise UsageError(f"--tls-key {files.key}: holds no private key")
    if _BEGIN not in chain:
        raise UsageError(f"--tls-cert {files.cert}: holds no certificate")
    try:
        return _serve(f"{key}\n{chain}", authorities)
    except ssl.SSLCertVerificationError as error:
        raise UsageError(f"--tls-cert {files.cert}: no client would take it: {error.verify_message}") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UsageError(f"--tls-key {files.key}: not the key of {files.cert}") from None
        why = (error.reason or "not a PEM file").lower().replace("_", " ")
        raise UsageError(f"--tls-cert {files.cert} and --tls-key {files.key}: {why}") from None
    except ValueError as error:
        raise UsageError(f"--tls-client-ca {files.client_ca}: {error}") from None


def check_dates(files: TlsFiles, found: ServerTls) -> None:
    """Raises UsageError for one that has expired."""
    if found.expires <= time.time():
        ago = time.strftime("%Y-%m-%d", time.gmtime(found.expires))
        raise UsageError(f"--tls-cert {files.cert}: it has expired, on {ago}")


def check(files: TlsFiles, kept_in: Path) -> None:
    """Raises UsageError for what cannot be served. Not where balancers that run, or were killed, have kept it in
    ``kept_in``: those have to come up again, whatever is in the files by now."""
    if not is_kept(kept_in, files):
        check_dates(files, load(files))


class FileWatch:
    """Of files that may be replaced at any time, and not at once. Asked now and then."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = self._settling = _stamp(files)

    def look(self) -> ServerTls | None:
        """What is in them if they have changed and stood still from one call to the next. Blocks. Raises UsageError,
        once for each change."""
        now = _stamp(self._files)
        if now == self._seen:
            return None
        if now != self._settling:
            self._settling = now
            return None
        self._seen = now
        found = load(self._files)
        if _stamp(self._files) != now:  # it may be of the one and of the other
            self._seen = ()
            return None
        check_dates(self._files, found)
        return found


def keep(path: Path, files: TlsFiles, found: ServerTls) -> None:
    """What was in ``files``, for `kept`. Raises OSError."""
    with replacing(path) as file:
        data = {"pem": found.pem, "client_ca": found.client_ca, "files": asdict(files)}
        file.write(json.dumps(data).encode())


def kept(path: Path) -> ServerTls | None:
    """What was served last; None where nothing is kept."""
    found = _kept(path)
    try:
        return _serve(found["pem"], found["client_ca"]) if found else None
    except (KeyError, ValueError, ssl.SSLError):
        return None


def is_kept(path: Path, files: TlsFiles) -> bool:
    """Whether what was served last came out of ``files``."""
    return bool(_kept(path).get("files") == asdict(files))


def kept_leaf(path: Path) -> str | None:
    """The certificate that was served last, in PEM; None where nothing is kept."""
    _, begin, rest = str(_kept(path).get("pem", "")).partition(_BEGIN)
    return begin + rest.partition(_END)[0] + _END if begin else None


def _kept(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(private.read(path))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(flag: str, path: str) -> str:
    try:
        with bounded.open_regular(Path(path)) as file:
            return bounded.read(file, _MOST).decode("ascii", errors="replace")  # there may be comments in any language
    except OSError as error:
        raise UsageError(f"--tls-{flag} {path}: {error.strerror}") from None
    except bounded.Unfit as error:
        raise UsageError(f"--tls-{flag} {path}: {error}") from None


def _stamp(files: TlsFiles) -> tuple[object, ...]:
    """What changes with each of the files, whatever links lead to it."""
    found: list[object] = []
    for path in (files.cert, files.key, files.client_ca):
        try:
            seen = Path(path).stat() if path is not None else None
        except OSError:
            seen = None
        found.append(seen and (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_mode))
    return tuple(found)


def _serve(pem: str, client_ca: str | None) -> ServerTls:
    """Raises ssl.SSLError, and ValueError for ``client_ca``."""
    context = _context(pem, client_ca, "http/1.1")
    shown = _seen_by_a_client(context, pem[pem.index(_BEGIN) :])
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    names = tuple(value for kind, value in shown.get("subjectAltName", ()) if kind in ("DNS", "IP Address"))
    return ServerTls(context, pem, client_ca, float(ssl.cert_time_to_seconds(shown["notAfter"])), names)


def for_http2(found: ServerTls) -> ssl.SSLContext:
    """Serves the same to clients that speak HTTP/2."""
    context = _context(found.pem, found.client_ca, "h2")
    if found.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _context(pem: str, client_ca: str | None, protocol: str) -> ssl.SSLContext:
    """It asks no client for a certificate. Raises ssl.SSLError, and ValueError for ``client_ca``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([protocol])
    memory = os.memfd_create("tls", os.MFD_CLOEXEC)  # the module reads files only, and these may be others by now
    try:
        os.write(memory, pem.encode())
        context.load_cert_chain(f"/proc/self/fd/{memory}", password=lambda: "")
    finally:
        os.close(memory)
    if client_ca is not None:
        try:
            context.load_verify_locations(cadata=client_ca)
        except ssl.SSLError:
            raise ValueError("not a PEM file of certificates") from None
        if not context.get_ca_certs():
            raise ValueError("holds no certificate of an authority")
    return context


def trust_pinned(context: ssl.SSLContext) -> None:
    """Of a client: it takes the certificates that it is given and no other, whoever signed them, whatever their names
    and dates."""
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME


def _seen_by_a_client(context: ssl.SSLContext, chain: str) -> dict[str, Any]:
    """What a handshake shows of the certificate. Raises ssl.SSLError, for the wrong purpose for example."""
    upstream, downstream = ssl.MemoryBIO(), ssl.MemoryBIO()
    pinned = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust_pinned(pinned)
    pinned.load_verify_locations(cadata=chain)
    client = pinned.wrap_bio(downstream, upstream)
    server = context.wrap_bio(upstream, downstream, server_side=True)
    while True:
        try:
            client.do_handshake()
            return dict(client.getpeercert() or {})
        except ssl.SSLWantReadError:
            pass
        try:
            server.do_handshake()
        except ssl.SSLWantReadError:
            pass
