"""What of the Responses API concerns a balancer. Pure.

vLLM keeps a response in the memory of one worker, if it keeps it at all (``store`` is ignored unless the worker was
started with VLLM_ENABLE_RESPONSES_API_STORE).
"""

from __future__ import annotations

import json

from lb.protocol.fields import lax

#: Tools that the client runs itself. All others are run by the worker, and may do something out there.
_CLIENTS = frozenset({"function", "custom"})


#: Without any of them nothing has to be parsed.
_HINDRANCES = (b'"background"', b'"previous_response_id"', b'"tools"', b"\\u00")


def may_be_repeated(body: bytes, light: bool = True) -> bool:
    """Whether a request for a response that nobody has answered can be made again on another worker, and nothing but
    time is lost. ``store`` alone is no hindrance: nobody was told the id of the one before. One in the background may
    go on where it was; one that goes on from another response has to stay where that is. ``light``: it may be parsed;
    without, what cannot be told is not made again."""
    if not any(key in body for key in _HINDRANCES):
        return True
    if not light:
        return False
    try:
        requested = json.loads(body)
        tools = [tool["type"] for tool in requested.get("tools") or ()]
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return False
    bound = lax.is_true(requested.get("background")) or requested.get("previous_response_id")
    return not bound and _CLIENTS.issuperset(tools)
