"""What the other balancers have under way, as each tells it: the same in everybody's view of the workers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from itertools import count
from typing import NamedTuple, Protocol
from weakref import WeakValueDictionary

from lb.routing.backend import Backend
from lb.routing.cluster_view import ClusterView
from lb.routing.hashing import weight

#: Of the beginning of a prompt so many blocks are told.
_BLOCKS = 48

_LOW = 2**32 - 1


class Board(Protocol):
    """Where balancers tell each other of attempts, in records of at most 63 values of 64 bits."""

    def tell(self, record: Sequence[int]) -> None: ...

    def news(self) -> Iterable[tuple[int, Sequence[int] | None]]:
        """Who, and what since this was last asked; None: what that one said before counts no more."""


class Channels:
    """One board for several strategies, each with those of its name in other processes."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._open: WeakValueDictionary[int, _Channel] = WeakValueDictionary()

    def of(self, name: str) -> Board:
        """A new one, in the place of the one before of that name. It is open as long as somebody has it."""
        number = weight(name, "channel")
        self._open[number] = channel = _Channel(self, number)
        return channel

    def tell(self, number: int, record: Sequence[int]) -> None:
        """On the channel of that ``number``."""
        self._board.tell((number, *record))

    def sort(self) -> None:
        """Gives each channel what is for it, and what is said of a whole process to all."""
        for who, record in self._board.news():
            if record is None:
                for channel in self._open.values():
                    channel.heard.append((who, None))
            elif len(record) > 1 and (found := self._open.get(record[0])) is not None:
                found.heard.append((who, record[1:]))


class _Channel:
    def __init__(self, channels: Channels, number: int) -> None:
        self._channels, self._number = channels, number
        self.heard: list[tuple[int, Sequence[int] | None]] = []

    def tell(self, record: Sequence[int]) -> None:
        self._channels.tell(self._number, record)

    def news(self) -> Iterable[tuple[int, Sequence[int] | None]]:
        self._channels.sort()
        heard, self.heard = self.heard, []
        return heard


class _RecordKind(IntEnum):
    """The first value of a record."""

    ANEW = 1  #: nothing that was told before counts
    SENT = 2  #: attempt, worker, adapter (0: none), rank and tokens to be read, blocks
    BEGAN = 3  #: attempt
    ENDED = 4  #: attempt


class _ForeignAttempt(NamedTuple):
    backend: Backend
    adapter: str | None
    unread: int


class OtherBalancers:
    """Those that tell on ``board``; what they have under way is entered in ``cluster``."""

    def __init__(self, board: Board, cluster: ClusterView) -> None:
        self._board, self._cluster = board, cluster
        self._workers: dict[int, Backend] = {}
        self._numbers: dict[Backend, int] = {}
        self._names: dict[int, str] = {}
        self._adapters: dict[str, int] = {}
        self._open: dict[int, dict[int, _ForeignAttempt]] = {}
        self._next = count(1)
        board.tell((_RecordKind.ANEW,))

    def joined(self, backend: Backend) -> None:
        if backend not in self._numbers:
            name, incarnation = backend.key
            self._numbers[backend] = number = weight(str(incarnation), name)
            self._workers[number] = backend

    def left(self, backend: Backend) -> None:
        self._workers.pop(self._numbers.pop(backend, 0), None)
        for under_way in self._open.values():
            for number in [number for number, attempt in under_way.items() if attempt.backend is backend]:
                del under_way[number]

    def named(self, adapters: Mapping[str, int]) -> None:
        """These are the adapters there are."""
        for name in self._adapters.keys() - adapters.keys():
            del self._names[self._adapters.pop(name)]
        for name in adapters:
            self._number(name)

    def _number(self, adapter: str) -> int:
        found = self._adapters.get(adapter)
        if found is None:
            self._adapters[adapter] = found = weight(adapter, "")
            self._names[found] = adapter
        return found

    # what goes out

    def sent(self, backend: Backend, adapter: str | None, rank: int, tokens: int, blocks: Sequence[int]) -> int:
        """The number of the attempt."""
        self.joined(backend)
        number = next(self._next)
        told = 0 if adapter is None else self._number(adapter)
        read = min(rank, _LOW) << 32 | min(tokens, _LOW)
        self._board.tell((_RecordKind.SENT, number, self._numbers[backend], told, read, *blocks[:_BLOCKS]))
        return number

    def began(self, number: int) -> None:
        self._board.tell((_RecordKind.BEGAN, number))

    def ended(self, number: int) -> None:
        self._board.tell((_RecordKind.ENDED, number))

    # what comes in

    def hear(self) -> None:
        """Everything since this was last called."""
        for who, record in self._board.news():
            if record is None or record[0] == _RecordKind.ANEW:
                for attempt in self._open.pop(who, {}).values():
                    self._over(attempt)
            elif record[0] == _RecordKind.SENT and len(record) >= 5:
                self._sent(self._open.setdefault(who, {}), record)
            elif len(record) == 2 and (found := self._open.get(who, {}).get(record[1])) is not None:
                if record[0] == _RecordKind.ENDED:
                    del self._open[who][record[1]]
                    self._over(found)
                elif record[0] == _RecordKind.BEGAN:
                    self._began(who, record[1], found)

    def _sent(self, under_way: dict[int, _ForeignAttempt], record: Sequence[int]) -> None:
        _, number, worker, adapter, read, *blocks = record
        backend = self._workers.get(worker)
        if backend is None:
            return  # of a later set than ours
        name = self._names.get(adapter, f"#{adapter}") if adapter else None
        rank, tokens = read >> 32, read & _LOW
        under_way[number] = _ForeignAttempt(backend, name, tokens)
        self._cluster.enter(backend, name, rank, tokens, blocks)

    def _began(self, who: int, number: int, attempt: _ForeignAttempt) -> None:
        if (view := self._cluster.views.get(attempt.backend.key)) is not None:
            view.backlog -= attempt.unread
        self._open[who][number] = attempt._replace(unread=0)

    def _over(self, attempt: _ForeignAttempt) -> None:
        self._cluster.leave(attempt.backend.key, attempt.adapter, attempt.unread)
