"""Servers in DNS: the addresses of a name or, where no port is given, its SRV records. Asked again when the answer's
time to live is over.

Weights and priorities of SRV records are not taken: requests are spread by what servers do, and one of lower priority
is a server like the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from cluster.discovery.listing import MOST, Listing, SourceFailed, of_network
from config.values.discovery import DnsName

#: An answer is believed for its time to live, between so many seconds; a name server may take so long.
_SOONEST_S, _LATEST_S, _ANSWER_S = 2.0, 60.0, 5.0

#: Questions for the addresses of SRV targets at the same time.
_AT_ONCE = 16

_ADDRESSES = ("A", "AAAA")


class DnsSource:
    """dnspython asks: a system resolver tells neither a time to live nor SRV records."""

    def __init__(self, place: DnsName) -> None:
        self._place = place
        self._resolver: Any = None
        self._again_at: float | None = None
        self._asking = asyncio.Semaphore(_AT_ONCE)

    async def listed(self, within: float) -> Listing:
        now = asyncio.get_running_loop().time
        if self._again_at is not None:
            await asyncio.sleep(max(0.0, self._again_at - now()))
        self._again_at = now() + _SOONEST_S
        # Anew each time: what /etc/resolv.conf says may have changed. In a thread, as it reads that, and is imported.
        self._resolver = await asyncio.to_thread(_resolver, self._place)
        place = self._place
        if place.port is None:
            found, seconds = await self._services()
        else:
            addresses, seconds = await self._addresses(place.name)
            found = [(address, place.port) for address in addresses]
        self._again_at = now() + min(max(seconds, _SOONEST_S), _LATEST_S)
        return of_network(sorted(found), place.scheme, on_this_machine=place.on_this_machine)

    async def close(self) -> None:
        """Each question has a socket of its own."""

    async def _services(self) -> tuple[list[tuple[str, int]], float]:
        """Hosts and ports of SRV records. Names stay for https, whose certificates are of names; else their addresses
        are found where the names came from: nobody else may know them."""
        records, seconds = await self._ask(self._place.name, "SRV")
        if len(records) > MOST:
            raise SourceFailed(f"{len(records)} servers are listed, and {MOST} are taken at most")
        targets = [(str(one.target).rstrip("."), int(one.port)) for one in records if str(one.target) != "."]
        if self._place.scheme == "https":
            return targets, seconds
        names = sorted({name for name, _ in targets})
        answers = await asyncio.gather(*map(self._addresses, names), return_exceptions=True)
        failed = [answer for answer in answers if isinstance(answer, SourceFailed)]
        if failed:
            raise failed[0]  # those that are known would look like all there are
        by_name: dict[str, list[str]] = {}
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            by_name[name], seconds = answer[0], min(seconds, answer[1])
        return [(address, port) for name, port in targets for address in by_name[name]], seconds

    async def _addresses(self, name: str) -> tuple[list[str], float]:
        """Of both families; those of one if only the other cannot be asked for, as some name servers know only one."""
        answers = await asyncio.gather(*(self._ask(name, kind) for kind in _ADDRESSES), return_exceptions=True)
        records, seconds, failures = [], _LATEST_S, []
        for answer in answers:
            if isinstance(answer, SourceFailed):
                failures.append(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                records += [str(one.address) for one in answer[0]]
                seconds = min(seconds, answer[1])
        if failures and not records:
            raise failures[0]
        return records, seconds

    async def _ask(self, name: str, kind: str) -> tuple[Sequence[Any], float]:
        """Records, none where the name has none of this kind, and their time to live (s). Raises SourceFailed, also for
        a name that there is not: one that was there is more likely lost than meant to have no servers."""
        async with self._asking, _told(name):
            answer = await self._resolver.resolve(
                name, kind, raise_on_no_answer=False, lifetime=_ANSWER_S, search=self._place.server is None
            )
        return list(answer.rrset or ()), float(answer.chaining_result.minimum_ttl)


@contextlib.asynccontextmanager
async def _told(name: str) -> AsyncIterator[None]:
    import dns.exception

    try:
        yield
    except dns.exception.DNSException as error:
        raise SourceFailed(f"{name}: {error}") from None
    except (OSError, ValueError) as error:
        raise SourceFailed(f"{name}: {error or type(error).__name__}") from None


def _resolver(place: DnsName) -> Any:
    import dns.asyncresolver
    import dns.exception

    try:
        resolver = dns.asyncresolver.Resolver(configure=place.server is None)
    except dns.exception.DNSException as error:
        raise SourceFailed(str(error)) from None
    if place.server is not None:
        resolver.nameservers, resolver.port = [place.server[0]], place.server[1]
    return resolver
