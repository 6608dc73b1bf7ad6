"""What answers and requests are made of that concern jobs."""

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
    one_of,
    or_null,
    question,
    ref,
)

_FIGURE: Json = {"type": ["number", "string"]}
_COUNTS = array(answer({"kind": TEXT, "state": TEXT, "count": COUNT}))
_JOB: Mapping[str, Json] = {
    "id": TEXT, "kind": TEXT, "state": one_of("queued", "running", "done", "failed", "cancelled"),
    "by": described(TEXT, "Who asked for it"), "created_at": described(NUMBER, "Seconds since 1970"),
    "started_at": or_null(NUMBER), "ended_at": or_null(NUMBER),
    "background": or_null(FLAG, "It takes the processor only where nobody else wants it; null: not decided yet"),
    "gpus": described(array(COUNT), "Those that it was given"), "cancelling": FLAG,
    "error": or_null(TEXT, "Why it came to no result"), "status": or_null(WHOLE, "The HTTP status that says why"),
    "pid": or_null(WHOLE), "progress": or_null(ref("JobProgress"), "When it was last heard of"),
}  # fmt: skip

JOB_SCHEMAS: Mapping[str, Json] = {
    "Job": answer(_JOB),
    "JobDetails": answer({
        **_JOB, "arguments": or_null(by_name({}), "null: its folder is gone"),
        "result": or_null(by_name({}), "What its kind says of it"),
    }),
    "Jobs": answer({"jobs": array(ref("Job"))}),
    "JobProgress": answer({
        "stage": TEXT, "done": NUMBER, "total": or_null(NUMBER, "null: not known"), "unit": TEXT,
        "figures": by_name(_FIGURE, "Such as a loss"),
    }),
    "JobEvents": answer({
        "events": array(by_name({}, "An object with one key: progress, note, result or error")),
        "next": COUNT, "over": described(FLAG, "There is nothing more to come"), "job": ref("Job"),
    }),
    "JobsSeen": answer({
        "latest": described(array(ref("Job")), "The newest first"),
        "open": _COUNTS, "ended": described(_COUNTS, "Since the supervisor was started"),
        "seconds": by_name(NUMBER, "What those took, by kind"),
    }),
    "StartJob": question(
        {"kind": {"type": "string", "minLength": 1, "maxLength": 64}}, arguments=by_name({}),
        background=or_null(FLAG, "It gives way to everybody else on the processors; null: as suits the machine"),
        gpus=or_null({"type": "array", "maxItems": 64, "items": {"type": "integer", "minimum": 0, "maximum": 4095}},
                     "null: one that nobody uses; none: no GPU"),
        share_gpus=described(FLAG, "Also GPUs that serve, where they are named"),
    ),
}  # fmt: skip
