"""What the job ``pull`` is given. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config.values.references import parse
from worker.jobs.job import JobFailed
from worker.sources import selection

#: References of one job.
_MOST = 1000


@dataclass(frozen=True, slots=True)
class PullArguments:
    """``references`` as people write them, each an adapter or a model (``what``). ``store``: its folder. ``refresh``:
    places are asked again what a branch means by now. ``kept``: by which list they are to be kept."""

    references: Sequence[str]
    store: str
    what: str = selection.ADAPTER
    refresh: bool = False
    hosts: Sequence[str] = ()
    private: bool = False
    kept: str = ""


def check(arguments: Mapping[str, Any]) -> None:
    """Raises JobFailed 400."""
    read(arguments)


def read(arguments: Mapping[str, Any]) -> PullArguments:
    """Raises JobFailed 400."""
    try:
        given = PullArguments(**arguments)
        _check_types(given)
        for text in given.references:
            parse(text)
    except (TypeError, ValueError) as error:
        raise JobFailed(str(error), 400) from None
    if given.what not in selection.MOST_BYTES:
        raise JobFailed(f"{given.what!r} is neither {selection.ADAPTER} nor {selection.MODEL}", 400)
    return given


def _check_types(given: PullArguments) -> None:
    """Raises ValueError."""
    for name in ("references", "hosts"):
        values = getattr(given, name)
        if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
            raise ValueError(f"{name}: a list of texts is needed")
    if not 0 < len(given.references) <= _MOST:
        raise ValueError(f"references: 1 to {_MOST} are needed")
    if not all(isinstance(value, str) for value in (given.store, given.what, given.kept)):
        raise ValueError("store, what and kept are texts")
    if not all(isinstance(value, bool) for value in (given.refresh, given.private)):
        raise ValueError("refresh and private are true or false")
