"""What events of a stream say, cut so small that it makes no difference how a worker cuts its events. Pure.

Each API's `Grammar` takes an event apart into atoms, one after the other in each *lane*: a piece of text, which is one
with what follows it under the same path; entries of a list that has one for each token; or a mark, which is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class TextAtom:
    """``path``: what it is a part of, such as a choice's content."""

    lane: Hashable
    path: Hashable
    text: str


@dataclass(frozen=True, slots=True)
class ItemsAtom:
    """``keys``: what of each entry has to be the same again. The rest of one, its log probability for one, may be
    another number on another machine."""

    lane: Hashable
    path: Hashable
    keys: tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class MarkAtom:
    """``ids``: names that the worker made up, which are others each time it is asked. ``closes``: the lanes, by the
    first of each, of which nothing may be missing where it stands."""

    lane: Hashable
    what: Hashable
    ids: tuple[str, ...] = ()
    closes: Hashable = None


Atom = TextAtom | ItemsAtom | MarkAtom
Event = dict[str, Any]

#: What is made of an atom on its way: all of it, its end, or None.
Take = Callable[[Atom], Atom | None]


class StreamOver(Exception):
    """An event says that its worker gave the answer up. ``error``: as it said it, None where it did not."""

    def __init__(self, reason: str, error: object = None) -> None:
        super().__init__(reason)
        self.error = error


class Grammar(Protocol):
    """Of the events of one stream of one API. ``straight``: what events in the middle of a stream have, each once, and
    no other has."""

    straight: bytes

    @property
    def started(self) -> bool:
        """Something of the answer itself has been sent."""

    @property
    def has_finished(self) -> bool:
        """The answer itself has, to its end."""

    @property
    def ended(self) -> bool:
        """All has, but for what follows from it."""

    def walk(self, event: Event, take: Take) -> Event | None:
        """``event`` with what ``take`` leaves of its atoms; None if nothing is left of it."""

    def check(self, event: Event) -> None:
        """Raises StreamOver for one that ends the stream before its time; and ValueError, AttributeError, KeyError or
        TypeError for what is no event of this API."""

    def says(self, event: Event) -> bool:
        """Whether something of the answer itself is in it."""

    def note(self, event: Event) -> None:
        """It was sent to the client."""

    def adopt(self, event: Event, ids: dict[str, str]) -> Event:
        """An event of another worker's stream as one of this. ``ids``: the names that the client knows, by those that
        the other worker made up in their place. Raises CannotResume for one that follows upon an end."""

    def dump(self, event: Event) -> bytes:
        """As servers write it, with the empty line behind it."""

    def finish(self) -> bytes:
        """What follows from what has been sent, if it is missing."""


def rest_of_text(left: Atom | None) -> str:
    """Of what `Take` made of a `TextAtom`."""
    return left.text if isinstance(left, TextAtom) else ""


def rest_of_items(left: Atom | None, entries: list[Any]) -> list[Any]:
    """Of what `Take` made of the `ItemsAtom` that ``entries`` are."""
    return entries[len(entries) - len(left.keys) :] if isinstance(left, ItemsAtom) and left.keys else []


def json_key(value: object) -> Hashable:
    """Of a JSON value: the same for the same value."""
    if isinstance(value, dict):
        return tuple(sorted((key, json_key(item)) for key, item in value.items()))
    if isinstance(value, list):
        return tuple(json_key(item) for item in value)
    return value if isinstance(value, Hashable) else repr(value)
