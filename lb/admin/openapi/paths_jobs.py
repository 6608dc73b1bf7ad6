"""Jobs."""

from __future__ import annotations

from collections.abc import Mapping

from lb.admin.openapi.parts import CHANGE, Json, in_path, in_query, json_answer, json_body, linked, operation, ref

_NAME = in_path("name", "Id of a job", "train-3")
_NEXT = dict.fromkeys(("job", "job_events", "cancel_job"), "$response.body#/id")

PATHS: Mapping[str, Json] = {
    "/v1/cluster/jobs": {
        "get": operation(
            "jobs", "jobs", "Every job that is remembered",
            {200: json_answer("The newest first", ref("Jobs"))}, errors=(503,),
        ),
        "post": operation(
            "start_job", "jobs", "Have something done",
            {202: linked(json_answer("It runs, or waits for others", ref("Job")), **_NEXT)}, errors=(404, 409, *CHANGE),
            body=json_body(ref("StartJob"), {
                "On GPUs that do not serve": {"kind": "train", "arguments": {"name": "sql", "data": "/data/sql.jsonl"}},
                "On no GPU, before others": {"kind": "merge", "arguments": {}, "gpus": [], "background": False},
            }),
            words="For the cluster's owner: it names paths of its machine. Commands such as `clusterctl lora train` "
            "ask for it; what `arguments` a kind takes is theirs to know.",
        ),
    },
    "/v1/cluster/jobs/{name}": {
        "get": operation(
            "job", "jobs", "One job, and what came of it",
            {200: json_answer("As it is now", ref("JobDetails"))}, errors=(404, 503), parameters=(_NAME,),
        ),
        "delete": operation(
            "cancel_job", "jobs", "Ask a job to end",
            {202: json_answer("It ends, or has without having begun", ref("Job"))}, errors=(404, 409, *CHANGE),
            parameters=(_NAME,), words="It has some seconds to clear up.",
        ),
    },
    "/v1/cluster/jobs/{name}/events": {"get": operation(
        "job_events", "jobs", "What a job says",
        {200: json_answer("From there on", ref("JobEvents"))}, errors=(400, 404, 503),
        parameters=(_NAME, in_query(
            "since", {"type": "integer", "minimum": 0, "maximum": 10**15 - 1, "default": 0}, "An earlier `next`",
        )),
        words="Ask again with `next` until `over`. What it wrote besides is in `/v1/cluster/instances/{name}/logs`.",
    )},
}  # fmt: skip
