"""What one request came to, and what many came to together. Pure; times are seconds, in JSON milliseconds.

The definitions are those of `vllm bench serve` (vllm/benchmarks/serve.py, calculate_metrics), over the requests that
were answered:

- time to first token: from sending the request to the first event with a choice;
- end to end: from sending it to the last such event (of an answer that is not streamed, to its last byte);
- time per output token: (end to end - time to first token) / (output tokens - 1), of answers of two tokens or more;
- between tokens: from one event with a choice to the next, of all answers together;
- throughput: answered requests, output tokens, and prompt and output tokens, each divided by the duration: from the
  first request's turn to the last answer.

An open loop has more: the same from the moment a request was *planned* for. A client that is late hides what its
requests would have waited; those figures do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.tools.bench.stats import summary

#: Keys of an aggregate that are summaries, with their names for people.
LATENCIES = {
    "ttft_ms": "time to first token",
    "tpot_ms": "time per output token",
    "itl_ms": "between tokens",
    "e2el_ms": "end to end",
    "planned_ttft_ms": "time to first token, from the planned arrival",
    "planned_e2el_ms": "end to end, from the planned arrival",
}


@dataclass(slots=True)
class Sample:
    """One request. ``planned`` and ``sent`` count from the beginning of the run; ``planned`` is None in a closed loop.

    ``error`` is the kind of what went wrong, None of an answered one."""

    model: str
    sent: float
    planned: float | None = None
    ttft: float | None = None
    latency: float = 0.0
    gaps: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    counted: bool = True
    error: str | None = None
    detail: str = ""

    @property
    def tpot(self) -> float | None:
        if self.ttft is None or self.output_tokens < 2:
            return None
        return (self.latency - self.ttft) / (self.output_tokens - 1)

    @property
    def late(self) -> float:
        """From the planned arrival to sending. Timers are good to a millisecond: what is early is in time."""
        return 0.0 if self.planned is None else max(0.0, self.sent - self.planned)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model, "planned_s": _rounded(self.planned, 6), "sent_s": _rounded(self.sent, 6),
            "ttft_ms": _ms(self.ttft), "tpot_ms": _ms(self.tpot), "e2el_ms": _ms(self.latency),
            "itl_ms": [_ms(gap) for gap in self.gaps], "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens, "error": self.error, "detail": self.detail,
        }  # fmt: skip


@dataclass
class BenchRun:
    """What came of a run of ``duration`` seconds. ``unfinished``: the models of the requests that were under way when
    it was broken off; ``cold``: the requests to warm up; ``client``: as `lag.Lag` tells it."""

    samples: list[Sample] = field(default_factory=list)
    duration: float = 0.0
    unfinished: list[str] = field(default_factory=list)
    client: dict[str, float | None] = field(default_factory=dict)
    cold: list[Sample] = field(default_factory=list)


def aggregate(samples: Iterable[Sample], duration: float, unfinished: int = 0) -> dict[str, Any]:
    """The figures of ``samples`` over ``duration`` seconds, as JSON. ``unfinished``: begun, but broken off by us."""
    samples = list(samples)
    good = [sample for sample in samples if sample.error is None]
    prompt, output = sum(s.prompt_tokens for s in good), sum(s.output_tokens for s in good)
    firsts = [(s, s.ttft) for s in good if s.ttft is not None]
    values: dict[str, Iterable[float]] = {
        "ttft_ms": (ttft for _, ttft in firsts),
        "tpot_ms": (tpot for s in good if (tpot := s.tpot) is not None),
        "itl_ms": (gap for s in good for gap in s.gaps),
        "e2el_ms": (s.latency for s in good),
    }
    planned = any(sample.planned is not None for sample in samples)
    if planned:
        values["planned_ttft_ms"] = (s.late + ttft for s, ttft in firsts)
        values["planned_e2el_ms"] = (s.late + s.latency for s in good)
        values["late_ms"] = (s.late for s in samples)
    return {
        "completed": len(good), "failed": len(samples) - len(good), "unfinished": unfinished,
        "errors": dict(Counter(s.error for s in samples if s.error is not None).most_common()),
        "duration_s": duration, "prompt_tokens": prompt, "output_tokens": output,
        "requests_per_s": _over(len(good), duration), "output_tokens_per_s": _over(output, duration),
        "total_tokens_per_s": _over(prompt + output, duration),
        "request_output_tokens_per_s": summary(s.output_tokens / s.latency for s in good if s.latency > 0),
        **{key: summary(value * 1000 for value in each) for key, each in values.items()},
    }  # fmt: skip


def first_details(samples: Sequence[Sample]) -> dict[str, str]:
    """For each kind of error what the first of it said."""
    details: dict[str, str] = {}
    for sample in samples:
        if sample.error is not None:
            details.setdefault(sample.error, sample.detail)
    return details


def over_time(samples: Iterable[Sample], duration: float, bins: int) -> tuple[list[float], list[float], list[float]]:
    """The middle of each of ``bins`` equal parts of ``duration``, and the output tokens and answers a second in it.

    A token of an answer that was not streamed is taken to have come with its end."""
    width = duration / bins
    tokens, answers = [0.0] * bins, [0.0] * bins

    def at(moment: float) -> int:
        return min(bins - 1, max(0, int(moment / width)))

    for sample in samples:
        if sample.error is not None:
            continue
        end = at(sample.sent + sample.latency)
        answers[end] += 1 / width
        moments = [] if sample.ttft is None else [sample.sent + sample.ttft]
        for gap in sample.gaps:
            moments.append(moments[-1] + gap)
        # An event may carry several tokens, or none: its share of those the server counted.
        share = sample.output_tokens / len(moments) if moments else sample.output_tokens
        for moment in moments or [sample.sent + sample.latency]:
            tokens[at(moment)] += share / width
    return [(number + 0.5) * width for number in range(bins)], tokens, answers


def _over(amount: float, duration: float) -> float:
    return amount / duration if duration > 0 else 0.0


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _rounded(seconds: float | None, digits: int) -> float | None:
    return None if seconds is None else round(seconds, digits)
