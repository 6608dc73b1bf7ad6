"""What of a backend set is new, for who knows the one before it: of a thousand workers one changes at a time. Pure.

A change says of ``set`` all but the backends that are as they were in the set ``base``, and which are ``gone`` since
(`config.link`). Sets are in the form of `config.topology.BackendSet.to_json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def change(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The message that makes ``after`` of ``before``."""
    known = {each["id"]: each for each in before["backends"]}
    new = [each for each in after["backends"] if known.pop(each["id"], None) != each]
    gone = list(known)
    return {"type": "change", "base": version(before), "gone": gone, "set": {**after, "backends": new}}


def changed(before: Mapping[str, Any] | None, told: Mapping[str, Any]) -> dict[str, Any]:
    """The set after the message ``told``; backends that are new come last. Raises ValueError where it is the change of
    another set than ``before``."""
    if before is None or told["base"] != version(before):
        known = "none" if before is None else version(before)
        raise ValueError(f"a change of the backend set {told['base']}, and {known} is known")
    backends = {each["id"]: each for each in before["backends"]}
    backends |= {each["id"]: each for each in told["set"]["backends"]}
    for name in told["gone"]:
        backends.pop(name, None)
    return {**told["set"], "backends": list(backends.values())}


def version(backends: Mapping[str, Any]) -> list[int]:
    """Epoch and revision."""
    return [backends["epoch"], backends["revision"]]
