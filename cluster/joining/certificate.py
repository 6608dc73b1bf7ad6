"""The certificate that machines which join are shown: one of the cluster's own, made once. Tokens carry its
fingerprint, so nobody else has to vouch for it."""

from __future__ import annotations

import datetime
import hashlib
import ssl
from pathlib import Path

from config.disk import private
from config.disk.files import replacing
from config.errors import UsageError

#: Days that it holds; machines go by its fingerprint, not by its dates.
_DAYS = 3650


def ensure(path: Path) -> None:
    """Makes key and certificate (PEM, mode 0600) where there are none. Raises UsageError."""
    if path.exists():
        return
    try:
        made = _made()
    except ImportError:
        raise UsageError("--join-listen needs a certificate: pip install 'clusterctl[join]'") from None
    try:
        with replacing(path) as file:
            file.write(made)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def server_context(path: Path) -> tuple[ssl.SSLContext, str]:
    """What serves it, and its fingerprint. Raises UsageError."""
    try:
        text = private.read(path).decode()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(path)
        leaf = text[text.index("-----BEGIN CERTIFICATE-----") :]
        return context, fingerprint(ssl.PEM_cert_to_DER_cert(leaf))
    except (OSError, ValueError, ssl.SSLError) as error:
        raise UsageError(f"{path} is no certificate with its key: {error}") from None


def client_context() -> ssl.SSLContext:
    """It takes any certificate: whoever uses it compares the `fingerprint` before it says a word."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def fingerprint(der: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(der).hexdigest()


def _made() -> bytes:
    """Raises ImportError."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "clusterctl join")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS)).sign(key, hashes.SHA256())
    )  # fmt: skip
    written: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    shown: bytes = certificate.public_bytes(serialization.Encoding.PEM)
    return written + shown
