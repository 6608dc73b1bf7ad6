"""Whether a running stream makes room for adapters that wait for a slot on its worker, by going on elsewhere."""

from __future__ import annotations

from dataclasses import replace

from lb.forwarding.collaborators import Collaborators
from lb.forwarding.resume.transcript import StreamTranscript
from lb.forwarding.routed_request import RoutedRequest
from lb.routing.backend import Backend


def makes_room(parts: Collaborators, routed: RoutedRequest, backend: Backend, now: float) -> bool:
    """Of the stream of ``routed``, which is made by ``backend``: only one that goes on from its tokens, which another
    worker reads as a prompt; one that is made again takes as long as the answer. ``now``: s, monotonic."""
    transcript, info = routed.transcript, routed.info
    if not parts.settings.move_streams or info.features.adapter is None or not isinstance(transcript, StreamTranscript):
        return False
    if not transcript.made_here or transcript.finished or transcript.moves + 1 >= parts.settings.migration_limit:
        return False  # the last of its moves is for a failure
    if not (waiting := backend.waiting_for_slots()):
        return False
    others = [
        other for other in parts.pool.candidates(info.model, {backend.id}, now, routed.root)
        if other.spec.capabilities.token_ids and other.spec.capabilities.detokenize
    ]  # fmt: skip
    again = replace(info.features, tokens=info.features.tokens + transcript.count())
    return parts.router.worth_moving(backend, others, info.model, again, waiting) and not transcript.hindrance()
