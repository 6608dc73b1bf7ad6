"""How a change of an adapter is watched, on every instance."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from rich.live import Live

from cluster.cli.job_display import JobDisplay
from cluster.cli.render import console, say
from cluster.cli.workload.lora.shared import instances_table
from cluster.client import ClusterClient, ClusterError
from config.jobs.said import JobProgress
from config.values.references import parse

#: How often (s) the instances are looked at while they change.
_LOOK_EVERY = 0.25


@contextlib.contextmanager
def watched(cluster: ClusterClient, name: str, source: str | None = None) -> Iterator[None]:
    """Shows what becomes of ``name`` on each instance, on standard error, until the body is done; before that, how much
    of what the reference ``source`` means is fetched."""
    screen = console(stderr=True)
    before, done = _look(cluster, name), threading.Event()
    with contextlib.ExitStack() as stack:
        show = _print_changes(before)
        display = stack.enter_context(JobDisplay(screen)) if source is not None else None
        if screen.is_terminal and display is None:
            show = _drawing(stack.enter_context(Live(console=screen, transient=True, refresh_per_second=8)))


        def watch() -> None:
            while not done.wait(_LOOK_EVERY):
                if display is not None and (progress := _pull(cluster, source or "")) is not None:
                    display.show(progress)
                adapter = _look(cluster, name)
                if not done.is_set():  # what came late must not stand below the result
                    show(adapter)

        thread = threading.Thread(target=watch, name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(1.0)  # no longer: its last question may wait for an answer that does not come


def _look(cluster: ClusterClient, name: str) -> Mapping[str, Any]:
    """The adapter as it is now; nothing where it is not known yet. Looking must never fail a change."""
    try:
        return cluster.adapter(name)
    except ClusterError:
        return {}


def _pull(cluster: ClusterClient, source: str) -> JobProgress | None:
    """How far the job is that fetches it, while it runs."""
    shown = str(parse(source))
    try:
        latest = (cast(Any, cluster.status()).get("jobs") or {}).get("latest", ())
    except ClusterError:
        return None
    running = [job["progress"] for job in latest if job["kind"] == "pull" and job["state"] == "running"]
    return next((JobProgress(**one) for one in running if one and one["stage"].endswith(shown)), None)


def _drawing(live: Live) -> Callable[[Mapping[str, Any]], None]:
    return lambda adapter: live.update(instances_table(adapter))


def _print_changes(before: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], None]:
    """A printer of one line for each instance that is not as it was."""
    seen: dict[str, str] = {name: _state_text(i) for name, i in before.get("instances", {}).items()}

    def show(adapter: Mapping[str, Any]) -> None:
        for name, instance in adapter.get("instances", {}).items():
            text = _state_text(instance)
            if seen.get(name) != text:
                say(f"{name}: {text}", err=True)
            seen[name] = text

    return show


def _state_text(instance: Mapping[str, Any]) -> str:
    version, reason = instance.get("version"), instance.get("reason")
    text = instance["state"] if version is None else f"{instance['state']} version {version}"
    return f"{text} ({reason})" if reason else text
