"""Servers in Consul: the instances of a service that pass their checks, by blocking queries.

By Consul's rules for these (developer.hashicorp.com/consul/api-docs/features/blocking): the index of one answer goes
into the next question, which is answered when there is a newer one or the time is over; an index that goes backwards
begins again at none, and one below 1 is none.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp

from cluster.discovery.listing import MOST, Listing, SourceFailed, of_network
from config import bounded
from config.aio import patience
from config.identity.secret import clean
from config.settings import environment
from config.values.discovery import ConsulService

#: Seconds: between two questions at least, for an answer that was not to wait, most that a question may wait.
_SOONEST_S, _ANSWER_S, _WAIT_S = 1.0, 5.0, 300.0

#: Bytes and values of an answer. An instance has two thousand of the one, a hundred of the other.
_MOST_BYTES, _MOST_VALUES = 8 * 1024 * 1024, 400_000


class ConsulSource:
    def __init__(self, place: ConsulService) -> None:
        self._place = place
        self._index = 0
        self._asked_at: float | None = None
        self._session: aiohttp.ClientSession | None = None

    async def listed(self, within: float) -> Listing:
        now = asyncio.get_running_loop().time
        if self._asked_at is not None:
            await asyncio.sleep(max(0.0, self._asked_at + _SOONEST_S - now()))
        self._asked_at = now()
        wait = min(max(within, _SOONEST_S), _WAIT_S)
        try:
            # Consul adds up to a sixteenth of the time, so that not all clients come at once.
            async with patience((wait * 17 / 16 if self._index else 0.0) + _ANSWER_S):
                body = await self._ask(wait)
        except TimeoutError:
            raise self._failed("no answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._failed(str(error) or type(error).__name__) from None
        return of_network(_instances(body), self._place.scheme, on_this_machine=self._place.on_this_machine)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _failed(self, why: str) -> SourceFailed:
        """The next question is answered at once."""
        self._index = 0
        return SourceFailed(f"{self._place.url}: {why}")

    async def _ask(self, wait: float) -> bytes:
        """One answer. Raises what aiohttp does, and ValueError for one that is none."""
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False, timeout=aiohttp.ClientTimeout(total=None))
        query = [("passing", "true"), *self._place.query]
        if self._index:
            query += [("index", str(self._index)), ("wait", f"{wait:.0f}s")]
        url, token = f"{self._place.url}/v1/health/service/{self._place.service}", _token()
        headers = {"X-Consul-Token": token} if token else {}
        async with self._session.get(url, params=query, headers=headers, allow_redirects=False) as response:
            body = await bounded.gathered(response.content.iter_any(), _MOST_BYTES)
            if response.status != 200:
                raise ValueError(f"{response.status} {body[:200].decode(errors='replace')}".strip())
            self._index = _next_index(self._index, response.headers.get("X-Consul-Index", ""))
            return body


def _next_index(before: int, told: str) -> int:
    index = int(told) if told.isascii() and told.isdigit() and len(told) < 20 else 0
    return 0 if index < max(before, 1) else index


def _instances(body: bytes) -> list[tuple[str, int]]:
    """Hosts and ports: that of the service or, where it has none, its node's. Raises SourceFailed."""
    try:
        entries = bounded.parse_json(body, _MOST_VALUES)
        found = [_place_of(entry) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SourceFailed("the answer is no list of instances of a service") from None
    if len(found) > MOST:
        raise SourceFailed(f"{len(found)} servers are listed, and {MOST} are taken at most")
    return sorted(found)


def _place_of(entry: Any) -> tuple[str, int]:
    host, port = entry["Service"]["Address"] or entry["Node"]["Address"], entry["Service"]["Port"]
    if not isinstance(host, str) or not isinstance(port, int):
        raise TypeError
    return host, port


def _token() -> str | None:
    """By the variables that Consul's own programs read. Raises ValueError for a file that cannot be read."""
    given = environment()
    if token := given.get("CONSUL_HTTP_TOKEN"):
        return clean(token)
    if file := given.get("CONSUL_HTTP_TOKEN_FILE"):
        try:
            return clean(bounded.read_text(Path(file), 4096))
        except UnicodeDecodeError:  # its words quote what could not be read
            raise ValueError("CONSUL_HTTP_TOKEN_FILE: not a UTF-8 text file") from None
        except OSError as error:
            raise ValueError(f"CONSUL_HTTP_TOKEN_FILE: {error.strerror}") from None
    return None
