"""What several commands share: where the cluster is, and how waiting looks."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from cluster.cli.arguments import AbsolutePath
from cluster.cli.render import say
from cluster.client import ClusterClient
from cluster.client.core import verified
from cluster.client.token import is_of_this_machine
from cluster.fleet.groups import BALANCER
from config.sources.commands import cluster_url, own_admin_key, own_api_key, own_ca, own_certificate

F = TypeVar("F", bound=Callable[..., Any])

#: How long (s) a change is waited for: the start of a real engine takes minutes.
PATIENCE = 900.0


class Finite(click.FloatRange):
    """A number in a range, neither nan, which is below and above nothing, nor infinite: no JSON holds either."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number

    def _describe_range(self) -> str:  # click shows "x<=None" where there are no bounds
        return "" if self.min is None and self.max is None else super()._describe_range()


def _note_ca(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    context.meta[_CA] = value


_CA = "clusterctl.ca"

#: Options that say where the cluster is, and how to know it.
WHERE: Mapping[str, Mapping[str, Any]] = {
    "--url": {"help": "The cluster's URL; default CLUSTERCTL_URL, or port CLUSTERCTL_PORT (8000) here."},
    "--ca": {
        "type": AbsolutePath(), "metavar": "FILE", "expose_value": False, "callback": _note_ca,
        "help": "Whom to trust over https; default CLUSTERCTL_CA, a cluster of this machine, or whom the system does.",
    },
}


def url_option(function: F) -> F:
    for name, how in reversed(tuple(WHERE.items())):
        click.option(name, **how)(function)
    return function


def json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="As the API answers it.")(function)


def model_option(function: F) -> F:
    return click.option("--model", metavar="NAME", help="Of which model; needed where there are several.")(function)


def no_wait_option(function: F) -> F:
    return click.option("--no-wait", is_flag=True, help="Return at once; the change goes on.")(function)


def client(url: str | None, key: str | None = None) -> ClusterClient:
    where = url or cluster_url()
    return ClusterClient(where, key or own_admin_key(), verify=given_ca(), cert=own_certificate())


def is_on_this_machine(url: str) -> bool:
    try:
        return is_of_this_machine(urlsplit(url).hostname or "")
    except ValueError:
        return False


def verification(url: str) -> ssl.SSLContext | bool:
    """For other clients of a cluster. Raises ClusterError."""
    return verified(url, given_ca(), own_certificate())


def given_ca() -> Path | None:
    """What the command line, or the environment, says of whom to trust."""
    context = click.get_current_context(silent=True)
    given: Path | None = context.meta.get(_CA) if context is not None else None
    return given or own_ca()


def asking_key() -> str | None:
    """What requests for models are sent with: CLUSTERCTL_API_KEY, else the admin key. Where both are unset the clients
    send the token of a cluster on this machine, if it is asked for (`cluster.client.token`)."""
    return own_api_key() or own_admin_key()


def asking_client(url: str | None) -> ClusterClient:
    """For who asks models and manages nothing."""
    return client(url, asking_key())


def state_dir_option(function: F) -> F:
    return click.option("--state-dir", type=AbsolutePath(), help="Its state directory.")(function)


def finish(
    cluster: ClusterClient, no_wait: bool, done: str, only: str | None = None, narrate: bool = False
) -> int:
    """Waits until the cluster has settled, says ``done``, and returns the exit code: 1 if an instance (or ``only``
    that one) has failed. ``narrate``: says how far a rolling restart has come."""
    if no_wait:
        return 0
    status = cluster.wait_settled(PATIENCE, look=RollingNews(click.echo).look if narrate else lambda status: None)
    if only in BALANCER:
        if why := status["load_balancer"].get("failure"):
            say(f"the load balancer could not be replaced: {why}", err=True)
            return 1
        pids = ", ".join(str(process["pid"]) for process in status["load_balancer"]["processes"])
        say(f"{done}: load balancer {pids}")
        return 0
    failed = [n for n, i in status["instances"].items() if i["state"] == "failed" and only in (None, n)]
    if failed:
        for name in failed:
            say(f"{name} has failed: {status['instances'][name]['reason']}", err=True)
        return 1
    say(f"{done}: {status['running_instances']} of {status['total_instances']} ready")
    return 0


class RollingNews:
    """Says each step of a rolling restart once, as a status shows it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said: set[str] = set()

    def look(self, status: Mapping[str, Any]) -> None:
        rolling = status["supervisor"].get("rolling", {})
        instances = status["instances"]
        spare = rolling.get("spare")
        if spare and instances.get(spare, {}).get("is_running"):
            self._once(f"{spare} is ready and stands in")
        if rolling.get("active") and rolling["done"]:
            self._once(f"{rolling['done']} of {rolling['total']} restarted")
        if rolling.get("active"):
            for name, instance in instances.items():
                if instance["state"] == "backoff":
                    self._once(f"{name}: {instance['reason']}")

    def _once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)
