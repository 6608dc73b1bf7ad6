"""The sockets that clients connect to: made once in the life of a cluster."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace

from config.errors import UsageError
from config.topology import BalancerConfig


@dataclass
class Listeners:
    """Of the cluster, once they are there: ``grpc`` only where gRPC is spoken."""

    http: socket.socket | None = None
    grpc: socket.socket | None = None

    @classmethod
    def handed_over(cls, sockets: Sequence[socket.socket]) -> Listeners:
        """By a balancer, as `config.link.receive_listeners` gets them."""
        return cls(*sockets)

    def make(self, host: str, port: int, grpc_port: int | None) -> bool:
        """Those that are not there yet; one that nobody is to serve any more is closed. Whether gRPC is spoken on
        another port from now on: whoever serves the one before is to be replaced. Raises UsageError."""
        if self.http is None:
            self.http = listen(host, port)
        before = self.grpc
        moved = bool(before is not None and grpc_port and before.getsockname()[1] != grpc_port)
        if grpc_port is not None and (before is None or moved):
            self.grpc = listen(host, grpc_port)
        elif grpc_port is None:
            self.grpc = None
        if before is not None and before is not self.grpc:
            before.close()
        return moved

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a balancer process inherits."""
        return tuple(each.fileno() for each in (self.http, self.grpc) if each is not None)

    def told(self, config: BalancerConfig) -> BalancerConfig:
        """``config`` for a process that inherits them."""
        assert self.http is not None
        grpc = None if self.grpc is None or config.grpc_fd is None else self.grpc.fileno()
        return replace(config, listen_fd=self.http.fileno(), grpc_fd=grpc)

    def refuse(self) -> None:
        """Whoever connects from now on is refused, although balancer processes hold these sockets, too; nobody may take
        connections from them any more."""
        for each in (self.http, self.grpc):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        for each in (self.http, self.grpc):
            if each is not None:
                each.close()


def listen(host: str, port: int) -> socket.socket:
    """Raises UsageError where the address cannot be had."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise UsageError(f"--host {host}: {error.strerror}") from None
    except UnicodeError:
        raise UsageError(f"--host {host}: not a host name") from None
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(4096)
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    listener.setblocking(False)
    return listener
