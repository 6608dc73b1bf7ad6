"""The certificate that this process serves, replaced while it serves when its files are."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from config import tls
from config.errors import UsageError
from config.topology import TlsFiles

log = logging.getLogger(__name__)

#: Seconds between two looks at the files.
_LOOK_S = 1.0


class ServedCertificate:
    """Of ``files``; ``kept`` is where the last good ones are kept, and taken from where they are not good now. Raises
    UsageError where neither are."""

    def __init__(self, files: TlsFiles, kept: Path) -> None:
        self._http2: tuple[tls.ServerTls, ssl.SSLContext] | None = None
        self._files, self._watch, self._kept = files, tls.FileWatch(files), kept
        try:
            self._served = tls.load(files)
        except UsageError as error:
            before = tls.kept(kept)
            if before is None:
                raise
            log.error("%s; what was served before is served on", error)
            self._served = before
        else:
            self._keep()

    def context(self) -> ssl.SSLContext:
        """For the next handshake."""
        return self._served.context

    def http2_context(self) -> ssl.SSLContext:
        """The same for a client that speaks HTTP/2."""
        if self._http2 is None or self._http2[0] is not self._served:
            self._http2 = self._served, tls.for_http2(self._served)
        return self._http2[1]

    @property
    def expires(self) -> float:
        """Seconds since the epoch."""
        return self._served.expires

    async def watch(self) -> None:
        """Takes what is put into the files, once it is whole; without an end."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                found = await asyncio.to_thread(self._watch.look)
            except UsageError as error:
                log.error("%s; what was served before is served on", error)
                continue
            if found is not None:
                self._served = found
                log.info("another certificate is served from now on")
                await asyncio.to_thread(self._keep)

    def _keep(self) -> None:
        try:
            tls.keep(self._kept, self._files, self._served)
        except OSError as error:  # a full disk, most likely
            log.warning("%s: %s; the command line of this machine may not trust it", self._kept, error.strerror)
