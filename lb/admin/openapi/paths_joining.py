"""Balancers on other machines."""

from __future__ import annotations

from collections.abc import Mapping

from lb.admin.openapi.parts import CHANGE, Json, in_path, json_answer, json_body, operation, ref

PATHS: Mapping[str, Json] = {
    "/v1/cluster/balancers": {"get": operation(
        "joined_balancers", "cluster", "The machines that have joined, and the tokens that let more in",
        {200: json_answer("Connected or not", ref("JoinedBalancers"))}, errors=(503,),
    )},
    "/v1/cluster/balancers/{name}": {"delete": operation(
        "evict_balancer", "cluster", "Take a machine out: its balancers end",
        {200: json_answer("It is told nothing more", ref("Evicted"))}, errors=(404, *CHANGE),
        parameters=(in_path("name", "Name of the machine", "lb-2"),),
    )},
    "/v1/cluster/join_tokens": {"post": operation(
        "create_join_token", "cluster", "Make a token by which machines join",
        {201: json_answer("Shown this once", ref("NewJoinToken"))}, errors=(409, *CHANGE),
        body=json_body(ref("InviteBalancers"), {"For a day": {"ttl": "1d"}}),
        words="For the cluster's owner: whoever joins is told the keys of all workers.",
    )},
    "/v1/cluster/join_tokens/{name}": {"delete": operation(
        "revoke_join_token", "cluster", "Let nobody join by a token any more",
        {200: json_answer("Machines that have joined stay", ref("JoinTokenRevoked"))}, errors=(404, *CHANGE),
        parameters=(in_path("name", "Id of the token", "0a1b2c3d"),),
    )},
}  # fmt: skip
