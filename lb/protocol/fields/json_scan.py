"""The outermost members of a JSON object, read while its text comes in and without building anything of it. Pure.

A value inside is passed over by one regular expression that neither backtracks nor recurses without bound: the time
goes with the bytes, and nothing is kept but the few values that are asked for. Of what `json.loads` accepts it sees
what `json.loads` sees; of anything else it says nothing, or something, as the worker refuses that anyway.

Longer than a file should be: it is one grammar, a method a step.
"""

from __future__ import annotations

import codecs
import functools
import json
import re

from lb.protocol.facts import MOST_NAME, NOTHING, Facts, Names, refused
from lb.protocol.fields import caps as capped
from lb.protocol.fields import lax
from lb.protocol.fields.caps import NO_CAPS, Caps

#: Outermost members. No API has a tenth of it.
MOST_MEMBERS = 10_000

#: Arrays and objects that are deeper in the body than `_AT_ONCE`: each of them costs a microsecond.
_MOST_STEPS = 500_000

#: Bytes of a key, and of a value that is asked for: 256 characters, each of them written as two escapes of six bytes.
_MOST_KEY, _MOST_VALUE = 256, 256 * 12 + 2

#: Bytes of fields for a template that come in pieces.
_MOST_FIELDS = 64 * 1024

_ASKED_FOR = frozenset({"model", "stream", "previous_response_id", *capped.FIELDS})

#: Arrays and objects inside each other that `_INSIDE` passes over in one go; of deeper ones each is a step.
_AT_ONCE = 8

_STRING = rb'"(?:[^"\\]++|\\.)*+"'


def _nested(levels: int) -> bytes:
    plain = rb'[^"\[\]{}]++|' + _STRING
    return rb"(?:" + plain + (rb"|[\[{]" + _nested(levels - 1) + rb"[\]}]" if levels else b"") + rb")*+"


@functools.cache
def _inside(levels: int) -> re.Pattern[bytes]:
    """So many arrays and objects inside each other, and all that stands beside them."""
    return re.compile(_nested(levels), re.DOTALL)


_WHOLE_STRING = re.compile(_STRING, re.DOTALL)
_STRING_GOES_ON = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_SCALAR = re.compile(rb"[-+.\w]*+")
_BLANKS = re.compile(rb"[ \t\n\r]*+")
#: Of an array, up to the comma behind an item.
_ITEM = re.compile(
    rb'(?:[^"\[\]{},]++|' + _STRING + rb"|[\[{]" + _nested(_AT_ONCE) + rb"[\]}])*+", re.DOTALL
)
_VALUE = rb"(?:" + _STRING + rb"|[-+.\w]++|[\[{]" + _nested(_AT_ONCE) + rb"[\]}])"
#: A whole member, and what follows it.
_MEMBER = re.compile(rb"[ \t\n\r]*+(%b)[ \t\n\r]*+:[ \t\n\r]*+(%b)[ \t\n\r]*+([,}])" % (_STRING, _VALUE), re.DOTALL)
#: Up to `_SKIP` members that nobody asks for.
_SKIP = 16
_SKIPPED = re.compile(
    rb'(?:[ \t\n\r]*+"(?!(?:%b)")[^"\\]*+"[ \t\n\r]*+:[ \t\n\r]*+%b[ \t\n\r]*+,){1,%d}+'
    % ("|".join(_ASKED_FOR).encode(), _VALUE, _SKIP),
    re.DOTALL,
)


