"""The one error a person caused and can mend; its text is a single line that says how."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable


class UsageError(Exception):
    """Bad input. ``exit_code`` is 2 for wrong usage and 1 for what the machine cannot do right now."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


#: Characters of a name that is compared, and names that it is compared with: some ms in all.
_MOST_COMPARED, _MOST_KNOWN = 100, 100


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean X?)`` for the closest of ``known``, or nothing where none is close, or where ``name`` is longer
    than anything that somebody mistypes. Of many those are looked at whose length is closest."""
    if len(name) > _MOST_COMPARED:
        return ""
    known = [one for one in known if len(one) <= _MOST_COMPARED]
    if len(known) > _MOST_KNOWN:
        known = heapq.nsmallest(_MOST_KNOWN, known, key=lambda one: abs(len(one) - len(name)))
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""
