"""`why`: which instances could have taken a request, which did, and what became of it."""

from __future__ import annotations

import json
from typing import Any

import click

from cluster.cli.common import client, url_option
from cluster.cli.render import say


@click.command("why")
@click.argument("request_id", required=False)
@click.option("-n", "--number", default=20, show_default=True, type=click.IntRange(1, 1000), help="So many at most.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@url_option
def why_command(request_id: str | None, number: int, as_json: bool, url: str | None) -> int:
    """Show how the request REQUEST_ID was routed (every answer has it as X-Request-Id); without one, the latest.

    Each balancer process remembers its last 1,000."""
    with client(url) as cluster:
        decisions = cluster.why(request_id, number)
    for decision in decisions:
        if as_json:
            click.echo(json.dumps(decision))
        else:
            for line in told(decision) if request_id else [headline(decision)]:
                say(line)
    return 0


def headline(decision: dict[str, Any]) -> str:
    """One line: what it was and what became of it."""
    nobody = "the response cache" if decision.get("cached") else "no instance"
    instances = " -> ".join(attempt["instance"] for attempt in decision["attempts"]) or nobody
    what = " ".join(filter(None, (decision["route"], decision["model"])))
    return f"{decision['at']}  {decision['request_id']}  {what}  {instances}: {_became(decision['outcome'])}"


def told(decision: dict[str, Any]) -> list[str]:
    """All of it."""
    lines = [headline(decision)]
    for stay in decision.get("queued", ()):  # a balancer of before says nothing of it
        behind = f", behind those of {stay['behind']}" if stay["behind"] else ""
        whom = f"model {stay['model']}, which was not up" if "model" in stay else "a worker"
        lines.append(f"  waited {stay['waited_s']:.3f} s for {whom}, {stay['ahead']} waiting already{behind}")
    for number, attempt in enumerate(decision["attempts"], 1):
        by = f"{attempt['strategy']}: " if attempt["strategy"] else ""
        lines.append(f"  {number}. {attempt['instance']} after {attempt['began_s']:.3f} s, {by}{attempt['reason']}")
        scored = [c for c in attempt["candidates"] if "score" in c]
        if scored:
            scores = ", ".join(f"{c['instance']} {c['score']:g}" for c in scored)
            lines.append(f"     {attempt['scored_by']}: {scores}")
            for one in (c for c in scored if "terms" in c):
                terms = ", ".join(f"{name} {value:g}" for name, value in one["terms"].items())
                lines.append(f"       {one['instance']}: {terms}")
        elif len(attempt["candidates"]) > 1:
            lines.append(f"     candidates: {', '.join(c['instance'] for c in attempt['candidates'])}")
        if "failed" in attempt:
            lines.append(f"     failed after {attempt['ended_s']:.3f} s: {attempt['failed']}")
        if "continued" in attempt:
            lines.append(f"     its stream went on: {_WAYS.get(attempt['continued'], attempt['continued'])}")
    return lines


#: How a stream goes on on another worker (docs/reliability.md), in words.
_WAYS = {
    "tokens": "from prompt and tokens", "replay": "made again whole, the tokens first",
    "compare": "made again whole, and compared", "again": "made again, as nothing of it had been sent",
}  # fmt: skip


def _became(outcome: dict[str, Any] | None) -> str:
    if outcome is None:
        return "under way"
    said = f"{outcome['status']} after {outcome['duration_s']:.3f} s"
    if outcome["completion_tokens"]:
        said += f", {outcome['completion_tokens']} tokens"
    return f"{said}: {outcome['error']}" if outcome["error"] else said
