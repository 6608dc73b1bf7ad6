"""Swallows of an answer that is made again what the client has had of it. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

from lb.forwarding.resume.follow.atoms import Atom, Event, Grammar, ItemsAtom, MarkAtom, TextAtom
from lb.forwarding.resume.point import CannotResume


class Differs(CannotResume):
    """What is made again is not what was sent."""


class AnswerFollower:
    """``sent``: what the client has had, by lanes, neighbours of one path merged. Each lane is matched from its front;
    what goes beyond its end is new."""

    def __init__(self, grammar: Grammar, sent: Mapping[Hashable, Sequence[Atom]]) -> None:
        self._grammar = grammar
        self._lanes = {lane: atoms for lane, atoms in sent.items() if atoms}
        self._at: dict[Hashable, tuple[int, int]] = {}  # in each lane: an atom, and how much of it has come again
        self.ids: dict[str, str] = {}

    def follow(self, event: Event) -> Event | None:
        """What the client is sent of it, as an event of its own stream; None for nothing. Raises Differs."""
        left = self._grammar.walk(event, self._take)
        return None if left is None else self._grammar.adopt(left, self.ids)

    def _take(self, atom: Atom) -> Atom | None:
        if isinstance(atom, MarkAtom) and atom.closes is not None:
            self._close(atom)
        sent = self._lanes.get(atom.lane)
        if sent is None:
            return atom
        at, done = self._at.get(atom.lane, (0, 0))
        expected = sent[at]
        if isinstance(atom, MarkAtom):
            if not isinstance(expected, MarkAtom) or expected.what != atom.what:
                raise _differs(expected, atom)
            self.ids.update(pair for pair in zip(atom.ids, expected.ids, strict=False) if pair[0] != pair[1])
            self._advance(atom.lane, at + 1, 0)
            return None
        if isinstance(atom, TextAtom):
            if not isinstance(expected, TextAtom) or expected.path != atom.path:
                raise _differs(expected, atom)
            whole, given = len(expected.text), len(atom.text)
            same = expected.text.startswith(atom.text[: whole - done], done)
        else:
            if not isinstance(expected, ItemsAtom) or expected.path != atom.path:
                raise _differs(expected, atom)
            whole, given = len(expected.keys), len(atom.keys)
            same = expected.keys[done : done + given] == atom.keys[: whole - done]
        if not same:
            raise _differs(expected, atom)
        if given <= whole - done:
            self._advance(atom.lane, at + (given == whole - done), 0 if given == whole - done else done + given)
            return None
        if at + 1 < len(sent):
            raise _differs(sent[at + 1], atom)  # it goes on where something else had come
        self._advance(atom.lane, at + 1, 0)
        if isinstance(atom, TextAtom):
            return replace(atom, text=atom.text[whole - done :])
        return replace(atom, keys=atom.keys[whole - done :])

    def _close(self, end: MarkAtom) -> None:
        """Raises Differs if less has come than was sent."""
        for lane in self._lanes:
            if lane != end.lane and isinstance(lane, tuple) and lane[0] == end.closes:
                raise Differs("another worker made less than had been sent")

    def _advance(self, lane: Hashable, at: int, done: int) -> None:
        if at >= len(self._lanes[lane]):
            del self._lanes[lane]
        else:
            self._at[lane] = (at, done)


def _differs(expected: Atom, found: Atom) -> Differs:
    same = type(expected) is type(found) and not isinstance(expected, MarkAtom)
    what = "the same again" if same else "the same parts of an answer again"
    return Differs(f"another worker did not make {what}")
