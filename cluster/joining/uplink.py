"""The machine's connection to the supervisor: made as often as it takes, over TLS to exactly the certificate that the
token named."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from cluster.joining.certificate import client_context, fingerprint
from cluster.joining.protocol import GREETING_S, HEARTBEAT_S, SILENCE_S
from config.aio import Tasks, patience
from config.backoff import doubled
from config.errors import UsageError
from config.link import LINE_LIMIT, encode

log = logging.getLogger(__name__)

#: Seconds between two tries, doubled with each, at most so many.
_FIRST_S, _LONGEST_S = 0.2, 5.0


@dataclass(frozen=True, slots=True)
class JoinAddress:
    """Where a supervisor listens for machines, and the SHA-256 of the certificate that it shows."""

    host: str
    port: int
    fingerprint: str = field(repr=False)


class Uplink:
    """To ``where``, which has let this machine in before where it is ``known``; ``hello()``: the first words.
    ``heard`` gets each message, the welcome first; ``parted()`` is called when the connection is gone."""

    def __init__(
        self, where: JoinAddress, hello: Callable[[], Mapping[str, Any]], heard: Callable[[Mapping[str, Any]], None],
        parted: Callable[[], None], *, known: bool = False,
    ) -> None:
        self._where, self._hello, self._heard, self._parted = where, hello, heard, parted
        self._writer: asyncio.StreamWriter | None = None
        self._tasks = Tasks()
        self._spoke, self._was_let_in, self._failures = 0.0, known, 0

    @property
    def connected(self) -> bool:
        return self._writer is not None

    def say(self, message: Mapping[str, Any]) -> None:
        """To the supervisor, if it is there."""
        if self._writer is not None and not self._writer.is_closing():
            self._spoke = asyncio.get_running_loop().time()
            self._writer.write(encode(message))

    async def run(self) -> NoReturn:
        """Without an end. Raises UsageError where this machine is not let in, or not any more, and where somebody else
        answers in place of a supervisor that it has never talked to."""
        told = ""
        while True:
            try:
                await self._once()
            except (OSError, TimeoutError, EOFError, ValueError) as error:
                why = str(error) or type(error).__name__
                if why != told:
                    log.warning("the supervisor at %s:%d: %s; tried again", self._where.host, self._where.port, why)
                told = why
            await asyncio.sleep(doubled(_FIRST_S, _LONGEST_S, self._failures))
            self._failures += 1

    async def close(self) -> None:
        await self._tasks.close()
        if self._writer is not None:
            self._writer.close()

    async def _once(self) -> None:
        """One connection, to its end. Raises OSError, TimeoutError, ValueError, UsageError."""
        async with asyncio.timeout(GREETING_S):
            reader, writer = await asyncio.open_connection(
                self._where.host, self._where.port, ssl=client_context(), limit=LINE_LIMIT
            )
        try:
            self._check(writer)
            writer.write(encode(self._hello()))
            welcome = await self._next(reader)
            if welcome["type"] == "refused":
                if not welcome["final"]:
                    raise ConnectionError(str(welcome["why"]))
                raise UsageError(f"the supervisor does not let this machine in: {welcome['why']}")
            self._writer, self._was_let_in, self._failures = writer, True, 0
            self._heard(welcome)
            beating = self._tasks.start(self._beat(), "heartbeat")
            try:
                while True:
                    self._heard(await self._next(reader))
            finally:
                beating.cancel()
        except EOFError:
            raise ConnectionError("the connection ended") from None
        finally:
            writer.transport.abort()
            if self._writer is not None:
                self._writer = None
                self._parted()

    def _check(self, writer: asyncio.StreamWriter) -> None:
        """Whoever answers with another certificate than the token says gets no secret. Raises UsageError, and
        ConnectionError where the supervisor has answered before."""
        shown: ssl.SSLObject = writer.get_extra_info("ssl_object")
        der = shown.getpeercert(binary_form=True) or b""
        if not hmac.compare_digest(fingerprint(der), self._where.fingerprint):
            why = "who answers there is not the supervisor that made the token: its certificate is another"
            raise ConnectionError(why) if self._was_let_in else UsageError(why)

    async def _next(self, reader: asyncio.StreamReader) -> Mapping[str, Any]:
        """Raises EOFError, TimeoutError, ValueError."""
        async with patience(SILENCE_S):
            line = await reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        found = json.loads(line)
        if not isinstance(found, dict) or "type" not in found:
            raise ValueError("it says what is not understood")
        return found

    async def _beat(self) -> None:
        """Says something when nothing else is said."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if asyncio.get_running_loop().time() - self._spoke >= HEARTBEAT_S:
                self.say({"type": "alive"})