class JsonScan:
    """`feed` it a body, then ask for its `facts`; what names a model is in ``names`` as soon as it is read. What is
    beyond ``caps`` is refused. More methods than a class should have: each step of the grammar is one."""

    __slots__ = (
        "_caps", "_decode", "_depth", "_items", "_key", "_members", "_offset", "_previous", "_rest", "_step", "_steps",
        "_stream", "_then", "_written", "names",
    )  # fmt: skip

    def __init__(self, caps: Caps = NO_CAPS) -> None:
        self._caps, self.names = caps, Names()
        self._written: bytes | None = None  # so far, of fields for a template that came in pieces
        self._items: int | None = None  # so far, of the array that is being read, where they are counted
        self._stream = False
        self._previous: str | None = None
        self._decode: codecs.IncrementalDecoder | None = None
        self._step = self._then = JsonScan._open  # _then: what follows the string that is being read
        self._rest = b""  # of what was fed, not read yet
        self._offset = -1  # where that stands in the body; -1: not enough is there to tell the encoding
        self._members = self._depth = self._steps = 0
        self._key: str | None = None

    def feed(self, piece: bytes) -> None:
        """The next bytes; no more at once than others can wait for: some 30 MB are read in a second. Raises ProxyError
        (400, 404) for what no request has: two models, a name too long, too many members, too deep; more than it may
        ask for."""
        data = self._rest + piece if self._rest else piece
        if self._offset < 0:
            if len(data) < 4:
                self._rest = data
                return
            data = self._begin(data)
        elif self._decode is not None:
            data = self._rest + self._decoded(piece)
        at, size = 0, len(data)
        while at < size and (after := self._step(self, data, at)) >= 0:
            if self._written is not None:
                self._write(data[at:after])
            at = after
        self._rest = data[at:]
        self._offset += at

    @property
    def silent(self) -> bool:
        """It is no JSON object, and names nothing more."""
        return self._step is JsonScan._pass_over

    def facts(self) -> Facts:
        """What the whole of it says; nothing, if it is no JSON object."""
        if self._step is not JsonScan._end:
            return NOTHING
        return Facts(self.names.name, self._stream, self._previous, self.names)

    def _begin(self, data: bytes) -> bytes:
        encoding, self._offset = json.detect_encoding(data[:4]), 0
        if encoding == "utf-8-sig":
            self._offset = 3
            return data[3:]
        if encoding != "utf-8":
            self._decode, self.names.movable = codecs.getincrementaldecoder(encoding)("surrogatepass"), False
            return self._decoded(data)
        return data

    def _decoded(self, piece: bytes) -> bytes:
        assert self._decode is not None
        try:
            return self._decode.decode(piece).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            self._step = JsonScan._pass_over
            return b""

    # Each takes what it can of ``data`` from ``at`` on and says where it got to; -1 where it needs more than there is.

    def _open(self, data: bytes, at: int) -> int:
        at = _after_blanks(data, at)
        if at == len(data):
            return at
        self._step = JsonScan._member if data[at] == 0x7B else JsonScan._pass_over
        return at + 1

    def _member(self, data: bytes, at: int) -> int:
        skipped = _SKIPPED.match(data, at)
        if skipped is not None:
            self._count(_SKIP)
            return skipped.end()
        found = _MEMBER.match(data, at)
        if found is not None:
            key, value, after = found.groups()
            if (name := self._name(key)) is not None:
                self._found(name, value, found.start(2))
            self._step = JsonScan._member if after == b"," else JsonScan._end
            return found.end()
        at = _after_blanks(data, at)
        if at == len(data):
            return at
        if data[at] != 0x22:
            self._step = JsonScan._end if data[at] == 0x7D else JsonScan._pass_over
            return at + 1
        found = _WHOLE_STRING.match(data, at)
        if found is None and len(data) - at <= _MOST_KEY:
            return -1
        self._key = self._name(data[at:] if found is None else found[0])
        if found is None:
            self._step, self._then = JsonScan._string, JsonScan._colon
            return at + 1
        self._step = JsonScan._colon
        return found.end()

    def _colon(self, data: bytes, at: int) -> int:
        at = _after_blanks(data, at)
        if at == len(data):
            return at
        self._step = JsonScan._value if data[at] == 0x3A else JsonScan._pass_over
        return at + 1

    def _value(self, data: bytes, at: int) -> int:
        at = _after_blanks(data, at)
        if at == len(data):
            return at
        if data[at] in b"[{":
            self._depth, self._step = 1, JsonScan._inside
            after = at + 1
        elif data[at] == 0x22:
            whole = _WHOLE_STRING.match(data, at)
            after = len(data) if whole is None else whole.end()
            self._step = JsonScan._string if whole is None else JsonScan._comma
        else:
            after = _end_of(_SCALAR, data, at)
            self._step = JsonScan._scalar if after == len(data) else JsonScan._comma
            if after == at:
                self._step = JsonScan._pass_over
                return at + 1
        if self._key is not None:
            if self._key == capped.TEMPLATE_FIELDS and self._step is JsonScan._inside:
                self._written = b""
            elif self._step in (JsonScan._string, JsonScan._scalar) and after - at <= _MOST_VALUE:
                self._step = JsonScan._value
                return -1
            self._found(self._key, data[at:after], at)
        if self._step is JsonScan._string:
            self._then = JsonScan._comma
            return at + 1
        return after

    def _scalar(self, data: bytes, at: int) -> int:
        at = _end_of(_SCALAR, data, at)
        if at < len(data):
            self._step = JsonScan._comma
        return at

    def _string(self, data: bytes, at: int) -> int:
        """The rest of one whose beginning has gone."""
        end = _end_of(_STRING_GOES_ON, data, at)
        if end == len(data):
            return end
        if data[end] == 0x22:
            self._step = self._then
            return end + 1
        return end if end > at else -1  # a backslash, and what it escapes is still to come

    def _inside(self, data: bytes, at: int) -> int:
        """The rest of an array or object."""
        size, depth, most = len(data), self._depth, self._caps.depth
        if self._items == 0 and depth == 1:
            at = _after_blanks(data, at)
            if at == size:
                return at
            self._items = 1 if data[at] in b'"[' else None
        while (at := _end_of(self._passed_over(depth), data, at)) < size:
            byte = data[at]
            at += 1
            if byte == 0x2C:
                self._count_item()
                continue
            self._steps += 1
            if byte == 0x22:
                self._step, self._then = JsonScan._string, JsonScan._inside
                break
            depth += 1 if byte in b"[{" else -1
            if depth > most or self._steps > _MOST_STEPS:
                raise refused(f"its arrays and objects are more than {most} deep, or too many of them very deep")
            if not depth:
                self._step, self._items = JsonScan._comma, None
                break
        self._depth = depth
        return at

    def _passed_over(self, depth: int) -> re.Pattern[bytes]:
        """What is in one go, in an array or object that is so deep."""
        if self._items is not None and depth == 1:
            return _ITEM
        return _inside(min(_AT_ONCE, self._caps.depth - depth))

    def _count_item(self) -> None:
        assert self._items is not None and self._key is not None
        self._items += 1
        self._caps.check_prompts(self._key, self._items)

    def _comma(self, data: bytes, at: int) -> int:
        at = _after_blanks(data, at)
        if at == len(data):
            return at
        byte = data[at]
        self._step = JsonScan._member if byte == 0x2C else JsonScan._end if byte == 0x7D else JsonScan._pass_over
        return at + 1

    def _end(self, data: bytes, at: int) -> int:
        """Behind the object."""
        at = _after_blanks(data, at)
        if at < len(data):
            self._step = JsonScan._pass_over
        return at

    def _pass_over(self, data: bytes, at: int) -> int:
        """It is no JSON object."""
        return len(data)

    # what is found

    def _count(self, members: int) -> None:
        """At least one, and at most ``members``."""
        self._members += members
        if self._members > MOST_MEMBERS:
            raise refused("it has thousands of members")

    def _name(self, key: bytes) -> str | None:
        """Of one more member, whose key is written like this; None for one that nobody asks for."""
        self._count(1)
        if len(key) > _MOST_KEY:
            return None
        name = _read(key) if b"\\" in key else key[1:-1].decode(errors="replace")
        return name if isinstance(name, str) and name in _ASKED_FOR else None

    def _found(self, name: str, value: bytes, at: int) -> None:
        """``value``, as written or the beginning of it, stands at ``at`` in what is being read."""
        if name in capped.LISTS:
            if value[:1] == b"[" and self._caps is not NO_CAPS:
                self._list(name, value)
            return
        if name in (capped.TEMPLATE, capped.TEMPLATE_FIELDS):
            self._caps.check_template(name, value)
            return
        known = " " * _MOST_VALUE if len(value) > _MOST_VALUE else _read(value)
        if name in capped.NUMBERS:
            self._caps.check_number(name, known)
            return
        text = known if isinstance(known, str) and value[0] == 0x22 else None  # refused, if it was too long
        if name == "stream":
            self._stream = lax.is_true(known)
        elif name == "model":
            self.names.add(text, (self._offset + at, self._offset + at + len(value)))
        else:
            self._previous = None if text is None else text[: MOST_NAME + 1]


    def _write(self, piece: bytes) -> None:
        """More of fields for a template; all of them, where something else follows."""
        assert self._written is not None
        self._written += piece
        if len(self._written) > _MOST_FIELDS:
            raise refused(f"{capped.TEMPLATE_FIELDS} is too long", capped.TEMPLATE_FIELDS)
        if self._step is JsonScan._comma:
            written, self._written = self._written, None
            self._caps.check_template(capped.TEMPLATE_FIELDS, written)

    def _list(self, name: str, value: bytes) -> None:
        """Counts what is in it, or begins to where it is not whole."""
        if len(value) == 1:
            self._items = 0
            return
        at = _after_blanks(value, 1)
        if value[at] not in b'"[':
            return
        self._key, self._items = name, 1
        while value[at := _end_of(_ITEM, value, at)] == 0x2C:
            self._count_item()
            at += 1
        self._items = None


def _end_of(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    """Where a match of ``pattern``, which may be empty, ends."""
    return pattern.match(data, at).end()  # type: ignore[union-attr]


def _after_blanks(data: bytes, at: int) -> int:
    return _BLANKS.match(data, at).end()  # type: ignore[union-attr]


def _read(written: bytes) -> object:
    """The value of a string, number or the like; None for one that is written wrong."""
    try:
        return json.loads(written.decode("utf-8", "surrogatepass"))
    except ValueError:
        return None
