"""Who asks for a change, and what they may: decided by the balancer, told to the supervisor. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

#: In a request of the balancer to its supervisor: who asked, and with which scopes (`Principal.line`). Whoever comes to
#: the supervisor's socket without it has opened a file that the cluster's user alone can open.
PRINCIPAL_HEADER = "X-Cluster-Principal"

#: And from which address.
PEER_HEADER = "X-Cluster-Peer"


class Scope(StrEnum):
    """What a caller may. ``READ``: see the cluster; ``ADMIN``: change it, within what its owner has set; ``OWNER``:
    settings that run code, name paths or weaken the guard; ``INFERENCE``: ask the models, no management."""

    READ = "read"
    ADMIN = "admin"
    OWNER = "owner"
    INFERENCE = "inference"


#: What comes with each.
_IMPLIED: dict[Scope, frozenset[Scope]] = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.ADMIN: frozenset({Scope.READ, Scope.ADMIN}),
    Scope.OWNER: frozenset(Scope),
    Scope.INFERENCE: frozenset({Scope.INFERENCE}),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """``name``: of visible ASCII characters without a semicolon."""

    name: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        return any(scope in _IMPLIED[own] for own in self.scopes)

    def line(self) -> str:
        """For `PRINCIPAL_HEADER`."""
        return f"{self.name};{','.join(sorted(self.scopes))}"

    @classmethod
    def from_line(cls, line: str) -> Principal:
        """Inverse of `line`. Scopes of another version of this program count for nothing."""
        name, _, scopes = line.partition(";")
        return cls(name, _known(scopes.split(",")))


def _known(words: Iterable[str]) -> frozenset[Scope]:
    return frozenset(Scope(word) for word in words if word in set(Scope))


def owner(name: str) -> Principal:
    """One who may do everything."""
    return Principal(name, frozenset({Scope.OWNER}))


#: Who needs to be nobody in particular.
ANYBODY = Principal("anybody", frozenset())
