"""A joined machine's process from its start to its end. ``python -m cluster.joining.runtime FILE`` is the one behind
`balancer --join --detach`, with its options in FILE."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from cluster.balancers.drain import end_adopted
from cluster.balancers.standby import end_left
from cluster.joining.agent import MEMBER, TOLD, JoinAgent, drain_timeout, emit
from cluster.joining.machine_reports import MachineReports
from cluster.joining.options import JoinOptions
from cluster.storage.lock import lock
from cluster.storage.store import Store
from config import logs
from config.disk import private
from config.disk.files import rewrite
from config.errors import UsageError
from config.paths import StateDir
from worker.drivers import proc, run_file

#: Bytes that are taken for how it was started, so that a full disk later is none here.
_ROOM = 4096


def run(options: JoinOptions) -> None:
    """In the foreground, as `serve`."""
    logs.set_up("text", "info", text="%(asctime)s %(message)s", time="%Y-%m-%d %H:%M:%S")
    asyncio.run(serve(options))


async def serve(options: JoinOptions) -> None:
    """Until SIGINT, SIGTERM or `down`. Raises UsageError where this machine cannot join, or was evicted."""
    options.check()
    state = options.state
    state.create()
    with lock(state):
        if not state.joined.exists() and balancers(state):
            raise UsageError(f"a cluster of this machine was left running on {state.root}: `clusterctl down` ends it")
        store = await Store.open(state.database)
        try:
            await end_left(state, store)
            agent = JoinAgent(options, store, await store.get(MEMBER), await store.get(TOLD))
            _note(options)
            await agent.run()
        finally:
            _forget(state)
            await store.close()


async def end(state: StateDir, now: bool = False) -> None:
    """Ends the balancers that a process which is gone left running on ``state``; ``now``: with all that is in flight.
    Raises UsageError if another one lives."""
    with lock(state):
        store = await Store.open(state.database)
        try:
            await end_left(state, store)
            hurry = asyncio.Event()
            if now:
                hurry.set()
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, hurry.set)
            timeout = drain_timeout(await store.get(TOLD))
            await end_adopted(state, store, MachineReports(lambda message: None), emit, timeout, hurry)
            state.control.unlink(missing_ok=True)
            _forget(state)
        finally:
            await store.close()


def balancers(state: StateDir) -> list[int]:
    """The pids of balancer processes that run on ``state``, whoever started them; not of a standby, which nobody can
    reach."""
    files = sorted(file for file in state.runs.glob("lb-*") if state.link(file.name).exists())
    started = map(run_file.read, files)
    return [process.pid for process in started if process is not None and proc.alive(process)]


def joined(state: StateDir) -> JoinOptions | None:
    """How the balancers were started that have joined from ``state``, and run or were left; None where none were."""
    try:
        return JoinOptions.from_json(json.loads(private.read(state.joined)))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _note(options: JoinOptions) -> None:
    """Raises UsageError."""
    told = {**options.to_json(), "token": None}
    try:
        rewrite(options.state.joined, json.dumps(told).encode(), _ROOM)
    except OSError as error:
        raise UsageError(f"{options.state.joined}: {error.strerror}") from None


def _forget(state: StateDir) -> None:
    """Once nothing of it runs any more."""
    if not balancers(state):
        state.joined.unlink(missing_ok=True)
        state.tls.unlink(missing_ok=True)  # nothing is served any more that a command could trust


def main() -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it has no terminal; some send it for "read your settings again"
    file = Path(sys.argv[1])
    options = JoinOptions.from_json(json.loads(private.read(file)))
    file.unlink()  # with the token
    try:
        run(options)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
