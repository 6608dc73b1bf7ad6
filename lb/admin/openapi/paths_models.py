"""Base models."""

from __future__ import annotations

from collections.abc import Mapping

from lb.admin.openapi.parts import CHANGE, Json, in_path, json_answer, json_body, operation, ref

_NAME = in_path("name", "Name of a model", "demo")
_ERRORS = (404, 409, *CHANGE)


def _act(act: str, title: str, answers: Mapping[int, str], words: str = "") -> Json:
    return {"post": operation(
        f"{act}_model", "models", title,
        {status: json_answer(said, ref("ModelChanged")) for status, said in answers.items()},
        errors=_ERRORS, parameters=(_NAME,), body=json_body(ref("Nothing"), {"No more to say": {}}), words=words,
    )}  # fmt: skip


PATHS: Mapping[str, Json] = {
    "/v1/cluster/models": {"get": operation(
        "cluster_models", "models", "Every base model: what it is doing, and what is asked of it",
        {200: json_answer("By name", ref("ClusterModels"))}, errors=(503,),
    )},
    "/v1/models/load": {"post": operation(
        "load_model", "models", "Another base model",
        {200: json_answer("It was there as it is", ref("ModelChanged")),
         202: json_answer("It is being started", ref("ModelChanged"))},
        errors=(409, *CHANGE),
        body=json_body(ref("LoadModel"), {
            "One worker": {"model_name": "small", "model_path": "/models/small"},
            "Two, never unloaded": {"model_name": "big", "model_path": "/models/big", "instances": 2, "pinned": True},
        }),
        words="For the cluster's owner: it names paths of its machine. It is there again after a restart.",
    )},
    "/v1/models/{name}": {
        "get": operation(
            "model", "system", "One of the models",
            {200: json_answer("Its card", ref("ModelCard"))}, errors=(401, 404), parameters=(_NAME,), public=True,
        ),
        "delete": operation(
            "unload_model", "models", "Drain its workers, and forget it",
            {202: json_answer("It goes", ref("ModelUnloaded"))}, errors=_ERRORS, parameters=(_NAME,),
        ),
    },
    "/v1/models/{name}/pin": _act("pin", "Never unload it to make room", {200: "It is pinned"}),
    "/v1/models/{name}/unpin": _act("unpin", "It may be unloaded to make room", {200: "It is not"}),
    "/v1/models/{name}/sleep": _act(
        "sleep", "Put it to sleep, or take its workers away where the engine cannot sleep", {202: "It goes"},
        "The next request for it brings it back.",
    ),
    "/v1/models/{name}/wake": _act("wake", "Bring it up", {200: "It is up", 202: "It is being brought up"}),
}  # fmt: skip
