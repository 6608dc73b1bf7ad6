"""Takes over the balancer processes that an earlier supervisor left running, and the listening sockets from them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.balancers.listener import Listeners
from cluster.balancers.process import BalancerProcess, Group
from cluster.storage.store import Records
from config.link import receive_listeners
from config.paths import StateDir
from worker.drivers import run_file as run_files
from worker.drivers.process import find

#: How long (s) one that has just been started may take to be there for the next supervisor.
_ADOPTION_S = 1.5


@dataclass(frozen=True, slots=True)
class Left:
    """What an earlier supervisor left running, oldest first, and the listening sockets, if there are any.
    ``unfinished``: it had begun to replace one of them, and what was to take its place is not there."""

    processes: list[BalancerProcess]
    listeners: Listeners
    unfinished: bool


async def adopt(group: Group, state: StateDir, store: Records) -> Left:
    """Takes over what an earlier supervisor left."""
    records = await store.processes()
    for path in state.runs.glob("lb-*"):
        if path.name not in records and (noted := run_files.notes(path).get("record")):
            records[path.name] = noted  # it could not be saved
    records = {name: record for name, record in records.items() if "link" in record}  # the others are workers
    found = await asyncio.gather(*(
        _adopt_one(name, record, group, state, store)
        for name, record in records.items()
    ))  # fmt: skip
    # The newest first: where the sockets are not the same, its are those that are to be served.
    adopted = sorted((one for one in found if one is not None), key=lambda one: -one[0].order)
    sockets = _together(adopted)
    processes = sorted((process for process, _ in adopted), key=lambda process: process.order)
    newest = {process.slot: process.order for process in processes if process.retiring is None}
    there = {process.name for process in processes}
    unfinished = any(
        record.get("order", 0) > newest.get(record.get("slot", name), math.inf)
        for name, record in records.items() if name not in there and record.get("retiring") is None
    )  # fmt: skip
    return Left(processes, sockets, unfinished)


def _together(adopted: Sequence[tuple[BalancerProcess, Listeners]]) -> Listeners:
    """The listening sockets: each of all that have one. A release that did not speak gRPC has none for it."""
    found = Listeners()
    for _, each in adopted:
        if found.http is None:
            found.http, each.http = each.http, None
        if found.grpc is None:
            found.grpc, each.grpc = each.grpc, None
        each.close()  # the same ones once more
    return found


async def _adopt_one(
    name: str, record: Mapping[str, Any], group: Group, state: StateDir, store: Records
) -> tuple[BalancerProcess, Listeners] | None:
    """The one that an earlier supervisor wrote down as ``record``, with its listening sockets. None: it does not
    run any more. One that does not hand them over is hung: it is killed."""
    handle = find(record["process"], Path(record["run_file"]))
    made = BalancerProcess(name, record.get("slot", name), record.get("order", 0), group, state, store)
    made.link, made.retiring = Path(record["link"]), record.get("retiring")
    made.settings = record.get("settings", "")
    if handle is None or handle.empty():
        await made.forget()
        return None
    made.handle = handle
    deadline = asyncio.get_running_loop().time() + _ADOPTION_S
    while True:
        try:
            sockets = await asyncio.to_thread(receive_listeners, made.link)
            break
        except OSError as error:
            quick = isinstance(error, FileNotFoundError | ConnectionRefusedError)  # it may be about to listen
            if not quick or handle.empty() or asyncio.get_running_loop().time() > deadline:
                await asyncio.to_thread(handle.kill_tree)
                await made.forget()
                return None
            await asyncio.sleep(0.02)
    made.engaged = made.adopted = True
    return made, Listeners.handed_over(sockets)
