"""What the balancer needs to know of a request's body, read with as little work as will do. Pure."""

from __future__ import annotations

import functools
import json
import re
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from lb.protocol.facts import MOST_NAME, NOTHING, Facts, Names, Span, model_name, refused
from lb.protocol.fields import lax
from lb.protocol.fields.caps import NO_CAPS, Caps
from lb.protocol.fields.form_scan import FormScan
from lb.protocol.fields.json_scan import JsonScan

#: Bytes of a body that is read at once, in about a millisecond; a larger one a little at a time, as it comes.
AT_ONCE = 16 * 1024

#: A request is parsed, to be continued elsewhere, where that takes no more than a few milliseconds: up to so many bytes
#: and values.
_MOST_PARSED, _MOST_VALUES = 1024 * 1024, 30_000

#: A letter or an underscore as an escape: a key may be written like that.
_ESCAPED = re.compile(rb"\\u00[4-7]")

# In valid JSON there is nothing but punctuation between the end of one string and the beginning of the next. So
# `"model"` followed by a colon, with no backslash before it, is a key, at whatever depth. It is one of the outermost
# object if nothing stands before it but the opening brace, or if from there to the closing brace no object or array is
# left open. Nothing that has matched is given back, so that what does not match takes no longer than what does.
_INSIDE = rb'[^{}\[\]"\\]*+(?:"[^"\\]*+"[^{}\[\]"\\]*+)*+'
_FLAT = rb'(?:"[^"\\]*+"|[-+.\w]++|\{' + _INSIDE + rb"\}|\[" + _INSIDE + rb"\])"
_TO_THE_END = rb'\s*+(?:,\s*+"[^"\\]*+"\s*+:\s*+' + _FLAT + rb"\s*+)*+\}\s*+\Z"
_NEAR = 64  # bytes, most of them blanks, that may stand before a key that is the first
_VALUE = rb'"([^"\\\x00-\x1f]{1,%d}+)"' % MOST_NAME  # a longer one is none, which parsing tells
_AT_START = re.compile(rb'\s*+\{\s*+"model"\s*+:\s*+' + _VALUE + rb"\s*+[,}]")
_AT_END = re.compile(rb'(?<!\\)"model"\s*+:\s*+' + _VALUE + _TO_THE_END)
_STREAM_AT_END = re.compile(rb'(?<!\\)"stream"\s*+:\s*+(true|false|null)' + _TO_THE_END)
_USER_AT_END = re.compile(rb'(?<!\\)"user"\s*+:\s*+' + _VALUE + _TO_THE_END)


