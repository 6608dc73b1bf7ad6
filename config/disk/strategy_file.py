"""The strategy in force, in a mapped file of the state directory: the supervisor writes it with one store, and every
balancer process reads it on each choice, so that a switch is one step for all of them.

The backend sets name a strategy too. The newer of the two counts: a set that is older than the file was sent before
the switch, and a balancer without the file goes by its sets.
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

from config.disk import private
from config.disk.files import allocate
from config.topology import STRATEGIES

_MAGIC = b"clstrat1"
_BYTES = 16

#: One cell of 64 bits: the epoch, the revision, the strategy's number and one, which is 0 in a file without a word.
_EPOCH_SHIFT, _REVISION_SHIFT = 40, 8
_EPOCH_MASK, _REVISION_MASK, _INDEX_MASK = (1 << 24) - 1, (1 << 32) - 1, (1 << 8) - 1


class StrategyWriter:
    """The supervisor's end."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file. It is never made smaller or replaced: balancers that outlive a supervisor have it
        mapped. Raises OSError."""
        with private.open_file(path, "a+b") as file:
            os.fchmod(file.fileno(), 0o600)
            allocate(file.fileno(), _BYTES)
            self._map = mmap.mmap(file.fileno(), _BYTES)
        if self._map[:8] != _MAGIC:
            self._map[:] = _MAGIC + bytes(8)
        self._cells = memoryview(self._map).cast("Q")

    def write(self, version: tuple[int, int], strategy: str) -> None:
        epoch, revision = version
        index = STRATEGIES.index(strategy) + 1
        self._cells[1] = (epoch & _EPOCH_MASK) << _EPOCH_SHIFT | (revision & _REVISION_MASK) << _REVISION_SHIFT | index

    def close(self) -> None:
        self._cells.release()
        self._map.close()


def last_epoch(path: Path) -> int:
    """Of the supervisor that wrote last, 0 where none did: known even if the state could not be saved."""
    try:
        word = private.read(path)
    except OSError:
        return 0
    return int.from_bytes(word[8:_BYTES], sys.byteorder) >> _EPOCH_SHIFT if word[:8] == _MAGIC else 0


class StrategyReader:
    """A balancer's end."""

    def __init__(self, path: Path) -> None:
        """Where there is no such file, only what the sets say counts."""
        self._cells: memoryview | None = None
        self._seen: tuple[int, tuple[int, int]] = (0, (0, 0))
        self._strategy: str | None = None
        try:
            with private.open_file(path) as file:
                mapped = mmap.mmap(file.fileno(), _BYTES, prot=mmap.PROT_READ)
        except (OSError, ValueError):  # ValueError: an empty file
            return
        if mapped[:8] == _MAGIC:
            self._cells = memoryview(mapped).cast("Q")

    def current(self, version: tuple[int, int], strategy: str) -> str:
        """The strategy in force for a balancer whose latest set has ``version`` and names ``strategy``."""
        if self._cells is None:
            return strategy
        word = self._cells[1]
        if self._seen[0] != word or self._seen[1] is not version:
            self._seen, self._strategy = (word, version), _newer(word, version)
        return self._strategy or strategy


def _newer(word: int, version: tuple[int, int]) -> str | None:
    """What the file says, unless it is older than ``version``, or of a release that knows more than we do."""
    number = word & _INDEX_MASK
    written = (word >> _EPOCH_SHIFT, word >> _REVISION_SHIFT & _REVISION_MASK)
    known = 0 < number <= len(STRATEGIES)
    return STRATEGIES[number - 1] if known and written >= version else None
