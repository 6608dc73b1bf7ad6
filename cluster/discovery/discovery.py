"""Servers that are listed somewhere join the cluster and leave it while it runs.

Each source is asked in a task of its own, and what it lists is brought into the inbox. In the task that owns the state
`settle` makes the backends follow: who belongs is there and probed, who does not any more is drained, and forgotten
when nothing runs there. What was listed last holds while a source cannot be asked, also over restarts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from cluster.deployment.backend_urls import id_of, parse_url
from cluster.discovery.listing import Listing, SourceFailed
from cluster.discovery.membership import LEAVE_S, Membership
from cluster.discovery.source import ServerSource, source_of
from cluster.events import Emit
from cluster.fleet.intent import Intent
from cluster.monitoring.external import ExternalBackend
from config.aio import Tasks
from config.backoff import doubled
from config.errors import UsageError
from config.values.discovery import Discovery

#: Seconds until a source says again what it has said: usually, and while somebody is about to leave or to join.
_AGAIN_S, _SOON_S = 30.0, LEAVE_S / 2

#: Seconds until one that failed is asked again: doubled each time.
_RETRY_S, _RETRY_MOST_S = 1.0, 30.0

#: Seconds for which the id of a server that has left is nobody else's: balancers and dashboards know it by that.
_ID_RESTS_S = 60.0


class Hosting(Protocol):
    """`cluster.supervisor.workers.WorkerMonitors`."""

    def attach(self, backend: ExternalBackend) -> None: ...
    def detach(self, backend: ExternalBackend) -> None: ...


class Draining(Protocol):
    """`cluster.supervisor.publisher.Publisher`."""

    @property
    def connected(self) -> bool: ...
    @property
    def next_version(self) -> tuple[int, int]: ...


@dataclass(slots=True)
class _Followed:
    """``trouble``: why it cannot be asked; ``heard_at``: when it last said something (s, monotonic)."""

    place: Discovery
    source: ServerSource
    membership: Membership = field(default_factory=Membership)
    trouble: str = ""
    left_out: str = ""
    heard_at: float | None = None


class BackendDiscovery:
    """``external``: all servers that are not ours, which is what this changes; those that it finds are asked as of the
    supervisor's run ``epoch``. ``save`` keeps what `restore` is given; ``now``: s, monotonic."""

    def __init__(
        self, places: Sequence[Discovery], external: list[ExternalBackend], epoch: int, intent: Intent,
        save: Callable[[dict[str, Any]], None], emit: Emit, post: Callable[[Callable[[], None]], None],
        now: Callable[[], float],
        source: Callable[[Discovery], ServerSource] = source_of,
    ) -> None:
        self._external, self._epoch, self._intent = external, epoch, intent
        self._save, self._emit, self._post, self._now = save, emit, post, now
        self._followed = [_Followed(place, source(place)) for place in places]
        self._tasks = Tasks()
        self._hosting: Hosting | None = None
        self._key: str | None = None
        self._changed = False
        #: Ids of those that are being drained because nobody lists them any more; whether we drain them, or a person
        #: did before.
        self._leaving: dict[str, bool] = {}
        self._rests: dict[int, float] = {}

    # a supervisor's run

    def restore(self, kept: Mapping[str, Any] | None, key: str | None) -> None:
        """What an earlier supervisor knew: servers have the ids that they had, and those that were leaving go on to.
        All are asked with ``key``."""
        self._key, self._changed = key, True
        by_origin = {str(followed.place): followed for followed in self._followed}
        known = {backend.spec.address for backend in self._external}
        for name, one in (kept or {}).items():
            url, origin = one["url"], one["origin"]
            if origin not in by_origin or url in known or (backend := self._add(url, origin, name)) is None:
                continue
            if one["leaving"]:
                self._leaving[backend.id] = True
            else:
                by_origin[origin].membership.members.add(url)

    def begin(self, hosting: Hosting) -> None:
        """Asks from now on; ``hosting`` probes who joins, as it does those that are there."""
        self._hosting = hosting
        for followed in self._followed:
            self._tasks.start(self._follow(followed), f"servers listed by {followed.place}")

    async def close(self) -> None:
        await self._tasks.close()
        for followed in self._followed:
            await followed.source.close()

    async def _follow(self, followed: _Followed) -> None:
        failures = 0
        while True:
            try:
                listing = await followed.source.listed(_SOON_S if followed.membership.pending else _AGAIN_S)
            except SourceFailed as error:
                self._post(partial(self._failed, followed, str(error)))
                await asyncio.sleep(doubled(_RETRY_S, _RETRY_MOST_S, failures))
                failures += 1
            else:
                failures = 0
                await self._taken_in(partial(self._heard, followed, listing))

    async def _taken_in(self, event: Callable[[], None]) -> None:
        """Returns once it is: how soon the next list is wanted follows from this one."""
        done = asyncio.Event()

        def take_in() -> None:
            event()
            done.set()

        self._post(take_in)
        await done.wait()

    # in the task that owns the state

    def _failed(self, followed: _Followed, why: str) -> None:
        if why != followed.trouble:
            followed.trouble = why
            self._emit(
                "discovery", f"{followed.place} cannot be asked, what it listed last holds: {why}",
                kind="discovery.failed", data={"source": str(followed.place), "reason": why},
            )

    def _heard(self, followed: _Followed, listing: Listing) -> None:
        if followed.trouble:
            followed.trouble = ""
            self._emit(
                "discovery", f"{followed.place} can be asked again", kind="discovery.recovered",
                data={"source": str(followed.place)},
            )
        if listing.left_out != followed.left_out:
            followed.left_out = listing.left_out
            if listing.left_out:
                self._emit(
                    "discovery", f"{followed.place}: not taken: {listing.left_out}", kind="discovery.left_out",
                    data={"source": str(followed.place), "reason": listing.left_out},
                )
        followed.heard_at, self._changed = self._now(), True
        followed.membership.observe(listing.urls, followed.heard_at)

    def settle(self, draining: Draining) -> None:
        """Makes the backends follow, if there is anything to follow."""
        if not (self._changed or self._leaving):
            return
        self._changed, before = False, self._durable()
        wanted = {url: str(f.place) for f in reversed(self._followed) for url in f.membership.members}
        for backend in self._found():
            if backend.spec.address not in wanted:
                self._leave(backend, draining)
            elif backend.id in self._leaving:
                self._return(backend)
        known = {backend.spec.address for backend in self._external}
        for url in sorted(wanted.keys() - known):
            self._join(url, wanted[url])
        if (durable := self._durable()) != before:
            self._save(durable)

    def _join(self, url: str, origin: str) -> None:
        if (backend := self._add(url, origin)) is None:
            return
        words = f"joins ({url}, listed by {origin})"
        self._emit(backend.id, words, kind="backend.joined", data={"url": url, "source": origin})
        if self._hosting is not None:
            self._hosting.attach(backend)

    def _leave(self, backend: ExternalBackend, draining: Draining) -> None:
        """Drained first, by as much patience as any worker; out when nothing runs there any more."""
        cordons = self._intent.cordons
        if backend.id not in self._leaving:
            self._emit(
                backend.id, f"leaves: {backend.spec.address} is not listed any more", kind="backend.leaving",
                data={"url": backend.spec.address, "source": backend.origin},
            )
            self._leaving[backend.id] = backend.id not in cordons
        if backend.id not in cordons:
            grace = self._intent.desired.drain_timeout
            self._intent.cordon(backend.id, grace, self._now(), draining.next_version, draining.connected)
        if not cordons.over(backend.id):
            return
        self._external.remove(backend)
        self._rests[int(backend.id.rpartition("_")[2])] = self._now()
        self._leaving.pop(backend.id)
        cordons.end(backend.id)
        self._intent.weights.pop(backend.id, None)
        if self._hosting is not None:
            self._hosting.detach(backend)
        self._emit(backend.id, "has left", kind="backend.left", data={"url": backend.spec.address})

    def _return(self, backend: ExternalBackend) -> None:
        if self._leaving.pop(backend.id):
            self._intent.cordons.end(backend.id)
        self._emit(
            backend.id, "stays: it is listed again", kind="backend.joined",
            data={"url": backend.spec.address, "source": backend.origin},
        )

    def _add(self, url: str, origin: str, name: str = "") -> ExternalBackend | None:
        try:
            spec = parse_url(url, url, self._free_id(name), self._key, self._epoch)
        except UsageError:
            return None  # kept by a release that took it
        self._external.append(backend := ExternalBackend(spec, origin))
        return backend

    def _free_id(self, wanted: str = "") -> str:
        """``wanted``, unless this start has given it to another."""
        now = self._now()
        self._rests = {number: at for number, at in self._rests.items() if now - at < _ID_RESTS_S}
        taken = {backend.id for backend in self._external} | {id_of(number) for number in self._rests}
        free = next(name for name in map(id_of, range(len(taken) + 1)) if name not in taken)
        return wanted if wanted and wanted not in taken else free

    def _found(self) -> list[ExternalBackend]:
        origins = {str(followed.place) for followed in self._followed}
        return [backend for backend in self._external if backend.origin in origins]

    def _durable(self) -> dict[str, Any]:
        return {
            one.id: {"url": one.spec.address, "origin": one.origin, "leaving": one.id in self._leaving}
            for one in self._found()
        }

    # for people

    def describe(self) -> list[dict[str, Any]]:
        """By source: what it lists, and how it is with it. ``missing``: servers that the latest list has not, and that
        stay for now; ``age_s``: seconds since it was last heard."""
        now = self._now()
        return [
            {
                "source": str(one.place), "servers": len(one.membership.members), "missing": one.membership.missing,
                "left_out": one.left_out, "failure": one.trouble,
                "age_s": None if one.heard_at is None else round(now - one.heard_at, 1),
            }
            for one in self._followed
        ]
