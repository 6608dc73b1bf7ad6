"""Which texts say what another has said. Pure.

Two are the same where their words are, or where their runs of three words (Broder, "On the resemblance and containment
of documents", 1997) overlap by a Jaccard index of `ALIKE` or more. Candidates are found by prefixes (Chaudhuri et al.,
"A Primitive Operator for Similarity Joins in Data Cleaning", ICDE 2006): of two sets that overlap so much, at least one
of the first few elements, in an order that is the same for all, is in both.
"""

from __future__ import annotations

import hashlib
import math

from cluster.tools.evaluation.words import words

ALIKE = 0.7

_RUN = 3

#: Words of a text that count, and texts with one run that are looked at: a run that so many begin with tells nothing.
_LONGEST, _MOST_WITH = 2000, 500


class Texts:
    """Those that are known."""

    def __init__(self) -> None:
        self._exact: set[bytes] = set()
        self._runs: list[frozenset[int]] = []
        self._with: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, text: str) -> bool:
        """Whether it is new; if not, it is not kept."""
        found = words(text)[:_LONGEST]
        exact = _digest(" ".join(found))
        if exact in self._exact:
            return False
        runs = frozenset(_runs(found))
        prefix = sorted(runs)[: len(runs) - math.ceil(ALIKE * len(runs)) + 1]
        if self._is_known(runs, prefix):
            return False
        self._exact.add(exact)
        for run in prefix:
            texts = self._with.setdefault(run, [])
            if len(texts) < _MOST_WITH:
                texts.append(len(self._runs))
        self._runs.append(runs)
        return True

    def _is_known(self, runs: frozenset[int], prefix: list[int]) -> bool:
        candidates = {place for run in prefix for place in self._with.get(run, ())}
        return any(_jaccard(runs, self._runs[place]) >= ALIKE for place in candidates)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()


def _runs(found: list[str]) -> set[int]:
    """Numbers of the runs: their order is that of no alphabet, and the same in every process."""
    last = max(1, len(found) - _RUN + 1)
    return {int.from_bytes(_digest("\0".join(found[at : at + _RUN]))) for at in range(last)}


def _jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    both = len(one & other)
    return both / (len(one) + len(other) - both)
