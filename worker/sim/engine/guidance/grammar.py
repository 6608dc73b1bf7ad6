"""What an answer may be, byte by byte: regular expressions, and what is left of them after a byte (Brzozowski's
derivatives). Pure.

A node is a tuple of its kind and its parts, so equal ones are equal. No node can match nothing at all (`NEVER`) below
the top: what a node may begin with can always be finished.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

Node = tuple[Any, ...]

EMPTY: Node = ("empty",)
NEVER: Node = ("never",)
_PRINTABLE = frozenset(range(32, 127))


def one_of(values: Iterable[int]) -> Node:
    """One of these bytes."""
    found = frozenset(values)
    return ("byte", found) if found else NEVER


def text(value: str) -> Node:
    """Exactly this."""
    made = EMPTY
    for byte in reversed(value.encode()):
        made = sequence(one_of([byte]), made)
    return made


def sequence(first: Node, *others: Node) -> Node:
    if not others:
        return first
    rest = sequence(*others)
    if NEVER in (first, rest):
        return NEVER
    if first == EMPTY or rest == EMPTY:
        return rest if first == EMPTY else first
    # Leaning to the right, so that what is left after a byte does not depend on how it was put together.
    return ("sequence", first[1], sequence(first[2], rest)) if first[0] == "sequence" else ("sequence", first, rest)


def either(*options: Node) -> Node:
    found: set[Node] = set()
    for option in options:
        found |= option[1] if option[0] == "either" else {option}
    found.discard(NEVER)
    return NEVER if not found else found.pop() if len(found) == 1 else ("either", frozenset(found))


def repeated(node: Node, least: int, most: int | None) -> Node:
    """From ``least`` to ``most`` times; None: however often."""
    if most is None:
        many: Node = EMPTY if node in (EMPTY, NEVER) else ("many", node)
    else:
        many = EMPTY
        for _ in range(most - least):
            many = either(EMPTY, sequence(node, many))
    for _ in range(least):
        many = sequence(node, many)
    return many


@functools.lru_cache(maxsize=1 << 14)
def may_end(node: Node) -> bool:
    kind = node[0]
    if kind == "sequence":
        return may_end(node[1]) and may_end(node[2])
    return any(map(may_end, node[1])) if kind == "either" else kind in ("empty", "many")


@functools.lru_cache(maxsize=1 << 14)
def begins_with(node: Node) -> tuple[int, ...]:
    """The bytes that may come next, in order."""
    kind = node[0]
    if kind == "byte":
        found = node[1]
    elif kind == "many":
        found = begins_with(node[1])
    elif kind == "sequence":
        found = {*begins_with(node[1]), *(begins_with(node[2]) if may_end(node[1]) else ())}
    else:
        found = {byte for option in node[1] for byte in begins_with(option)} if kind == "either" else ()
    return tuple(sorted(found))


@functools.lru_cache(maxsize=1 << 15)
def after(node: Node, byte: int) -> Node:
    """What has to follow; `NEVER` where this byte may not come."""
    kind = node[0]
    if kind == "byte":
        return EMPTY if byte in node[1] else NEVER
    if kind == "many":
        return sequence(after(node[1], byte), node)
    if kind == "either":
        return either(*(after(option, byte) for option in node[1]))
    if kind != "sequence":
        return NEVER
    first = sequence(after(node[1], byte), node[2])
    return either(first, after(node[2], byte)) if may_end(node[1]) else first


class BadPattern(ValueError):
    """A regular expression that is none, or that has more than is known here."""


def pattern(source: str) -> Node:
    """Of a regular expression with literals, classes, groups, alternatives and repetitions. Raises BadPattern."""
    reader = _Pattern(source.removeprefix("^").removesuffix("$"))
    made = reader.alternatives()
    if reader.left:
        raise BadPattern(f"unbalanced at {reader.left[:10]!r}")
    return made


_CLASSES = {
    "d": frozenset(b"0123456789"), "s": frozenset(b" \t\n\r"),
    "w": frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"),
}  # fmt: skip
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_MOST = 512  # repetitions


class _Pattern:
    def __init__(self, source: str) -> None:
        self.left = source

    def alternatives(self) -> Node:
        options = [self._concatenation()]
        while self.left.startswith("|"):
            self.left = self.left[1:]
            options.append(self._concatenation())
        return either(*options)

    def _concatenation(self) -> Node:
        parts: list[Node] = [EMPTY]
        while self.left and self.left[0] not in "|)":
            parts.append(self._repetition(self._atom()))
        return sequence(*parts)

    def _atom(self) -> Node:
        sign, self.left = self.left[0], self.left[1:]
        if sign == "(":
            self.left = self.left.removeprefix("?:")
            inner = self.alternatives()
            if not self.left.startswith(")"):
                raise BadPattern("a group is not closed")
            self.left = self.left[1:]
            return inner
        if sign in "*+?{":
            raise BadPattern(f"nothing to repeat before {sign}")
        if sign == "[":
            return self._set()
        if sign == ".":
            return one_of(_PRINTABLE)
        if sign != "\\":
            return text(sign)
        found = self._escape()
        return one_of(found) if isinstance(found, frozenset) else text(found)

    def _escape(self) -> frozenset[int] | str:
        if not self.left:
            raise BadPattern("it ends in a backslash")
        sign, self.left = self.left[0], self.left[1:]
        if sign.lower() in _CLASSES:
            return _CLASSES[sign] if sign in _CLASSES else _PRINTABLE - _CLASSES[sign.lower()]
        if sign.isalnum() and sign not in _ESCAPES:
            raise BadPattern(f"\\{sign} is not known here")
        return _ESCAPES.get(sign, sign)

    def _set(self) -> Node:
        negated = self.left.startswith("^")
        self.left = self.left[negated:]
        found: set[int] = set()
        first = True
        while first or not self.left.startswith("]"):
            first = False
            low = self._member()
            if isinstance(low, frozenset):
                found |= low
            elif self.left.startswith("-") and self.left[1:2] not in ("]", ""):
                self.left = self.left[1:]
                high = self._member()
                if isinstance(high, frozenset):
                    raise BadPattern("a range has to end in a character")
                found |= set(range(ord(low), ord(high) + 1))
            else:
                found.add(ord(low))
        self.left = self.left[1:]
        return one_of(_PRINTABLE - found if negated else found & frozenset(range(128)))

    def _member(self) -> frozenset[int] | str:
        if not self.left:
            raise BadPattern("a class is not closed")
        sign, self.left = self.left[0], self.left[1:]
        return self._escape() if sign == "\\" else sign

    def _repetition(self, node: Node) -> Node:
        sign = self.left[:1]
        if sign and sign in "*+?":
            self.left = self.left[1:]
            return repeated(node, int(sign == "+"), 1 if sign == "?" else None)
        if sign != "{":
            return node
        bounds, closed, self.left = self.left[1:].partition("}")
        low, comma, high = bounds.partition(",")
        try:
            least, most = int(low or 0), int(high) if high else None if comma else int(low)
        except ValueError:
            raise BadPattern(f"{{{bounds}}} is no number of times") from None
        if not closed or least > _MOST or (most is not None and not least <= most <= _MOST):
            raise BadPattern(f"{{{bounds}}} is no number of times")
        return repeated(node, least, most)
