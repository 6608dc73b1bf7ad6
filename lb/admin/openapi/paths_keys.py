"""API keys."""

from __future__ import annotations

from collections.abc import Mapping

from lb.admin.openapi.parts import CHANGE, Json, in_path, json_answer, json_body, linked, operation, ref

_NAME = in_path("name", "Name of a key", "team-a")
_NEXT = dict.fromkeys(("key", "update_key", "rotate_key", "revoke_key"), "$response.body#/name")
_WIDER = "No key makes or changes one that may more than itself (403)."

PATHS: Mapping[str, Json] = {
    "/v1/cluster/keys": {
        "get": operation(
            "keys", "keys", "Every key, without its secret",
            {200: json_answer("By name", ref("Keys"))}, errors=(503,),
        ),
        "post": operation(
            "create_key", "keys", "Make a key",
            {201: linked(json_answer("It holds", ref("KeyWithSecret")), **_NEXT)}, errors=(409, *CHANGE),
            body=json_body(ref("CreateKey"), {
                "For a team": {"name": "team-a", "models": ["pirate"], "rpm": 600, "expires": "90d"},
                "To look": {"name": "dashboard", "scope": "read"},
            }),
            words=f"Its secret is in this answer only. {_WIDER}",
        ),
    },
    "/v1/cluster/keys/{name}": {
        "get": operation(
            "key", "keys", "One key, without its secret",
            {200: json_answer("As it holds", ref("Key"))}, errors=(404, 503), parameters=(_NAME,),
        ),
        "patch": operation(
            "update_key", "keys", "Other limits for a key",
            {200: json_answer("In force", ref("Key"))}, errors=(404, 409, *CHANGE), parameters=(_NAME,),
            body=json_body(ref("UpdateKey"), {"Fewer requests": {"rpm": 60}, "Any model": {"models": None}}),
            words=f"What is not named stays; null takes a limit away. {_WIDER}",
        ),
        "delete": operation(
            "revoke_key", "keys", "Let a key in no more",
            {200: json_answer("Nobody gets in with it", ref("KeyRevoked"), {"name": "team-a", "revoked": True})},
            errors=(404, 409, *CHANGE), parameters=(_NAME,),
        ),
    },
    "/v1/cluster/keys/{name}/rotate": {"post": operation(
        "rotate_key", "keys", "A new secret for a key",
        {200: json_answer("It holds, and those before for a while", ref("KeyWithSecret"))},
        errors=(404, 409, *CHANGE), parameters=(_NAME,),
        body=json_body(ref("RotateKey"), {"Both for an hour": {"grace": "1h"}, "The old one at once": {"grace": 0}}),
    )},
}  # fmt: skip
