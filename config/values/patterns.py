"""Patterns of strangers, of Rust's `regex`: its time grows with the length of the text only, whatever the pattern says.
There is no look-around and no back reference. Pure.

What a pattern counts to (as in ``{1,9}``) is bounded too: it is what such an automaton grows with.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator

#: Characters of a pattern, and the product of what it counts to.
LONGEST_PATTERN, _MOST_REPEATED = 500, 1000

_COUNT = re.compile(r"\{\s*([0-9]*)\s*,?\s*([0-9]*)\s*\}")


def bounded(pattern: str) -> Callable[[str], bool]:
    """As `matcher`. Raises ValueError for one that is too long, or counts to too much, as well."""
    if len(pattern) > LONGEST_PATTERN or math.prod(_counts(pattern)) > _MOST_REPEATED:
        raise ValueError(
            f"a pattern has at most {LONGEST_PATTERN} characters, and what it counts to (as in {{1,9}}) multiplies to "
            f"at most {_MOST_REPEATED}"
        )
    return matcher(pattern)


def _counts(pattern: str) -> Iterator[int]:
    for low, high in _COUNT.findall(pattern):
        yield max(1, int(low or 0), int(high or 0))


@functools.lru_cache(2000)
def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a text has it somewhere. Raises ValueError for what is no pattern, or too large a one."""
    from pydantic_core import SchemaError, SchemaValidator  # takes a moment, and only rules need it

    try:
        found: Callable[[str], bool] = SchemaValidator({"type": "str", "pattern": pattern}).isinstance_python
    except SchemaError as error:
        raise ValueError(f"{pattern[:100]!r} is no pattern: {' '.join(str(error).split())[:300]}") from None
    return found
