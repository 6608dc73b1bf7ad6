"""Text from outside, made safe to show: names, descriptions, reasons and log lines are chosen by strangers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

#: What does more to a terminal, a log or a reader than stand there: control characters (C0, DEL, C1), what reorders
#: text or is invisible in it (UAX #9, UTS #39), line separators, tag characters, and lone surrogates, which no encoding
#: holds. Not U+200C and U+200D: Persian, the Indic scripts and emoji are written with them.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)
_UNSAFE_BUT_LINES = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))

#: Colours and the like (SGR); programs write them for a terminal of their own.
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")

#: The beginning of a colour or of a line end; colours stand between CR and LF too.
_BEGUN = re.compile(r"(\r(\x1b\[[0-9;:]*m){0,32})?(\x1b(\[[0-9;:]{0,32})?)?\Z")


def printable(text: str, *, lines: bool = False) -> str:
    r"""``text`` with everything in it that is not plain text as an escape such as ``\x1b`` or ``\u202e``. With
    ``lines`` newlines and tabs stay: for what is several lines by nature, never for a name."""
    if text.isprintable():
        return text
    return (_UNSAFE_BUT_LINES if lines else _UNSAFE).sub(_escape, text)


def printable_json(text: str) -> str:
    """The same for a line that is JSON, and stays it."""
    return text if text.isprintable() else _UNSAFE.sub(_json_escape, text)


def printable_log(text: str) -> str:
    """A line, or several, of another program's log: without its colours, and with each redrawn progress bar as a line
    of its own."""
    if text.isprintable():
        return text
    return printable(_COLOUR.sub("", text).replace("\r\n", "\n").replace("\r", "\n"), lines=True)


def whole(pieces: Iterable[str]) -> Iterator[str]:
    """``pieces`` of one text, cut so that no colour and no line end (CR LF) goes over a cut: `printable_log` sees each
    as a whole."""
    kept = ""
    for piece in pieces:
        text = kept + piece
        kept = found[0] if (found := _BEGUN.search(text)) else ""
        if text := text.removesuffix(kept):
            yield text
    if kept:
        yield kept


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")


def _json_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
