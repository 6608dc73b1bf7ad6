"""The actor that Ray places on each node. All it does is to see that the node's agent runs, which outlives it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from worker.drivers.remote import agent_home as home
from worker.drivers.remote import protocol

#: How long (s) an agent may take to listen.
_START_S = 30.0

#: What of the environment an agent keeps: Ray's own, and the GPUs that Ray hides from an actor, are not for workers.
_KEPT = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "TZ")


class NodeActor:
    """One a node."""

    def port(self, name: str, host: str, key: str, lease: float) -> int:
        """Of the agent of the cluster ``name`` there, which listens on ``host``. Raises OSError and
        CalledProcessError."""
        root = folder(name, host)
        if (found := home.read(root, key)) is None:
            root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            env = {name: os.environ[name] for name in _KEPT if name in os.environ}
            argv = [sys.executable, "-m", "worker.agent", str(root), host, str(lease)]
            subprocess.run(argv, env={**env, protocol.KEY: key}, check=True, timeout=_START_S)
            found = home.read(root, key)
        if found is None:
            raise OSError(f"no agent came up in {root}: see agent.log there")
        return found.port


def folder(name: str, host: str) -> Path:
    """Where the agent of a node keeps what it has: the host is part of it, as homes may be shared between machines."""
    return Path.home() / ".cache" / "clusterctl" / "agents" / name / host.replace(":", "_")
