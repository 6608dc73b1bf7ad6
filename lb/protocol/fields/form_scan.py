"""The field ``model`` of a multipart form, read while the form comes in. Pure.

Servers read forms leniently and each in its own way, so what is not plainly RFC 7578 is refused: names in escapes or in
RFC 2231's extended form, a second disposition, a boundary that something else follows.
"""

from __future__ import annotations

import re

from lb.protocol.facts import Facts, Names, refused
from lb.protocol.fields.caps import NO_CAPS, NUMBERS, Caps

#: Fields and files of a form, bytes of what stands above one of them.
MOST_PARTS, MOST_PART_HEAD = 2000, 8192

#: Bytes of a value that is looked at: 256 characters.
_MOST_VALUE = 1024

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[^"\\\r\n]|\\[^\r\n])*"'
_KIND = re.compile(
    r"[ \t]*multipart/form-data((?:[ \t]*;[ \t]*[\w*-]+=(?:\"[^\"\\]*\"|[^\s;\"\\]+))*)[ \t]*", re.IGNORECASE
)
_KIND_PARAMETER = re.compile(r";[ \t]*([\w*-]+)=(?:\"([^\"]*)\"|([^\s;\"]+))")
#: RFC 2046 5.1.1.
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")

_LINE = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([\t\x20-\x7e\x80-\xff]*)\r\n")
_DISPOSITION = re.compile(
    rb"form-data((?:[ \t]*;[ \t]*" + _TOKEN + rb"=(?:" + _QUOTED + rb'|[^\s;"\\]+))*)[ \t]*', re.IGNORECASE
)
_PARAMETER = re.compile(rb";[ \t]*(" + _TOKEN + rb")=(" + _QUOTED + rb'|[^\s;"\\]+)')
_AS_IT_IS = frozenset({b"7bit", b"8bit", b"binary"})


class FormScan:
    """`feed` it a form, then ask for its `facts`; what names a model is in ``names`` as soon as it is read. Raises
    ProxyError (400) for a ``content_type`` that is not plainly that of a form."""

    __slots__ = ("_caps", "_delimiter", "_field", "_found", "_offset", "_parts", "_rest", "_step", "names")

    def __init__(self, content_type: str, caps: Caps = NO_CAPS) -> None:
        self._caps, self.names = caps, Names()
        self._delimiter = b"\r\n--" + _boundary(content_type)
        self._step = FormScan._open
        self._rest = b""  # of what was fed, not read yet
        self._offset = self._parts = 0  # _offset: where that stands in the body
        self._field = ""  # the one that is being read, if somebody asks for it
        self._found: bytes | None = None  # of a model's name, what has come of it

    def feed(self, piece: bytes) -> None:
        """The next bytes. Raises ProxyError: 400 for what is no plain form or names two models, 404 for a name that is
        too long."""
        data = self._rest + piece if self._rest else piece
        at = 0
        while (after := self._step(self, data, at)) >= 0:
            at = after
            if at == len(data):
                break
        self._rest = data[at:]
        self._offset += at

    @property
    def silent(self) -> bool:
        """It names nothing more."""
        return self._step is FormScan._end

    def facts(self) -> Facts:
        """What the whole of it says. Raises ProxyError (400) for one that has no end."""
        if self._step is not FormScan._end:
            raise refused("the form has no end")
        return Facts(self.names.name, names=self.names)

    # Each takes what it can of ``data`` from ``at`` on and says where it got to; -1 where it needs more than there is.

    def _open(self, data: bytes, at: int) -> int:
        first = self._delimiter[2:]
        if len(data) - at < len(first):
            return -1
        if not data.startswith(first, at):
            raise refused("the form does not begin with its boundary")
        self._step = FormScan._delimited
        return at + len(first)

    def _delimited(self, data: bytes, at: int) -> int:
        """Behind a boundary."""
        if len(data) - at < 2:
            return -1
        following = data[at : at + 2]
        if following == b"--":
            self._step = FormScan._end
        elif following == b"\r\n":
            self._step = FormScan._head
            self._parts += 1
            if self._parts > MOST_PARTS:
                raise refused(f"the form has more than {MOST_PARTS:,} parts")
        else:
            raise refused("something follows the form's boundary")
        return at + 2

    def _head(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n\r\n", at, at + MOST_PART_HEAD)
        if end < 0:
            if len(data) - at < MOST_PART_HEAD:
                return -1
            raise refused(f"a part of the form has a head of more than {MOST_PART_HEAD} bytes")
        self._field, self._step = _asked_for(data[at : end + 2]), FormScan._content
        return end + 4

    def _content(self, data: bytes, at: int) -> int:
        end = data.find(self._delimiter, at)
        if self._field:
            # Known whole before anything of it is passed over.
            known = end if end >= 0 else len(data)
            if known - at > _MOST_VALUE:
                if self._field != "model":
                    raise refused(f"{self._field} is too long", self._field)
                self.names.add(" " * _MOST_VALUE, (0, 0))  # refused for its length
            if end < 0:
                return -1
            self._add(data[at:end], self._offset + at)
        if end < 0:
            after = len(data) - len(self._delimiter) + 1
            return after if after > at else -1
        self._step = FormScan._delimited
        return end + len(self._delimiter)

    def _end(self, data: bytes, at: int) -> int:
        """What follows the last boundary is nobody's."""
        return len(data)

    def _add(self, value: bytes, at: int) -> None:
        if self._field != "model":
            self._caps.check_number(self._field, value.decode(errors="replace"))
            return
        try:
            self.names.add(value.decode(), (at, at + len(value)))
        except UnicodeDecodeError:
            raise refused("the model's name is no text", "model") from None


def _boundary(content_type: str) -> bytes:
    kind = _KIND.fullmatch(content_type)
    found: list[tuple[str, str, str]] = [] if kind is None else _KIND_PARAMETER.findall(kind[1])
    parameters = {name.lower(): quoted or plain for name, quoted, plain in found}
    boundary = parameters.get("boundary", "")
    if kind is None or len(parameters) != len(found) or not _BOUNDARY.fullmatch(boundary):
        raise refused("its content type names no plain boundary")
    if not set(parameters) <= {"boundary", "charset"} or parameters.get("charset", "utf-8").lower() != "utf-8":
        raise refused("a form is text in UTF-8")
    return boundary.encode()


def _asked_for(head: bytes) -> str:
    """The field that the part with this head is: ``model``, or a number that is capped; empty for any other. Raises
    ProxyError (400)."""
    lines = _LINE.findall(head)
    if sum(len(line) for line in _LINE.split(head)[::3]) or len(lines) != head.count(b"\n"):
        raise refused("the head of a part of the form is malformed")
    dispositions = [value for name, value in lines if name.lower() == b"content-disposition"]
    if len(dispositions) != 1 or (disposition := _DISPOSITION.fullmatch(dispositions[0])) is None:
        raise refused("a part of the form has not one plain Content-Disposition")
    found = [(name.lower(), value) for name, value in _PARAMETER.findall(disposition[1])]
    parameters: dict[bytes, bytes] = dict(found)
    name = parameters.get(b"name", b"").strip(b'"')
    extended = any(key.startswith(b"name*") for key in parameters)
    if len(parameters) != len(found) or not name or b"\\" in name or extended:
        raise refused("a part of the form has not one plain name")
    field = name.decode("latin-1")
    if field != "model" and field not in NUMBERS:
        return ""
    codings = {value.strip().lower() for key, value in lines if key.lower() == b"content-transfer-encoding"}
    if len(parameters) > 1 or not codings <= _AS_IT_IS:
        raise refused(f"its {field} is not a plain field", field)
    return field
