"""What answers are made of that say how requests were routed."""

from __future__ import annotations

from collections.abc import Mapping

from lb.admin.openapi.parts import (
    COUNT,
    FLAG,
    NUMBER,
    TEXT,
    WHOLE,
    Json,
    answer,
    array,
    by_name,
    described,
    or_null,
    ref,
)  # fmt: skip

WHY_SCHEMAS: Mapping[str, Json] = {
    "Why": answer({"decisions": array(ref("Decision"))}),
    "Decision": answer({
        "request_id": TEXT, "at": described(TEXT, "ISO 8601"), "model": or_null(TEXT), "route": TEXT,
        "balancer": described(WHOLE, "Process"), "attempts": array(ref("Attempt")),
        "queued": array(ref("QueueStay")),
        "outcome": or_null(answer({
            "status": WHOLE, "error": or_null(TEXT), "time_to_first_token_s": or_null(NUMBER), "duration_s": NUMBER,
            "completion_tokens": or_null(COUNT),
        }), "null: it is under way"),
    }, cached=described(FLAG, "Answered as the same request was before, without a worker")),
    "QueueStay": answer({
        "began_s": NUMBER, "waited_s": NUMBER, "ahead": described(COUNT, "Requests of its class that waited already"),
        "behind": described(or_null(TEXT), "The key whose turn it was, if it was not its own"),
    }, model=described(TEXT, "The model that was not up")),
    "Attempt": answer({
        "instance": TEXT, "incarnation": COUNT, "began_s": NUMBER, "strategy": or_null(TEXT), "reason": TEXT,
        "candidates": array(answer({"instance": TEXT}, score=NUMBER, terms=by_name(NUMBER))),
    }, scored_by=described(TEXT, "What the scores measure"), ended_s=NUMBER, failed=TEXT, cause=TEXT,
    continued=described(TEXT, "How its stream went on elsewhere: tokens, replay, compare, again")),
}
