"""How a balancer has a worker make the same answer again, tokens first: between the two alone, and never a client's.

A worker with the capability ``replay`` understands two additions to a request that makes text:

- With the head `TELL` (value ``1``) and a streamed answer it writes, before each event, what has been made since the
  event before, as comment lines of the event stream (``: tokens CHOICE ID,ID,…``), whatever its API is. It
  says that it does so by the same head in its answer.
- A body of the type `CONTENT_TYPE` is one line of JSON, a list with a list of token ids for each choice, and then the
  client's own body. These tokens are made first, each choice's own, whatever would have been sampled: grammar,
  penalties, parsers and random generator go on as if it had been. After them all is free. What is no token of the
  model's, or are too many, is answered 400.

A worker takes neither from a body's fields: it leaves out what a client puts where it keeps its own note of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

TELL = "x-clusterctl-tokens"
CONTENT_TYPE = "application/x-clusterctl-replay"

_COMMENT = re.compile(rb"^: tokens ([0-9]+) ([0-9]+(?:,[0-9]+)*)\r?\n", re.MULTILINE)
_TOLD = re.compile(rb"([0-9]+) ([0-9]+(?:,[0-9]+)*+)\r?(?:\n|\Z)")


def comment(choice: int, tokens: Sequence[int]) -> bytes:
    """The line that tells of them; there is at least one."""
    return b": tokens %d %s\n" % (choice, b",".join(b"%d" % token for token in tokens))


def take_comments(data: bytes) -> tuple[bytes, list[tuple[int, bytes]]]:
    """``data``, whole events, without these lines, and what they tell: choices with the ids, digits with commas."""
    told = [(int(choice), ids) for choice, ids in _COMMENT.findall(data)]
    return (_COMMENT.sub(b"", data), told) if told else (data, told)


def told(data: bytes) -> list[tuple[int, bytes]]:
    """What `take_comments` finds in ``data``, whole lines, in less time."""
    # A look for a literal is much faster than one for a line's beginning.
    found = map(_TOLD.match, (b"\n" + data).split(b"\n: tokens ")[1:])
    return [(int(each[1]), each[2]) for each in found if each is not None]


def body(tokens: Sequence[Sequence[int]], sent: bytes) -> bytes:
    """What asks for ``sent`` once more, with ``tokens`` (of each choice) first."""
    return json.dumps([list(some) for some in tokens], separators=(",", ":")).encode() + b"\n" + sent


def read(envelope: bytes) -> tuple[list[list[int]], bytes]:
    """The tokens of each choice, and the client's body. Raises ValueError for what is no such body."""
    line, found, sent = envelope.partition(b"\n")
    tokens = json.loads(line) if found else None
    if not isinstance(tokens, list) or not all(
        isinstance(some, list) and all(type(token) is int and token >= 0 for token in some) for some in tokens
    ):
        raise ValueError("no lists of token ids before the body")
    return tokens, sent
