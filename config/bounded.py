"""Files, JSON and YAML that somebody else wrote: bounded in size and number before anything is made of them.

A parser in C holds the interpreter for as long as one call lasts, in whatever thread it runs, and a few bytes of text
can become a hundred times their size in objects. So the text is measured first, by counting bytes, which takes a
millisecond for ten megabytes.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import AsyncIterable, Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, NoReturn

import yaml

from config.errors import UsageError

#: Bytes and nodes of a settings file, and of a file that lists adapters. Two thousand adapters take 20,000 nodes.
SETTINGS_BYTES, SETTINGS_NODES = 1 << 20, 50_000

#: Values of a JSON text whose caller names no other number.
VALUES = 1_000_000

_DIGITS = 100

_SPACE = re.compile(r"[ \t\n\r]*")


class Unfit(ValueError):
    """More than is taken, or another kind of thing; the text says what, without naming whose it is."""


def open_regular(path: Path) -> BinaryIO:
    """Opens a file that exists for reading; raises OSError, Unfit for a pipe, a device or a folder."""
    # Without O_NONBLOCK the open of a pipe waits for a writer: for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise Unfit("is no regular file")


def read(stream: IO[bytes], most: int) -> bytes:
    """The rest of ``stream``; raises Unfit for more than ``most`` bytes."""
    raw = stream.read(most + 1)
    if len(raw) > most:
        raise Unfit(f"has more than the {most} bytes that are allowed")
    return raw


async def gathered(pieces: AsyncIterable[bytes], most: int) -> bytes:
    """All of an answer that comes in ``pieces``; raises Unfit for more than ``most`` bytes."""
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) > most:
            raise Unfit(f"an answer of more than {most} bytes")
    return bytes(body)


def read_text(path: Path, most: int = SETTINGS_BYTES) -> str:
    """A file that is UTF-8, with or without a byte-order mark, a pipe as well: a shell's ``<(command)`` is one. Raises
    OSError, Unfit, UnicodeDecodeError."""
    with path.open("rb") as stream:
        return read(stream, most).decode("utf-8-sig")


def read_given(path: Path, most: int = SETTINGS_BYTES) -> str:
    """As `read_text`, of a file that somebody has named: raises UsageError with one line that names it."""
    try:
        return read_text(path, most)
    except OSError as error:
        why = error.strerror
    except UnicodeDecodeError:
        why = "not a UTF-8 text file"
    except Unfit as error:
        why = str(error)
    raise UsageError(f"{path}: {why}", exit_code=2)


def measure(raw: bytes, values: int = VALUES) -> None:
    """Raises Unfit where JSON may hold more than so many ``values``. Commas in texts count too."""
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > values:
        raise Unfit(f"holds more than the {values} values that are allowed")


def parse_json(
    raw: bytes, values: int = VALUES, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """The value in ``raw``; ``pairs`` makes objects, as in `json.loads`. Raises Unfit, ValueError: NaN and Infinity
    are no JSON, and half a surrogate pair is text that no database and no answer can hold."""
    measure(raw, values)
    try:
        value = json.loads(raw.decode(), parse_constant=_no_constant, object_pairs_hook=pairs)
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise Unfit("is nested too deeply") from None
    return value


def read_object(path: Path, most: int = SETTINGS_BYTES, values: int = VALUES) -> dict[str, Any]:
    """The JSON object in a regular file. Raises OSError, Unfit, ValueError."""
    with open_regular(path) as stream:
        found = parse_json(read(stream, most), values)
    if not isinstance(found, dict):
        raise Unfit("is no JSON object")
    return found


def members(raw: bytes, values: int = VALUES) -> Iterator[tuple[str, Any]]:
    """Names and values of the JSON object in ``raw``, each parsed by a call of its own, so that other threads get
    their turns in between. Raises Unfit, ValueError, also when some have come already."""
    measure(raw, values)
    text = raw.decode()
    decode = json.JSONDecoder(parse_constant=_no_constant).raw_decode
    position = _skip(text, 0)
    if text[position : position + 1] != "{":
        raise Unfit("is not a JSON object")
    position = _skip(text, position + 1)
    separator = "}" if text[position : position + 1] == "}" else ","
    while separator == ",":
        _expect(text, position, '"')
        name, position = decode(text, position)
        position = _skip(text, position)
        _expect(text, position, ":")
        try:
            value, position = decode(text, _skip(text, position + 1))
        except RecursionError:
            raise Unfit("is nested too deeply") from None
        yield name, value
        position = _skip(text, position)
        separator = text[position : position + 1]
        position = _skip(text, position + 1) if separator == "," else position
    if separator != "}" or _skip(text, position + 1) != len(text):
        raise json.JSONDecodeError("Expecting ',' or the end of the object", text, position)


def _expect(text: str, position: int, mark: str) -> None:
    if text[position : position + 1] != mark:
        raise json.JSONDecodeError(f"Expecting {mark!r}", text, position)


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    assert found is not None
    return found.end()


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


class BoundedLoader(yaml.SafeLoader):
    """A key given twice is a mistake, not a choice of the last. What an alias stands for counts each time: nine lines
    of aliases of aliases, or merge keys, can stand for a thousand million nodes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        alias, before = self.check_event(yaml.AliasEvent), self._nodes
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        if node is None:
            return None
        if alias and id(node) not in self._sizes:
            raise yaml.composer.ComposerError(None, None, "it stands for something that contains it", mark)
        self._nodes += self._sizes[id(node)] if alias else 1
        if self._nodes > SETTINGS_NODES:
            raise yaml.composer.ComposerError(
                None, None, f"more than {SETTINGS_NODES} values, aliases counted each time", mark
            )
        self._sizes.setdefault(id(node), self._nodes - before)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """1:1:1 is 3661, and a million of these digits are half a minute of arithmetic."""
        if len(node.value) > _DIGITS:
            raise yaml.constructor.ConstructorError(None, None, "a number with too many digits", node.start_mark)
        make = self.construct_yaml_int if node.tag.endswith(":int") else self.construct_yaml_float
        return make(node)


for _kind in ("int", "float"):
    BoundedLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", BoundedLoader.construct_number)
