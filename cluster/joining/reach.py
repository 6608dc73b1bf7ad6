"""Which workers a balancer on another machine can connect to. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from config.values.addresses import is_loopback


def is_here(address: str, boot: str, own_boot: str) -> bool:
    """Whether who connects from ``address`` reaches the loopback of this machine, as who comes by a tunnel does not."""
    return is_loopback(address) and boot == own_boot


def reachable(backends: Mapping[str, Any]) -> dict[str, Any]:
    """A backend set, as `BackendSet.to_json` makes it, without those that listen on loopback: a balancer on another
    machine would send their requests, and their keys, to whatever listens there."""
    there = [each for each in backends["backends"] if not is_loopback(each.get("ip") or each["host"])]
    return {**backends, "backends": there}


def reachable_change(change: Mapping[str, Any]) -> dict[str, Any]:
    """A change of one (`cluster.balancers.set_changes`), the same: what has come to listen on loopback is gone."""
    told = reachable(change["set"])
    there = {each["id"] for each in told["backends"]}
    hidden = [each["id"] for each in change["set"]["backends"] if each["id"] not in there]
    return {**change, "set": told, "gone": [*change["gone"], *hidden]}
