"""What a client has been sent of one stream, and the tokens of which that was made. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence

from config import replay
from lb.forwarding.resume import events
from lb.forwarding.resume.follow.atoms import Atom, Grammar, ItemsAtom, MarkAtom, TextAtom
from lb.forwarding.resume.point import CannotResume

#: Bytes of events that are kept as they came. Those before them are read, a few at a time, and kept as what they say,
#: which is a tenth of it.
_MOST_RAW = 64 * 1024


class SentAnswer:
    """Events are kept by reference and read once the stream has broken, which hardly any does; of a long one the first
    are read before, so that it takes no more memory than its text. ``is_empty``: nothing has been sent."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._raw: deque[bytes] = deque()
        self._size = 0
        self._lanes: dict[Hashable, list[_MergedAtoms]] = {}
        self._is_understood = self.is_empty = True

    def add(self, chunks: Sequence[bytes]) -> None:
        """Whole events, in HTTP chunks or not, in the order in which they were sent."""
        self.is_empty = self.is_empty and not chunks
        self._raw += chunks
        self._size += sum(map(len, chunks))
        early: list[bytes] = []
        while self._size > _MOST_RAW:
            early.append(self._raw.popleft())
            self._size -= len(early[-1])
        self._read(early)

    def lanes(self) -> dict[Hashable, Sequence[Atom]]:
        """All of it. Raises CannotResume if some of it is no event of its API."""
        self._read(self._raw)
        self._raw.clear()
        self._size = 0
        if not self._is_understood:
            raise CannotResume("what its worker sent is not understood")
        return {lane: tuple(run.atom() for run in runs) for lane, runs in self._lanes.items()}

    def _read(self, chunks: Iterable[bytes]) -> None:
        for line in b"".join(chunks).split(b"\n"):
            if not line.startswith(b"data:"):
                continue
            try:
                if (event := events.parse(line.rstrip(b"\r"))) is not None:
                    self._grammar.note(event)
                    self._grammar.walk(event, self._keep)
            except (ValueError, AttributeError, KeyError, TypeError):
                self._is_understood = False

    def _keep(self, atom: Atom) -> Atom:
        runs = self._lanes.setdefault(atom.lane, [])
        if not (runs and runs[-1].takes(atom)):
            runs.append(_MergedAtoms(atom))
        return atom


class _MergedAtoms:
    """Atoms that are one."""

    __slots__ = ("_first", "_keys", "_texts")

    def __init__(self, first: Atom) -> None:
        self._first = first
        self._texts = [first.text] if isinstance(first, TextAtom) else []
        self._keys = list(first.keys) if isinstance(first, ItemsAtom) else []

    def takes(self, atom: Atom) -> bool:
        """Whether ``atom`` is part of it, as it is from now on."""
        first = self._first
        if isinstance(atom, MarkAtom) or isinstance(first, MarkAtom):
            return False
        if type(first) is not type(atom) or first.path != atom.path:
            return False
        if isinstance(atom, TextAtom):
            self._texts.append(atom.text)
        else:
            self._keys += atom.keys
        return True

    def atom(self) -> Atom:
        first = self._first
        if isinstance(first, TextAtom):
            if len(self._texts) > 1:
                self._texts = ["".join(self._texts)]
            return TextAtom(first.lane, first.path, self._texts[0])
        return ItemsAtom(first.lane, first.path, tuple(self._keys)) if isinstance(first, ItemsAtom) else first


class ToldTokens:
    """Those of each choice, as ``config.replay`` has workers tell them, over all workers of one stream. Each worker
    tells from its answer's beginning: what it has not made again yet is what another told before."""

    def __init__(self) -> None:
        self._here: dict[int, list[bytes]] = {}  # digits with commas between them
        self._counts: dict[int, int] = {}
        self._before: dict[int, list[int]] = {}

    def add(self, told: Sequence[tuple[int, bytes]]) -> None:
        """As `replay.take_comments` finds them."""
        for choice, ids in told:
            self._here.setdefault(choice, []).append(ids)
            self._counts[choice] = self._counts.get(choice, 0) + ids.count(b",") + 1

    def read(self, chunks: Sequence[bytes]) -> None:
        """Those told in ``chunks``."""
        self.add(replay.told(b"".join(chunks)))

    def count(self) -> int:
        """How many were made, each counted once."""
        choices = self._counts.keys() | self._before.keys()
        return sum(max(self._counts.get(choice, 0), len(self._before.get(choice, ()))) for choice in choices)

    def all(self) -> list[list[int]]:
        """Those of each choice, up to the last of which any is known."""
        made = {choice: [int(id) for id in b",".join(some).split(b",")] for choice, some in self._here.items()}
        for choice, before in self._before.items():
            here = made.setdefault(choice, [])
            here += before[len(here) :]
        return [made.get(choice, []) for choice in range(max(made, default=-1) + 1)]

    def begin_again(self) -> None:
        """Another worker makes all of them again."""
        self._before = dict(enumerate(self.all()))
        self._here, self._counts = {}, {}

    def forget(self) -> None:
        """Another worker makes others."""
        self._here, self._counts, self._before = {}, {}, {}
