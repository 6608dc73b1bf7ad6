"""Which of the servers that are listed somewhere belong to the cluster, given one list after another. Pure.

Who is listed joins at once: it gets no request before it has answered one of our own. Who is not listed any more may
be missing by mistake, and to take a server away is what does harm. So it goes only when it has been missing from every
list for a while (HAProxy's ``hold obsolete``) and, if that would be more than half of all, from several lists over a
minute (as Eureka's self-preservation and Envoy's panic threshold distrust such news): a list that is empty for a moment
removes nobody. Who leaves and comes again and again has to be listed longer each time before it joins, as in the
damping of routes that flap (RFC 2439).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from config.backoff import doubled

#: Seconds for which a server has to be missing until it leaves, and for which more than half of all have to be; from
#: how many lists those have to be missing.
LEAVE_S, MOST_LEAVE_S, LISTS = 5.0, 60.0, 3

#: Seconds for which a server that left twice has to be listed until it joins, doubled with each further time; how long
#: its leaving is remembered.
FLAP_S, FLAP_MOST_S, REMEMBERED_S = 10.0, 300.0, 600.0


@dataclass(slots=True)
class _Missing:
    since: float
    lists: int = 0


@dataclass(slots=True)
class _Departure:
    """How often lately, and when last."""

    times: int
    at: float


@dataclass(slots=True)
class Membership:
    """Of the servers that one source lists, by URL. ``members``: those that belong to the cluster; ``most``: so many
    at a time. Times are seconds of a monotonic clock."""

    members: set[str] = field(default_factory=set)
    most: int = 512
    _missing: dict[str, _Missing] = field(default_factory=dict)
    _left: dict[str, _Departure] = field(default_factory=dict)
    _listed_since: dict[str, float] = field(default_factory=dict)

    @property
    def pending(self) -> bool:
        """Whether another list, even if it is the same, is wanted soon."""
        return bool(self._missing or self._listed_since)

    @property
    def missing(self) -> int:
        """Members that the latest list has not."""
        return len(self._missing)

    def observe(self, listed: Collection[str], now: float) -> None:
        """Takes in what is listed ``now``."""
        listed = dict.fromkeys(listed)  # the order in which they join
        self._forget(now)
        self._count_missing(self.members - listed.keys(), now)
        for url in self._long_missing(now):
            self.members.remove(url)
            del self._missing[url]
            times = self._left[url].times if url in self._left else 0
            self._left[url] = _Departure(times + 1, now)
        for url in self._listed_long(listed, now):
            if len(self.members) < self.most:
                self.members.add(url)

    def _count_missing(self, missing: set[str], now: float) -> None:
        self._missing = {url: self._missing.get(url) or _Missing(now) for url in sorted(missing)}
        for one in self._missing.values():
            one.lists += 1

    def _long_missing(self, now: float) -> list[str]:
        many = len(self._missing) * 2 > len(self.members)
        seconds, lists = (MOST_LEAVE_S, LISTS) if many else (LEAVE_S, 2)
        return [url for url, one in self._missing.items() if now - one.since >= seconds and one.lists >= lists]

    def _listed_long(self, listed: Iterable[str], now: float) -> list[str]:
        new = [url for url in listed if url not in self.members]
        since = {url: self._listed_since.get(url, now) for url in new}
        joining = [url for url in new if now - since[url] >= self._probation(url)]
        self._listed_since = {url: at for url, at in since.items() if url not in set(joining)}
        return joining

    def _probation(self, url: str) -> float:
        """Seconds for which it has to be listed before it joins."""
        times = self._left[url].times if url in self._left else 0
        return doubled(FLAP_S, FLAP_MOST_S, times - 2) if times > 1 else 0.0

    def _forget(self, now: float) -> None:
        self._left = {url: left for url, left in self._left.items() if now - left.at < REMEMBERED_S}
