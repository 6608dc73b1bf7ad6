"""Why a rolling restart does not go on: said once, and shown as long as it is so. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.events import Emit
from cluster.fleet import rolling
from cluster.fleet.fleet import Fleet


class RollingNotice:
    """Tells when a rolling restart comes to a stop."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._stopped_by: str | None = None

    def look(self, fleet: Fleet, revertible: bool) -> None:
        stopped_by = rolling.progress(fleet.intent.desired, fleet.observed()).stopped_by
        if stopped_by is not None and stopped_by != self._stopped_by:
            why = why_stopped(fleet, stopped_by, revertible)
            self._emit("cluster", why, kind="restart.stopped", data={"by": stopped_by})
        self._stopped_by = stopped_by


def why_stopped(fleet: Fleet, name: str, revertible: bool) -> str:
    """What can be done, too: ``name`` does not come back, or not as it was. ``revertible``: there are settings to go
    back to."""
    instance = fleet.instances[name]
    spare, missing = name in fleet.intent.desired.spares, fleet.missing_adapters(instance)
    if missing:
        adapters = f"adapter{'s' * (len(missing) > 1)} {_some(missing)}"
        reason = instance.adapters.refused[missing[0]].reason
        who = f"{'the spare ' * spare}{name} cannot hold {adapters}"
    else:
        who, reason = f"the spare {name} does not get ready" if spare else f"{name} does not come back", instance.reason
    others = len(fleet.ready_in(instance.group))
    back = ", `clusterctl apply --previous` goes back to the settings before" if revertible else ""
    again = "`clusterctl restart --rolling` tries again" if spare else f"`clusterctl restart {name}` tries again"
    return f"the rolling restart stops: {who} ({reason}); {others} serve on; {again}{back}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
