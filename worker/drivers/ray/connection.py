"""Connects this process to a Ray, and says in a line what to do where that does not come about.

A Ray that was killed leaves a file behind that names its head. ``ray.init`` waits for minutes for whoever is not there
any more, or speaks of what stood in that file and not of the file; so the head is looked for first, and then the raylet
of this machine.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from worker.drivers.ray import exposure

#: How long (s) a head may take to accept a connection.
_REACH_S = 3.0

#: How long (s) a raylet of this machine may take to be one of the head's nodes, two looks for that, and the head's
#: answer to one of them.
_JOIN_S, _LOOK_S, _ANSWER_S = 3.0, 0.2, 10.0

_AUTO = "auto"


class NoRay(Exception):
    """There is none that can be used, and why."""


def connect(address: str, namespace: str) -> Any:
    """Ray's module, connected to the Ray at ``address``. Raises NoRay and `exposure.Exposed`."""
    import ray

    head = _named(ray) if address == _AUTO else address
    try:
        if "://" not in head and head != _AUTO:
            _reach(resolved := _resolved(ray, head))
            _find_raylet(ray, resolved)
        ray.init(address=head, namespace=namespace, log_to_driver=False, configure_logging=False)
    except Exception as error:  # Ray raises whatever it likes
        origin = _origin(head) if address == _AUTO else ""
        raise NoRay(f"no Ray at {head!r}: {first_line(error)}{origin}") from None
    exposure.check(ray.get_runtime_context().gcs_address, os.environ)
    return ray


def first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def _named(ray: Any) -> str:
    """The head of the Ray that this machine is part of, as Ray itself comes by it. Raises NoRay."""
    try:
        return str(ray._private.services.get_ray_address_from_environment(_AUTO, None))
    except AttributeError:  # another release looks elsewhere
        return _AUTO
    except Exception:
        raise NoRay(
            "none runs on this machine: `ray start --head` starts one here, --ray-address names the head of another"
        ) from None


def _resolved(ray: Any, head: str) -> str:
    """127.0.0.1 means to Ray the address that others have of this machine. Raises ValueError."""
    try:
        return str(ray._private.services.canonicalize_bootstrap_address(head))
    except AttributeError:
        return head


def _reach(head: str) -> None:
    """Raises OSError where nobody takes connections there, ValueError where that is no address."""
    host, _, port = head.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise ValueError("HOST:PORT of a head is needed")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_S).close()
    except OSError as error:
        raise OSError(f"nobody answers there ({error.strerror or error})") from None


def _find_raylet(ray: Any, head: str) -> None:
    """Raises OSError where no node of that head is on this machine. It is looked for as ``ray.init`` does, which waits
    for one for a minute: none is missed here that it would find."""
    try:
        local = ray._private.services.find_node_ids
    except AttributeError:  # another release looks elsewhere
        return
    deadline = time.monotonic() + _JOIN_S
    while not _alive(ray, head, local()):
        if time.monotonic() > deadline:
            raise OSError(
                f"its head answers, but no raylet of it runs on this machine: `ray start --address={head}` starts one"
            )
        time.sleep(_LOOK_S)


def _alive(ray: Any, head: str, nodes: Iterable[str]) -> bool:
    """Whether ``head`` counts any of them among its nodes."""
    from ray.core.generated.gcs_pb2 import GcsNodeInfo
    from ray.core.generated.gcs_service_pb2 import GetAllNodeInfoRequest

    wanted = [GetAllNodeInfoRequest.NodeSelector(node_id=bytes.fromhex(node)) for node in nodes]
    return bool(wanted) and bool(ray._raylet.GcsClient(address=head).get_all_node_info(
        timeout=_ANSWER_S, node_selectors=wanted, state_filter=GcsNodeInfo.GcsNodeState.ALIVE
    ))  # fmt: skip


def _origin(head: str) -> str:
    """What helps where Ray was to find out by itself; empty where nothing is known of where it has that from."""
    if os.environ.get("RAY_ADDRESS"):
        return "; RAY_ADDRESS names it"
    try:
        left = _left_behind()
        stale = left.read_text().strip() == head
    except (OSError, ValueError, ImportError, AttributeError):
        return ""
    return "" if not stale else (
        f"; {left} names it, which a killed Ray leaves behind: `ray stop` removes that, `ray start --head` starts "
        "another Ray, --ray-address names one elsewhere"
    )  # fmt: skip


def _left_behind() -> Path:
    """Where ``ray start`` writes down the address of its head."""
    from ray._common import utils

    return Path(utils.get_ray_address_file(None))
