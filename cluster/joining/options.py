"""What is a joined machine's own: where it listens and by which certificate."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from cluster.deployment import extras
from config import tls
from config.errors import UsageError
from config.paths import StateDir
from config.topology import TlsFiles
from config.values.addresses import local_url


@dataclass(frozen=True, slots=True)
class JoinOptions:
    """``supervisor``: host and port at which it lets machines in; ``name`` is the wished one. ``insecure``: listens for
    other machines although nobody needs a key."""

    state: StateDir
    supervisor: tuple[str, int]
    token: str | None = field(repr=False)
    name: str
    host: str
    port: int
    processes: int = 1
    tls: TlsFiles | None = None
    insecure: bool = False
    grpc_port: int | None = None

    def check(self) -> None:
        """Raises UsageError for what would not work on this machine, as `cluster.deployment.plan` does of a cluster."""
        if self.grpc_port == self.port:
            raise UsageError(f"--grpc-port {self.grpc_port} is the port that HTTP is spoken on", exit_code=2)
        extras.check(None, None, self.grpc_port)
        if self.tls is not None:
            tls.check(self.tls, self.state.tls)

    @property
    def url(self) -> str:
        """Where a program of this machine finds the balancers."""
        return local_url(self.host, self.port, self.tls is not None)

    def to_json(self) -> dict[str, Any]:
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        files = None if self.tls is None else asdict(self.tls)
        return {**named, "state": str(self.state.root), "supervisor": list(self.supervisor), "tls": files}

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> JoinOptions:
        """Inverse of `to_json`."""
        host, port = told["supervisor"]
        files = None if told["tls"] is None else TlsFiles(**told["tls"])
        return cls(**{**told, "state": StateDir(Path(told["state"])), "supervisor": (host, port), "tls": files})
