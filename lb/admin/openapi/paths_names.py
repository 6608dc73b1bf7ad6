"""Routes and aliases."""

from __future__ import annotations

from collections.abc import Mapping

from lb.admin.openapi.parts import CHANGE, Json, in_path, json_answer, json_body, linked, operation, question, ref

_NAME = in_path("name", "What clients ask for", "medical")
_NEW = {**_NAME, "schema": {"type": "string", "pattern": r"^(?!\.+$)[A-Za-z0-9._-]{1,128}$"}}
_ALIAS = {"sides": {"medical@3": 90, "medical@4": 10}, "shadow": False}
_ROUTE = {"rules": [{"model": "expert-a", "keywords": ["账单", "bill"]}], "default": "base"}


def _paths(kind: str, one: str, body: Json, examples: Mapping[str, Json], words: str) -> dict[str, Json]:
    path = f"/v1/cluster/{kind}"
    changed = json_answer("In force", ref("NameChanged"))
    return {
        path: {"get": operation(
            kind, "names", f"Every {one}", {200: json_answer("By name", ref(kind.capitalize()))}, errors=(503,),
        )},
        f"{path}/{{name}}": {
            "put": operation(
                f"set_{one}", "names", f"What an {one} stands for" if one == "alias" else f"What a {one} chooses by",
                {200: linked(changed, **dict.fromkeys((f"delete_{one}", f"undo_{one}"), "$response.body#/name"))},
                errors=(404, *CHANGE), parameters=(_NEW,), body=json_body(body, examples), words=words,
            ),
            "delete": operation(
                f"delete_{one}", "names", f"No such {one} any more", {200: changed}, errors=(404, *CHANGE),
                parameters=(_NAME,),
            ),
        },
        f"{path}/{{name}}/undo": {"post": operation(
            f"undo_{one}", "names", "As before its last change", {200: changed}, errors=(404, *CHANGE),
            parameters=(_NAME,), body=json_body(question(), {"Undo": {}}),
        )},
    }  # fmt: skip


PATHS: Mapping[str, Json] = {
    **_paths(
        "aliases", "alias", ref("Alias"), {"A canary": _ALIAS, "Copies for another": {**_ALIAS, "shadow": True}},
        "Weights by model; `NAME@N` is a version of an adapter. The same user, conversation or key gets the same one. "
        "With `shadow` the first that is not chosen gets a copy, whose answer is dropped and measured.",
    ),
    "/v1/cluster/routes/{name}/test": {"post": operation(
        "test_route", "names", "What a route would choose",
        {200: json_answer("No model was asked", ref("RouteChoice"))}, errors=(404,),
        parameters=(in_path("name", "A route", "finance"),),
        body=json_body(ref("RouteTest"), {"A message": {"text": "我的账单"}}),
        words="For a last user message. `auto` is the only route there is.",
    )},
    **_paths(
        "routes", "route", ref("Route"), {"By keywords": _ROUTE},
        "The first rule that fits the last user message decides: one of its `keywords` is in it, or its `pattern` "
        "(as Rust's regex takes them) matches.",
    ),
}
