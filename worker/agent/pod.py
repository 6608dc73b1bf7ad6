"""``python -m worker.agent.pod HOME HOST PORT KEY-FILE LEASE``: the agent of a pod, in the foreground.

The first process of a container: it holds the listening socket, starts the agent again should that be killed, and takes
in what orphans leave. SIGTERM, with which a pod is asked to end, is handed on to the agent, whose end is its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

from config import bounded
from config.identity import secret
from worker.drivers.remote import protocol

#: Seconds between two starts of an agent.
_AGAIN_S = 0.5


def main() -> None:
    root, host, port, key_file, lease = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]
    try:
        key = secret.clean(bounded.read_text(Path(key_file)))
    except (OSError, ValueError) as error:
        sys.exit(f"the key of agents, {key_file}: {error}")
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=128)
    listener.set_inheritable(True)
    command = ["-m", "worker.agent.run", str(root), host, lease, str(listener.fileno()), "--in-pod"]
    sys.exit(_Keeper([sys.executable, *command], {**os.environ, protocol.KEY: key}).run())


class _Keeper:
    """Has one agent run until it is asked to end."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self._argv, self._env = argv, env
        self._agent, self._ending = 0, False

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        while not self._ending:
            self._agent = os.posix_spawn(sys.executable, self._argv, self._env)
            if self._ending:  # asked in between
                self._end()
            self._wait()
            if not self._ending:
                time.sleep(_AGAIN_S)
        return 0

    def _end(self, *_: object) -> None:
        self._ending = True
        if self._agent:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._agent, signal.SIGTERM)

    def _wait(self) -> None:
        """For the agent, and whatever else has come to be a child of the first process."""
        while True:
            pid, _ = os.waitpid(-1, 0)
            if pid == self._agent:
                self._agent = 0
                return


if __name__ == "__main__":
    main()
