"""``python -m worker.agent HOME HOST LEASE``: returns once an agent listens, whose address is in ``HOME/agent.json``.

The key is in the environment (`protocol.KEY`). What goes on is a daemon of two processes: one that holds the listening
socket and starts the agent again should it be killed, and the agent. Neither is a child of who called, as whoever that
is (an actor of Ray) may be killed with all its children.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

from config.disk.files import replacing
from worker.drivers import proc
from worker.drivers.remote import agent_home as homes
from worker.drivers.remote import protocol

#: Seconds between two starts of an agent that ends by itself.
_AGAIN_S = 0.5


def main() -> None:
    root, host, lease = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    key = os.environ[protocol.KEY]
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with homes.locked(root):
        if homes.read(root, key) is not None:
            return
        listener = socket.create_server((host, 0), backlog=128)
        if os.fork() != 0:
            os._exit(_wait(root, key))
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        _detach(root, listener.fileno())  # which lets go of the lock, too
        _write_down(root, host, listener, key)
        os._exit(_keep(root, host, lease, listener))


def _write_down(root: Path, host: str, listener: socket.socket, key: str) -> None:
    own = proc.stat(os.getpid())
    with replacing(root / homes.FILE) as file:
        file.write(json.dumps({
            "host": host, "port": listener.getsockname()[1], "pid": os.getpid(), "key": key,
            "start_ticks": own.start_ticks if own else 0,
        }).encode())  # fmt: skip


def _wait(root: Path, key: str) -> int:
    """For the daemon to have written where it listens."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        if homes.read(root, key) is not None:
            return 0
        time.sleep(0.01)
    return 1


def _detach(root: Path, listener: int) -> None:
    log = os.open(root / "agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in ((0, nothing), (1, log), (2, log)):
        os.dup2(descriptor, number)
    os.chdir(root)
    # Nothing else of who called is kept: sockets of an actor, pipes that somebody waits on.
    os.closerange(3, listener)
    os.closerange(listener + 1, os.sysconf("SC_OPEN_MAX"))


def _keep(root: Path, host: str, lease: float, listener: socket.socket) -> int:
    """Has one agent run until it ends because all is over."""
    listener.set_inheritable(True)
    argv = [sys.executable, "-m", "worker.agent.run", str(root), host, str(lease), str(listener.fileno())]
    while True:
        pid = os.posix_spawn(sys.executable, argv, os.environ)
        _, status = os.waitpid(pid, 0)
        if os.waitstatus_to_exitcode(status) == 0:
            (root / homes.FILE).unlink(missing_ok=True)
            return 0
        time.sleep(_AGAIN_S)


if __name__ == "__main__":
    main()