def says_model_is_missing(answer: bytes, model: str) -> bool:
    """Whether a worker's 404 is about the model, and not about the route or something else the request named."""
    try:
        error = json.loads(answer)["error"]
        return error.get("param") == "model" or f"The model `{model}` does not exist" in str(error.get("message"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def is_aborted(answer: bytes) -> bool:
    """Whether a worker gave a generation up, which it answers with 200."""
    try:
        return any(choice.get("finish_reason") == "abort" for choice in json.loads(answer)["choices"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


class Scan(Protocol):
    """Reads a body piece by piece; both methods raise ProxyError for one that is refused. ``names``: what it has named
    so far; ``silent``: that is all."""

    names: Names

    @property
    def silent(self) -> bool: ...

    def feed(self, piece: bytes) -> None: ...
    def facts(self) -> Facts: ...


def scan(content_type: str, caps: Caps = NO_CAPS) -> Scan:
    """For a body that says to be of that type; what is beyond ``caps`` is refused. Everything but a form is read as
    JSON: what is none says nothing, and some servers take it for JSON whatever it says to be. Raises ProxyError (400).
    """
    return FormScan(content_type, caps) if is_form(content_type) else JsonScan(caps)


def is_form(content_type: str) -> bool:
    return content_type.lstrip().lower().startswith("multipart/form-data")


def facts(body: bytes, content_type: str, *, previous: bool = True, caps: Caps = NO_CAPS) -> Facts:
    """Of a whole body, of up to `AT_ONCE` bytes if others wait. With ``previous`` false nobody asks for that field.
    Raises ProxyError (400, 404)."""
    if not body:
        return NOTHING
    if content_type == "application/json" or not is_form(content_type):
        once = _is_plain(body) and body.count(b'"model"') < 2 and (caps is NO_CAPS or not caps.suspects(body))
        quick = _quick(body) if once and not (previous and b'"previous_response_id"' in body) else None
        if quick is not None:
            return quick
        if once:
            return _parsed(body)
    reader = scan(content_type, caps)
    reader.feed(body)
    return reader.facts()


def names(body: bytes, content_type: str) -> Names:
    """Where a body names a model. Raises ProxyError (400, 404)."""
    once = not is_form(content_type) and body.count(b'"model"') == 1 and _is_plain(body)
    if once and (match := _named(body)) is not None and match[1].isascii():
        return Names(match[1].decode(), [(match.start(1) - 1, match.end(1) + 1)])
    reader = scan(content_type)
    reader.feed(body)
    return reader.names


def with_model_at_once(body: bytes, facts: Facts, model: str) -> bytes | None:
    """A whole body, with ``model`` where its ``facts``, which `facts` has told without looking for names, say that it
    is another one's. None where `names` has to look."""
    at = facts.at or _where(body, facts.model or "")
    return None if at is None else b"%b%b%b" % (body[: at[0]], _as_json(model), body[at[1] :])


def _where(body: bytes, named: str) -> Span | None:
    """Where a body with one ``"model"`` at most, and no key in escapes, says that: that one is the key."""
    key, written = body.find(b'"model"') + 7, _as_json(named)
    at = body.find(b'"%b"' % written, key)
    return None if at < 0 or body[key:at].strip(b" \t\r\n") != b":" else (at + 1, at + 1 + len(written))


@functools.lru_cache(maxsize=256)
def _as_json(text: str) -> bytes:
    """What is written between the quotation marks."""
    return json.dumps(text)[1:-1].encode()


def with_model(pieces: Iterable[bytes], names: Names, model: str, *, form: bool) -> list[bytes]:
    """The same body, in pieces as well, with ``model`` for each of ``names``. Raises ProxyError (400) if it is not in
    UTF-8."""
    if not names.movable:
        raise refused("JSON is text in UTF-8")
    value = model.encode() if form else json.dumps(model).encode()
    if isinstance(pieces, list) and len(pieces) == len(names.spans) == 1:
        (start, end), (piece,) = names.spans[0], pieces
        return [piece[:start] + value + piece[end:]]
    left, out, begin = deque(names.spans), [], 0
    for piece in pieces:
        at, end = begin, begin + len(piece)
        while left and left[0][0] < end:
            start, stop = left[0]
            if start >= at:
                out += [piece[at - begin : start - begin], value]
            at = min(stop, end)
            if stop > end:
                break
            left.popleft()
        out.append(piece[at - begin :])
        begin = end
    return [piece for piece in out if piece]


def user_at_end(body: bytes) -> str | None:
    """The ``user`` that a JSON body of up to `AT_ONCE` bytes names, if it is found without reading what is before it;
    None where only parsing will tell."""
    at = body.rfind(b'"user"')
    if at < 0 or len(body) > AT_ONCE or (match := _USER_AT_END.match(body, at)) is None or not _is_plain(body):
        return None
    return match[1].decode() if match[1].isascii() else None


def is_light(body: bytes) -> bool:
    """Whether to parse all of it takes no longer than others can wait."""
    if len(body) <= AT_ONCE:
        return True
    return len(body) <= _MOST_PARSED and sum(map(body.count, (b",", b"[", b"{"))) <= _MOST_VALUES


def _quick(body: bytes) -> Facts | None:
    """Without parsing, of a body with one ``"model"`` and no key in escapes; None where only that will tell: a name
    deep inside, or a stream before it. Of a stream that comes twice the last one counts."""
    if (match := _named(body)) is None:
        return None
    stream = body.rfind(b'"stream"')
    streamed = None
    if stream >= 0:
        streamed = _STREAM_AT_END.match(body, stream)
        if streamed is None:
            return None
    try:
        return Facts(match[1].decode(), streamed is not None and streamed[1] == b"true", at=match.span(1))
    except UnicodeDecodeError:
        return None


def _named(body: bytes) -> re.Match[bytes] | None:
    """The one ``"model"`` of a body, if it is found without reading all that is around it."""
    at = body.find(b'"model"')
    return (_AT_START.match(body) if at < _NEAR else None) or _AT_END.match(body, at)


def _parsed(body: bytes) -> Facts:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return NOTHING
    if not isinstance(data, dict):
        return NOTHING
    model, previous = data.get("model"), data.get("previous_response_id")
    return Facts(
        model=model_name(model) if isinstance(model, str) else None,
        stream=lax.is_true(data.get("stream")),
        previous=previous[: MOST_NAME + 1] if isinstance(previous, str) else None,
    )


def _is_plain(body: bytes) -> bool:
    """Not with a NUL: that is UTF-16, where a name is not to be found by its bytes."""
    return b"\0" not in body and not _has_escaped_letters(body)


def _has_escaped_letters(body: bytes) -> bool:
    """A look for one byte costs next to nothing, one for several does."""
    return b"\\" in body and b"\\u00" in body and _ESCAPED.search(body) is not None
