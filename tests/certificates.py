"""Certificates for tests, made by the `openssl` command."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from config.topology import TlsFiles


@dataclass(frozen=True, slots=True)
class Issued:
    """PEM files."""

    cert: Path
    key: Path

    @property
    def files(self) -> TlsFiles:
        return TlsFiles(str(self.cert), str(self.key))

    def replace(self, other: Issued) -> None:
        """By what ``other`` holds, as those who renew certificates do it: by renaming."""
        for mine, its in ((self.cert, other.cert), (self.key, other.key)):
            new = mine.with_suffix(".new")
            new.write_bytes(its.read_bytes())
            new.chmod(0o600)
            new.replace(mine)

    def trusted(self, client: Issued | None = None) -> ssl.SSLContext:
        """What a client needs that trusts it, and shows the certificate of ``client``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.cert)
        if client is not None:
            context.load_cert_chain(client.cert, client.key)
        return context


def issue(folder: Path, name: str = "localhost", by: Issued | None = None, *extensions: str) -> Issued:
    """A certificate of ``name`` and 127.0.0.1, signed ``by`` an authority or by itself; that of an authority where
    ``extensions`` say so."""
    folder.mkdir(exist_ok=True)
    made = Issued(folder / f"{name}.pem", folder / f"{name}.key")
    signed = () if by is None else ("-CA", str(by.cert), "-CAkey", str(by.key))
    more = (f"subjectAltName=DNS:{name},IP:127.0.0.1", *(extensions or ("basicConstraints=critical,CA:FALSE",)))
    given = [word for extension in more for word in ("-addext", extension)]
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
        "-subj", f"/CN={name}", "-out", str(made.cert), "-keyout", str(made.key), *signed, *given,
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    made.key.chmod(0o600)
    return made


def authority(folder: Path) -> Issued:
    return issue(folder, "authority", None, "basicConstraints=critical,CA:TRUE")
