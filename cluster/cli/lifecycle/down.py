"""`down`: end a cluster, also one that has lost its supervisor or its balancer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cluster.cli.common import client, is_on_this_machine, state_dir_option, url_option
from cluster.cli.render import say
from cluster.client import ClusterClient, ClusterError
from cluster.storage import lock
from config import bounded
from config.errors import UsageError
from config.paths import StateDir, default_state_dir
from config.sources.commands import cluster_port, cluster_url, given_state_dir, names_cluster
from config.text import printable
from worker.drivers import proc, run_file
from worker.drivers.proc import ProcessId

_LOOK_EVERY = 0.05

#: How long (s) a supervisor that has let go of its lock may take to be gone, and a balancer to say nothing more.
GONE_S = 10.0

#: How long (s) a supervisor that holds its lock may take to answer: it may have just been started, on a busy machine.
_PATIENCE = 20.0

#: One that drains is waited for as long as that takes, and asked so often (s) whether it is still there; one that has
#: not said a word for so long hangs.
_ASK_EVERY, _SILENT_S = 5.0, 60.0


@click.command("down")
@state_dir_option
@click.option("--now", is_flag=True, help="Kill; do not wait for running requests.")
@click.option("--no-wait", is_flag=True, help="Return at once; the end goes on.")
@url_option
def down_command(state_dir: Path | None, now: bool, no_wait: bool, url: str | None) -> int:
    """Drain, then stop everything."""
    if state_dir is None:
        state_dir = find(url)
    if state_dir is None:  # another machine: its supervisor does it
        with client(url) as cluster:
            cluster.shutdown(now)
            if no_wait:
                say("shutting down")
            else:
                _wait_until_gone(cluster)
                say("down")
        return 0
    return bring_down(StateDir(state_dir.absolute()), now=now, no_wait=no_wait)


def find(url: str | None) -> Path | None:
    """The state directory of the cluster at ``url``: without one CLUSTERCTL_STATE_DIR, else as the cluster says
    itself or, if it is too dead for that, the usual one of its port. None if it is not on this machine: a folder of
    that name may be another cluster's here."""
    if not url and not os.environ.get("CLUSTERCTL_URL") and (given := given_state_dir()) is not None:
        return given
    wanted = url or cluster_url()
    try:
        with client(wanted) as cluster:
            status = cluster.status()
    except ClusterError as error:
        if error.status is None and is_on_this_machine(wanted):
            usual = default_state_dir(cluster_port(wanted))
            if usual.is_dir():
                return usual
        raise
    found = StateDir(Path(status["supervisor"]["state_dir"]))
    here = is_on_this_machine(wanted) and _belongs(found, status)
    if is_on_this_machine(wanted) and (own := _joined_here(status)) is not None:
        here = False
        if not url and not names_cluster():
            raise UsageError(
                f"balancers that have joined another machine's cluster run here, on {own}: `clusterctl balancer down` "
                "ends them; what the whole cluster is asked is asked on that machine, or with --url"
            )
    return found.root if here else None


def _joined_here(status: Mapping[str, Any]) -> Path | None:
    """The state directory of the balancer that answered with ``status``, where it serves the cluster of another machine
    from this one."""
    state = StateDir(Path(status["load_balancer"].get("state_dir", "")))
    return state.root if state.joined.exists() and _belongs(state, status) else None


def _belongs(state: StateDir, status: Mapping[str, Any]) -> bool:
    """Whether the processes of ``status`` run on ``state``: behind a forwarded port is another machine's cluster."""
    supervisor = status["supervisor"]["pid"]
    if supervisor is not None and lock.pid(state) == supervisor:
        return True
    try:
        started = [run_file.read(file) for file in state.runs.iterdir()]
    except OSError:
        return False
    return any(process is not None and process.pid == status["load_balancer"]["pid"] for process in started)


def bring_down(state: StateDir, *, now: bool = False, no_wait: bool = False, quiet: bool = False) -> int:
    """Ends whatever runs on ``state``. A second call while the first waits makes it quick with ``now``."""
    if not state.root.is_dir():
        raise UsageError(f"no state directory {state.root}")
    supervisor = _holder(state)
    if not _ask(state, now):
        # No supervisor: become one that only ends what there is.
        if not state.database.exists():
            raise UsageError(f"{state.root} is no state directory of a cluster")
        _end_left(state, now)
    elif no_wait:
        if not quiet:
            say("shutting down")
        return 0
    else:
        _wait_for_end(state, supervisor)
        if state.joined.exists():  # it ended while it took over what the one before had left
            _end_left(state, now)
    with contextlib.suppress(FileNotFoundError):
        raise UsageError(f"all has ended, but {printable(bounded.read_text(state.leftovers))}")
    if not quiet:
        say("down")
    return 0


def _end_left(state: StateDir, now: bool) -> None:
    """What a process that is gone left running. All of a supervisor is imported only where it is needed."""
    logging.basicConfig(level=logging.WARNING)
    if state.joined.exists():
        from cluster.joining import runtime as joining

        asyncio.run(joining.end(state, now))
    else:
        from cluster.supervisor import runtime

        asyncio.run(runtime.end(state, now))


def _ask(state: StateDir, now: bool) -> bool:
    """Asks the supervisor; False if there is none."""
    with ClusterClient(state_dir=state.root) as supervisor:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            try:
                supervisor.shutdown(now)
                return True
            except ClusterError as error:
                if error.status is not None:
                    raise
            if not lock.held(state):
                return False
            time.sleep(_LOOK_EVERY)  # it has just started, or is about to end
    raise UsageError(f"the supervisor on {state.root} holds its lock but does not answer; kill it, then run down again")


def _wait_until_gone(cluster: ClusterClient) -> None:
    """Its balancer ends last: what does not answer any more has ended. Raises UsageError where its supervisor is gone
    before that."""
    heard = time.monotonic()
    while time.monotonic() - heard < GONE_S:
        time.sleep(_LOOK_EVERY)
        try:
            if cluster.status()["supervisor"]["pid"] is not None:
                heard = time.monotonic()
        except ClusterError as error:
            if error.status is None:
                return
    raise UsageError("its supervisor has ended before all else had; run down again, on its machine")


def _holder(state: StateDir) -> ProcessId | None:
    """The supervisor that holds the lock, as far as the lock file tells."""
    pid = lock.pid(state)
    found = proc.stat(pid) if pid is not None else None
    return found.identity if found else None


def _wait_for_end(state: StateDir, supervisor: ProcessId | None) -> None:
    """Raises UsageError where the supervisor does not get on with it."""
    with ClusterClient(state_dir=state.root, timeout=_ASK_EVERY) as asked:
        heard = looked = time.monotonic()
        while lock.held(state):
            time.sleep(_LOOK_EVERY)
            if time.monotonic() - looked < _ASK_EVERY:
                continue
            with contextlib.suppress(ClusterError):
                asked.snapshot()
                heard = time.monotonic()
            looked = time.monotonic()
            if looked - heard > _SILENT_S:
                raise UsageError(
                    f"the supervisor on {state.root} was asked to end and has not said a word for {_SILENT_S:g} s; "
                    "kill it, then run down again"
                )
    # It lets go of the lock a moment before it is gone itself. (A pid that was written down by somebody else, long
    # ago, is not waited for without end.)
    deadline = time.monotonic() + GONE_S
    while supervisor is not None and proc.alive(supervisor) and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY)

