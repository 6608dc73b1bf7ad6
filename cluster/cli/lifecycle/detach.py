"""`up --detach`: a supervisor of its own, waited for until the first worker is ready; and what else is detached."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.cli.lifecycle.down import GONE_S, bring_down
from cluster.cli.lifecycle.failed import hopeless, last_words
from cluster.cli.render import say
from cluster.client import ClusterClient, ClusterError
from cluster.client.trust import kept_certificate
from cluster.deployment import plan
from cluster.storage.lock import held, lock
from config.disk import private
from config.disk.files import rewrite
from config.errors import UsageError
from config.paths import StateDir
from config.settings import Settings

_LOOK_EVERY = 0.05

#: Lines of its own log shown where the supervisor itself has failed.
_LINES = 15


def start(settings: Settings) -> int:
    """0 once a worker is ready, or if all come on demand only; 1 with the reason if none is in time. Raises UsageError
    before anything starts."""
    plan.make(settings)
    state = StateDir(settings.state_directory())
    return _wait(settings, state, launch(state, "cluster.cli", settings.to_json(), "supervisor"))


@dataclass(frozen=True, slots=True)
class Detached:
    """``process`` writes to ``log``, from ``offset`` on."""

    process: subprocess.Popen[bytes]
    log: Path
    offset: int

    def has_ended(self) -> bool:
        """Shows its last words if it has."""
        if self.process.poll() is None:
            return False
        self.show()
        return True

    def show(self) -> None:
        """The last lines that it wrote."""
        text = private.read(self.log)[self.offset :].decode(errors="replace").splitlines()
        for line in text[-_LINES:]:
            say(line, err=True)


def launch(state: StateDir, module: str, told: str, log: str) -> Detached:
    """``python -m MODULE FILE`` with ``told`` in FILE and its output in the log of that name; it lives on without us.
    Raises UsageError."""
    lock(state).close()  # one that lives already is reported here, in one line
    try:
        rewrite(state.launch, told.encode(), 16 * 1024)
    except OSError as error:
        raise UsageError(f"{state.launch}: {error.strerror}") from None
    with private.open_file(state.log(log), "ab") as output:
        offset = output.tell()
        # Its own session, and none of our standard streams: whoever captures our output must not wait for it.
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(state.launch)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd=state.work,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
        )
    return Detached(process, state.log(log), offset)


def _wait(settings: Settings, state: StateDir, detached: Detached) -> int:
    url = settings.url()
    deadline = time.monotonic() + settings.startup_timeout
    with ClusterClient(state_dir=state.root, timeout=5.0) as supervisor:
        while True:
            if detached.has_ended():
                return 1
            snapshot = snapshot_of(supervisor)
            if snapshot is not None:
                ready = sum(i["is_running"] for i in snapshot["instances"].values())
                on_demand = bool(snapshot.get("models")) and not snapshot["total_instances"]
                if (ready or on_demand) and _balancer_answers(settings, state, on_demand):
                    say(f"{url}: {ready} ready, {snapshot['total_instances']} wanted; state in {state.root}")
                    return 0
                if why := hopeless(snapshot):
                    return give_up(state, detached.process, snapshot, why)
            if time.monotonic() > deadline:
                why = f"no worker was ready within {settings.startup_timeout:g} s"
                return give_up(state, detached.process, snapshot, why)
            time.sleep(_LOOK_EVERY)


def snapshot_of(supervisor: ClusterClient) -> dict[str, Any] | None:
    """None where it does not answer."""
    try:
        return supervisor.snapshot()
    except ClusterError:
        return None


def _balancer_answers(settings: Settings, state: StateDir, on_demand: bool) -> bool:
    """``on_demand``: no worker is there before somebody asks for one."""
    if settings.tls_client_ca is not None:
        return state.tls.exists()  # it has one to serve; to be answered we would need one that it asks for
    verify = kept_certificate(state.tls) if settings.tls_cert is not None else None
    with ClusterClient(settings.url(), timeout=5.0, verify=verify) as cluster:
        if not on_demand:
            return cluster.healthy()
        try:
            return bool(cluster.models())
        except ClusterError as error:
            return error.status in (401, 403)  # it answers, and we have no key for models


def give_up(state: StateDir, process: subprocess.Popen[bytes], snapshot: dict[str, Any] | None, why: str) -> int:
    """Nothing is left running: a cluster that nobody waits for any more helps nobody."""
    say(f"error: {why}", err=True)
    for line in last_words(state, snapshot):
        say(line, err=True)
    if not held(state):  # it has started nothing yet, and must not once we have looked for what there is
        process.kill()
        process.wait()
    if process.poll() is None or state.database.exists():
        bring_down(state, now=True, quiet=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GONE_S)  # it lets go of its lock a moment before it is gone itself
    return 1
