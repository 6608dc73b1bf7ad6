"""Who is told of requests, as the settings say: the access log, a tracer."""

from __future__ import annotations

import logging
from collections.abc import Callable

from config.paths import StateDir
from config.topology import BalancerConfig
from lb.records.access_log import AccessLog
from lb.records.decision_log import DecisionLog, Tracer

log = logging.getLogger(__name__)


class Observers:
    """``decision_log`` tells them. ``close`` writes what has not been written yet; it blocks."""

    def __init__(self, config: BalancerConfig, state: StateDir) -> None:
        share = _share(config.access_log)
        self.access: AccessLog | None = None
        if share is not None:
            self.access = AccessLog(
                state.log("access"), share, style=config.log_format, prompts=config.log_prompts
            )  # fmt: skip
        tracer, self._end = _tracer(config.otlp_endpoint)
        told = (self.access,) if self.access is not None else ()
        self.decision_log = DecisionLog(told, (), tracer) if share else DecisionLog((), told, tracer)

    def start(self) -> None:
        if self.access is not None:
            self.access.start()

    def close(self) -> None:
        if self.access is not None:
            self.access.close()
        self._end()

    def dropped(self) -> int:
        """Lines of the access log that were not written."""
        return 0 if self.access is None else self.access.dropped


def _share(word: str) -> float | None:
    """Of the requests that went well; None: nothing at all is written."""
    return {"off": None, "errors": 0.0, "on": 1.0}[word] if word in ("off", "errors", "on") else float(word)


def _tracer(endpoint: str | None) -> tuple[Tracer | None, Callable[[], None]]:
    """What is imported for tracing is imported by those only who trace: it takes a quarter of a second."""
    if endpoint is None:
        return None, lambda: None
    try:
        from lb.records.tracing import SpanTracer
    except ImportError as error:
        log.error("no traces: %s; pip install 'clusterctl[otel]' installs what is missing", error)
        return None, lambda: None
    tracer = SpanTracer.exporting(endpoint)
    return tracer, tracer.close
