"""What the job ``convert`` is given. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.jobs.job import JobFailed

SAFETENSORS, GGUF = "safetensors", "gguf"


@dataclass(frozen=True, slots=True)
class ConvertArguments:
    """``source``: a folder; ``out``: where the result goes, an empty or a new one, None: in the job's own; ``base``:
    the base model, a folder or a GGUF file; ``to``: `SAFETENSORS`, or `GGUF` beside it; ``unconfined``: go on where
    this kernel cannot confine a process."""

    source: str
    out: str | None = None
    base: str | None = None
    to: str = SAFETENSORS
    unconfined: bool = False


def check(arguments: Mapping[str, Any]) -> None:
    """Raises JobFailed 400."""
    read(arguments)


def read(arguments: Mapping[str, Any]) -> ConvertArguments:
    """Raises JobFailed 400."""
    try:
        given = ConvertArguments(**arguments)
    except TypeError as error:
        raise JobFailed(f"convert: {error}", 400) from None
    if not isinstance(given.source, str) or not all(isinstance(each, str | None) for each in (given.base, given.out)):
        raise JobFailed("source, base and out are texts", 400)
    if given.to not in (SAFETENSORS, GGUF):
        raise JobFailed(f"adapters are made into {SAFETENSORS} or {GGUF}, not {str(given.to)[:50]!r}", 400)
    if given.to == GGUF and given.base is None:
        raise JobFailed("a GGUF adapter is made for one model: name it with --base", 400)
    if not isinstance(given.unconfined, bool):
        raise JobFailed("unconfined is true or false", 400)
    return given
