"""Whether a request says that it is in no hurry: ``Priority: u=7``, which RFC 9218 (4.1) keeps for background tasks.
Pure."""

from __future__ import annotations

import re

from config.identity.api_keys import Priority
from lb.protocol.http1.request import PRIORITY, RequestHead

#: The member ``u`` of a dictionary (RFC 8941), with or without parameters.
_BACKGROUND = re.compile(rb"(?:^|,)[ \t]*u=7[ \t]*(?:[;,]|$)")


def of(head: RequestHead, priority: Priority) -> Priority:
    """The class it waits in, where its key's is ``priority``. Nobody is raised: browsers send ``u=0`` by themselves."""
    given = head.ours.get(PRIORITY)
    return Priority.LOW if given is not None and _BACKGROUND.search(given) else priority
