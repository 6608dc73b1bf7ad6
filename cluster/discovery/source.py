"""Where servers are listed: what each kind of list promises."""

from __future__ import annotations

from typing import Protocol

from cluster.discovery.listing import Listing
from config.values.discovery import ConsulService, Discovery, DnsName, ListFile


class ServerSource(Protocol):
    async def listed(self, within: float) -> Listing:
        """What is listed now: the first time at once, later as soon as it may have changed, or the same again after
        ``within`` seconds (DNS: when its answer's time is over). Raises SourceFailed."""

    async def close(self) -> None: ...


def source_of(place: Discovery) -> ServerSource:
    """What asks at ``place``. Nothing is asked yet."""
    if isinstance(place, ListFile):
        from cluster.discovery.file_source import FileSource

        return FileSource(place.path)
    if isinstance(place, DnsName):
        from cluster.discovery.dns_source import DnsSource

        return DnsSource(place)
    assert isinstance(place, ConsulService)
    from cluster.discovery.consul_source import ConsulSource

    return ConsulSource(place)
