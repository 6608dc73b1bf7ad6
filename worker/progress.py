"""What a worker's ``/metrics`` say of its progress. Pure.

Read from vLLM 0.32: all of these series are written in one place, where the API server takes in what a step of the
engine core brought. With the engine core stuck they stand still, gauges included, while ``/health`` and ``/metrics``
go on answering. A step that only computes a piece of a long prompt brings no token and moves no counter: then it is
the KV cache that fills.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

_RUNNING, _WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
_TOKENS, _CACHE = "vllm:generation_tokens_total", "vllm:kv_cache_usage_perc"
_SERIES = (
    _RUNNING, _WAITING, _TOKENS, "vllm:prompt_tokens_total",
    "vllm:iteration_tokens_total_count", "vllm:request_success_total", "vllm:prefix_cache_queries_total",
    _CACHE,
)  # fmt: skip

#: `prometheus_client` renders only what is named here, a small part of a page that costs the API server milliseconds
#: of its event loop. A server that does not know the parameter sends the whole page.
PATH = "/metrics?" + "&".join(f"{quote('name[]')}={quote(name)}" for name in _SERIES)

_LINE = re.compile(rf"^({'|'.join(_SERIES)})(?:\{{.*\}})? (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reading:
    """``marks`` differ from the ones before if the engine made a step in between. ``running`` and ``waiting`` are
    requests as of its last step: what came after a hang began is in neither. ``tokens``: made since it was started.
    ``cache``: the part of the KV cache in use, 0 to 1, of the fullest engine; None where that is not told."""

    marks: frozenset[str]
    running: int
    waiting: int
    tokens: int = 0
    cache: float | None = None


def read(text: str) -> Reading | None:
    """None for a page that does not tell: another product, or statistics are switched off."""
    marks, counts = set(), {_RUNNING: 0.0, _WAITING: 0.0, _TOKENS: 0.0}
    told, caches = False, []
    for found in _LINE.finditer(text):
        name, value = found.groups()
        marks.add(found.group())
        if name in counts:  # one for each engine of a data-parallel worker
            try:
                counts[name] += float(value)
            except ValueError:
                return None
            told = told or name == _RUNNING
        elif name == _CACHE:
            caches.append(_part(value))
    if not told:
        return None
    try:
        running, waiting, tokens = (int(counts[name]) for name in (_RUNNING, _WAITING, _TOKENS))
    except (ValueError, OverflowError):  # NaN, infinity
        return None
    return Reading(frozenset(marks), running, waiting, tokens, max((c for c in caches if c is not None), default=None))


def _part(text: str) -> float | None:
    """A share from 0 to 1; None for what is none."""
    try:
        return value if 0.0 <= (value := float(text)) <= 1.0 else None
    except ValueError:
        return None
