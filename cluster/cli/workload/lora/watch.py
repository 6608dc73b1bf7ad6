"""How a change of an adapter is watched, on every instance."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.live import Live

from cluster.cli.pull_display import looking, pull_shown
from cluster.cli.render import console, say
from cluster.cli.workload.lora.shared import instances_table
from cluster.client import ClusterClient, ClusterError
from config.values.references import is_reference


@contextlib.contextmanager
def watched(cluster: ClusterClient, name: str, source: str = "") -> Iterator[None]:
    """Shows what becomes of ``name`` on each instance, on standard error, until the body is done; before that, how much
    of ``source`` is fetched, if it is a reference."""
    screen = console(stderr=True)
    with contextlib.ExitStack() as stack:
        show = _print_changes(_look(cluster, name))
        stack.enter_context(pull_shown(cluster, source))
        if screen.is_terminal and not is_reference(source):
            show = _drawing(stack.enter_context(Live(console=screen, transient=True, refresh_per_second=8)))

        def look(done: Callable[[], bool]) -> None:
            adapter = _look(cluster, name)
            if not done():
                show(adapter)

        with looking(look):
            yield


def _look(cluster: ClusterClient, name: str) -> Mapping[str, Any]:
    """The adapter as it is now; nothing where it is not known yet. Looking must never fail a change."""
    try:
        return cluster.adapter(name)
    except ClusterError:
        return {}


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
