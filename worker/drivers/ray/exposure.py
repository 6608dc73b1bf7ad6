"""Whether a Ray may be used: who reaches its port may run programs on all nodes, unless it asks for a token. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from config.values.addresses import is_loopback

#: Told by the supervisor: it may be used all the same.
ALLOWED = "CLUSTERCTL_RAY_INSECURE"


class Exposed(Exception):
    """It must not."""


def check(address: str, environment: Mapping[str, str]) -> None:
    """``address``: of Ray's head, host:port. Raises Exposed, with what helps."""
    host = address.rpartition(":")[0]
    if is_loopback(host) or environment.get("RAY_AUTH_MODE", "").lower() == "token":
        return
    if environment.get(ALLOWED) != "1":
        raise Exposed(
            f"the Ray at {address} asks nobody for a token, and whoever reaches it may run programs on its nodes: "
            "start it, and this, with RAY_AUTH_MODE=token (docs/scale-out.md), or say --ray-insecure"
        )
