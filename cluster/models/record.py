"""What is known of one model beside its workers: who asks for it, and how its starts went. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from config.backoff import doubled

#: Seconds until a model whose start failed is started again: doubled with each failure in a row.
_RETRY_FIRST, _RETRY_MOST = 5.0, 300.0


@dataclass(slots=True)
class ModelUse:
    """What balancers say of its requests. ``oldest``: s that the one has waited that waits longest; ``latest``: when
    one was last there (s since the epoch)."""

    in_flight: int = 0
    waiting: int = 0
    oldest: float = 0.0
    latest: float | None = None

    def add(self, in_flight: int, waiting: int, oldest: float, latest: float) -> None:
        """What another balancer says."""
        self.in_flight, self.waiting = self.in_flight + in_flight, self.waiting + waiting
        self.oldest, self.latest = max(self.oldest, oldest), max(self.latest or 0.0, latest) or None


@dataclass(slots=True)
class ModelRecord:
    """``up_since``: s, monotonic; None while no worker of it answers. ``retry_at``: no start before that (s, monotonic;
    ``retry_wall``: s since the epoch), for ``why``, the reason of the latest that failed; ``failures`` in a row.
    ``starts``: how often it was brought up; ``asked_at``: when a balancer last asked for that (s, monotonic),
    ``wanted``: a person did, and it has not come to anything yet."""

    use: ModelUse = field(default_factory=ModelUse)
    asked_at: float | None = None
    wanted: bool = False
    up_since: float | None = None
    starts: int = 0
    failures: int = 0
    why: str = ""
    retry_at: float = 0.0
    retry_wall: float = 0.0

    def failed(self, why: str, now: float, wall: float) -> None:
        """Its start did."""
        pause = doubled(_RETRY_FIRST, _RETRY_MOST, self.failures)
        self.why, self.retry_at, self.retry_wall = why, now + pause, wall + pause
        self.failures, self.up_since, self.wanted = self.failures + 1, None, False

    def answers(self, now: float) -> None:
        """A worker of it does."""
        self.wanted = False
        if self.up_since is None:
            self.up_since, self.failures, self.why = now, 0, ""
            self.retry_at = self.retry_wall = 0.0

    def gone(self) -> None:
        """None of its workers is wanted any more. Whoever still asks for it says so again."""
        self.up_since, self.wanted, self.asked_at = None, False, None


class ModelRecords:
    """By model, made when they are first asked for."""

    def __init__(self) -> None:
        self._records: dict[str, ModelRecord] = {}

    def of(self, name: str) -> ModelRecord:
        return self._records.setdefault(name, ModelRecord())

    def forget(self, name: str) -> None:
        self._records.pop(name, None)
