"""The arguments of a job, by name and type. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Any

from worker.jobs.job import JobFailed

#: Characters of a text.
_LONGEST = 4096


def check_types(
    arguments: Mapping[str, Any], needed: Mapping[str, type], optional: Mapping[str, type | UnionType]
) -> None:
    """Raises JobFailed 400 for a name that is in neither, one that is missing, and a value of another type. None stands
    for an optional one that is not there."""
    types = {**needed, **optional}
    for name, value in arguments.items():
        if name not in types:
            raise JobFailed(f"there is no argument {name[:100]!r}; there are {', '.join(types)}", 400)
        if value is None and name in optional:
            continue
        if not isinstance(value, types[name]) or (isinstance(value, bool) and types[name] is not bool):
            raise JobFailed(f"{name}: {str(value)[:100]!r} is of another type", 400)
        if isinstance(value, str) and (not value or len(value) > _LONGEST or not value.isprintable()):
            raise JobFailed(f"{name}: a text of 1 to {_LONGEST} printable characters is needed", 400)
    if missing := sorted(needed.keys() - arguments.keys()):
        raise JobFailed(f"{missing[0]} is needed", 400)
