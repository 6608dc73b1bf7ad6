"""What is said of a start that came to nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from config.paths import StateDir
from config.text import printable_log
from worker import logfile

#: So many balancers that end again before they serve are enough.
_BALANCERS = 5

#: Lines of a log shown with a failed start.
_LINES = 15


def hopeless(snapshot: Mapping[str, Any]) -> str:
    """Why nothing can become ready any more; empty while something can. Our own workers have given up, and whoever is
    not ours has been asked and does not answer: where there are only such, they may be about to be started. Or nobody
    comes to take connections."""
    balancer, instances = snapshot["load_balancer"], snapshot["instances"].values()
    if balancer["restarts"] >= _BALANCERS and not balancer["standby"]:
        return f"the load balancer does not come up: {balancer['restarts']} starts after the first came to nothing"
    ours = [i for i in instances if i["managed"]]
    if not ours or any(i["state"] != "failed" for i in ours):
        return ""
    theirs = [i for i in instances if not i["managed"]]
    if any(i["is_running"] or i["phase"] or not i["reason"] for i in theirs):
        return ""
    return "every worker has failed" + (", and no other server answers" if theirs else "")


def last_words(state: StateDir, snapshot: Mapping[str, Any] | None) -> Iterator[str]:
    """Each part of a cluster that has failed, with the last lines that it wrote."""
    if snapshot is None:
        return
    if snapshot["load_balancer"]["restarts"]:
        yield "balancer:"
        yield from _shown(logfile.tail(state.log("balancer"), _LINES))
    for name, i in snapshot["instances"].items():
        yield f"{name}: {i['state']}: {i['reason'] or i.get('phase') or 'no reason known'}"
        yield from _shown((i.get("last_exit") or {}).get("log") or logfile.tail(state.log(name), _LINES))


def _shown(lines: list[str]) -> Iterator[str]:
    return (f"    {printable_log(line)}" for line in lines[-_LINES:])
