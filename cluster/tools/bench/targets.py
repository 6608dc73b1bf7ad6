"""Which models are asked, of those a server lists. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.tools.bench.mix import Mix
from config.errors import UsageError, nearest

#: The ``--model`` that means every one.
ALL = "all"


def runs(listed: Sequence[Mapping[str, Any]], wanted: str | None, mix: Mix | None) -> list[tuple[str, ...]]:
    """The models of each run. With a ``mix`` all adapters (of the base model ``wanted``) are in one; ``all`` has a run
    for each model. Raises UsageError where there is nothing to ask."""
    names = [str(model["id"]) for model in listed]
    parents = {str(model["id"]): model.get("parent") for model in listed}
    if wanted not in (None, ALL, *names) and (names or mix):
        raise UsageError(f"no model {wanted!r} there{nearest(str(wanted), names)}; {_known(names)}")
    if mix is not None:
        roots = {str(model["id"]): model.get("root") or model["id"] for model in listed if model.get("parent") is None}
        of = parents.get(str(wanted)) or wanted  # an adapter's name stands for those beside it
        same = {n for n in parents.values() if n == of or (n in roots and roots[n] == roots.get(str(of)))}
        adapters = [n for n in names if parents[n] is not None and (wanted in (None, ALL) or parents[n] in same)]
        if not adapters:
            raise UsageError(f"no adapters there to spread requests over; {_known(names)}")
        return [tuple(adapters)]
    if wanted == ALL and names:
        return [(name,) for name in names]
    if wanted is not None and wanted != ALL:
        return [(wanted,)]
    if not names:
        raise UsageError("the server lists no models; --model names one")
    return [(next((name for name in names if parents[name] is None), names[0]),)]


def _known(names: list[str]) -> str:
    return f"it has {', '.join(names)}" if names else "it lists none"
