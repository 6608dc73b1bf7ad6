"""`GET /metrics`: what all balancer processes and workers count, on one page; and the same in short as JSON."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence

from aiohttp import web

from lb.admin.cluster_metrics import ClusterSeries, mean_latency, scraped
from lb.admin.status import Status
from lb.control.link import Link
from lb.control.peers import Peers
from lb.protocol.errors import AttemptFailed
from lb.routing.pool import Pool
from lb.telemetry import exposition
from lb.telemetry.cooperative import cooperatively
from lb.telemetry.metrics import Metrics
from lb.telemetry.shared_counters import Counters
from lb.upstream.client import WorkerClient

#: A worker that does not tell its metrics in this time (s) is left out of a scrape.
_SCRAPE_S = 2.0


class MetricsPage:
    """``alike``: the series that every balancer process reads from the same place."""

    def __init__(
        self, pool: Pool, link: Link, counters: Counters, metrics: Metrics, client: WorkerClient, peers: Peers,
        status: Status,
    ) -> None:
        self._pool, self._metrics, self._client, self._peers = pool, metrics, client, peers
        self._status, self._merger = status, exposition.Merger()
        self.alike = ClusterSeries(metrics, pool, link, counters).alike

    async def render(self, _: web.Request) -> web.Response:
        backends = [b for b in self._pool.backends.values() if b.keeps_running()]
        scrapes = (self._client.get(b.spec, "/metrics", _SCRAPE_S) for b in backends)
        others, answers = await asyncio.gather(
            self._peers.expositions(), asyncio.gather(*scrapes, return_exceptions=True)
        )
        texts: dict[str, str] = {}
        for backend, answer in zip(backends, answers, strict=True):
            if isinstance(answer, tuple):
                if answer[0] == 200:
                    texts[backend.id] = answer[1].decode(errors="replace")
            elif not isinstance(answer, AttemptFailed):
                raise answer
        answered = [(b.id, b.id in texts) for b in backends]
        pieces = await cooperatively(self._page(texts, others, answered))
        return web.Response(
            body="".join(pieces).encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    def _page(
        self, texts: Mapping[str, str], others: Sequence[str], answered: Sequence[tuple[str, bool]]
    ) -> exposition.Steps[list[str]]:
        own: Iterable[str] = self._metrics.registry.pieces()
        if others:  # of all balancer processes as if they were one
            here = "".join((yield from exposition.gathered(own)))
            own = yield from exposition.total_steps([here, *others], self.alike)
        return (yield from self._merger.merge(texts, itertools.chain(own, scraped(answered))))

    def _sums(self, others: Sequence[str]) -> exposition.Steps[dict[str, float]]:
        """Values by series of all balancer processes."""
        here = "".join((yield from exposition.gathered(self._metrics.registry.pieces())))
        return (yield from exposition.sample_steps([here, *others], self.alike))

    async def system(self, _: web.Request) -> web.Response:
        instances, others = self._status.snapshot()["instances"], await self._peers.expositions()
        series = await cooperatively(self._sums(others)) if others else {}
        everything = sum(i["requests_total"] for i in instances.values())
        result = {}
        for name, i in instances.items():
            backend, requests = self._pool.backends.get(name), i["requests_total"]
            mean = mean_latency(series, name) if others else self._metrics.mean_latency(name)
            result[name] = {
                "requests_total": requests,
                "errors_total": i["errors_total"],
                "success_rate": max(0.0, 1.0 - i["errors_total"] / requests) if requests else None,
                "mean_latency_ms": None if mean is None else round(mean * 1000, 2),
                "active_connections": backend.load if backend else 0,
                "healthy": i["is_running"],
                "state": i["state"],
                "cpu_percent": i["cpu_percent"],
                "memory_mb": i["memory_mb"],
                "traffic_share": round(requests / everything, 4) if everything else 0.0,
            }
        total_errors = sum(i["errors_total"] for i in instances.values())
        return web.json_response(
            {"requests_total": everything, "errors_total": total_errors,
             "active_connections": sum(self._pool.load().values()), "instances": result}
        )  # fmt: skip
