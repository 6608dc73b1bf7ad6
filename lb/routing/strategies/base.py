"""What a strategy is. Pure: no I/O, no clock, no logging; randomness is handed in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random
from typing import Any, ClassVar, Protocol

from lb.routing.backend import Backend
from lb.routing.others import Board

#: A score, or one and what it is made of, as `Strategy.terms` names it.
Score = float | tuple[float, ...]

#: One value a candidate, in their order; or by id, where a strategy looked at some of them only.
Scores = Sequence[Score] | Mapping[str, Score]

#: The chosen one and, where a strategy compares, new scores. They are kept by reference with each request, so that
#: somebody can ask later why it went where it went.
Choice = tuple[Backend, Scores | None]


class Feature(Enum):
    """What can be known of a request, and is looked up only where the strategy in force needs it."""

    ADAPTER = auto()
    PROMPT = auto()
    SESSION = auto()
    BLOCKS = auto()


@dataclass(frozen=True, slots=True)
class Features:
    """None: not asked for, or the request has none. ``prompt`` is a hash of how its prompt begins. ``tokens`` is about
    how long it is, ``blocks`` are hashes of its first block, its first two, and so on, for this adapter. ``stream``:
    the first byte of the answer tells when its first token was made. Each request has one of its own."""

    adapter: str | None = None
    prompt: int | None = None
    session: str | None = None
    tokens: int = 0
    blocks: tuple[int, ...] = ()
    stream: bool = False


@dataclass(slots=True)
class QueueStay:
    """One stay of a request in the queue: from then on, until it was over (s, monotonic). As it came ``ahead`` others
    of its class waited, and the next turn was that of the key ``behind``, empty if it was its own. ``absent``: the
    model that was not up."""

    since: float
    ahead: int
    behind: str
    absent: str | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class AttemptOutcome:
    """How an attempt on the incarnation ``backend`` (id, incarnation) ended. ``status`` is 0 if it came to nothing,
    for ``cause`` (`lb.protocol.failures.Consequence`), and 499 if the client left. Times are s. ``tokens``: about so
    many were made, 0: not known."""

    backend: tuple[str, int]
    features: Features
    status: int
    seconds: float
    first_byte: float | None = None
    cause: str = ""
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class NoParams:
    """Of a strategy that cannot be adjusted."""


class Holdings(Protocol):
    """What one worker is taken to hold: adapters with requests under way, and how many; those in its slots, and in host
    memory. ``slots``: how many it computes at a time, None for any number."""

    @property
    def slots(self) -> int | None: ...
    @property
    def active(self) -> Mapping[str, int]: ...
    @property
    def resident(self) -> Collection[str]: ...
    @property
    def held(self) -> Collection[str]: ...


class Strategy:
    """One file each in this folder, named as in `config.topology.STRATEGIES`. ``rule`` says in words how it chooses,
    ``measure`` what the scores are, ``terms`` what they are made of, where that is kept, ``needs`` which features it is
    told. ``Params`` are its adjustments, with defaults: a frozen dataclass that raises ValueError for what makes no
    sense. What it keeps by backend it keeps by `Backend.key`: a restarted worker is a new one."""

    name: ClassVar[str]
    rule: ClassVar[str]
    measure: ClassVar[str] = ""
    terms: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[frozenset[Feature]] = frozenset()
    Params: ClassVar[type] = NoParams

    def __init_subclass__(cls) -> None:
        cls.name = cls.__module__.rpartition(".")[2]

    def __init__(self, random: Random, params: Any = None) -> None:
        """``params``: an instance of `Params`; the defaults without."""
        self.random, self.params = random, params or self.Params()

    def choose(self, candidates: Sequence[Backend], features: Features) -> Choice:
        """One of ``candidates``: at least one, all available, in a steady order. Where there is a single one nobody is
        asked, but `observe` is called all the same."""
        raise NotImplementedError

    def sent(self, backend: Backend, features: Features) -> None:
        """An attempt begins, whoever chose its backend."""

    def began(self, backend: tuple[str, int], features: Features, seconds: float) -> None:
        """Its answer begins, so many ``seconds`` later."""

    def observe(self, outcome: AttemptOutcome) -> None:
        """An attempt is over, whoever chose its backend."""

    def holdings(self) -> Mapping[tuple[str, int], Holdings]:
        """By `Backend.key`, where that is followed."""
        return {}

    def unread(self) -> float:
        """Seconds of one worker's time that the prompts take which were sent and are not read yet; 0 where that is
        not learnt."""
        return 0.0

    def worth_moving(
        self, backend: Backend, others: Sequence[Backend], stream: Features, waiting: int
    ) -> bool:
        """Whether a running ``stream``, with all its tokens so far, is to go on on one of ``others``, so that its
        adapter's slot on ``backend`` is free: ``waiting`` requests there have adapters without one."""
        return False

    def meets(self, board: Board) -> None:
        """There are other balancers, which tell each other of attempts there."""

    def hear(self) -> None:
        """Looks for what they have told; called a few times a second."""

    def joined(self, backend: Backend) -> None:
        """It is there from now on, in rotation or not."""

    def left(self, backend: Backend) -> None:
        """That incarnation is gone."""

    def placed(self, homes: Mapping[str, Sequence[str]], ranks: Mapping[str, int]) -> None:
        """By adapter, the ids of the backends where it belongs, and its rank."""


#: The candidates, what chose among them (None where there was nothing to choose) and its scores.
Decision = tuple[Sequence[Backend], Strategy | None, Scores | None]


@dataclass
class RequestInfo:
    """What routing knows of a request. ``root``: the version of the model that it has to be, as its card names it;
    None: any. ``first_name``: of its model, where that has several (`Pool.first_name`).

    The rest is how it was routed, for `lb.records.decision_log`: ``decision`` says who could have taken the latest
    attempt, ``steps`` are the attempts that came to nothing, ``stays`` those in the queue, ``asked`` is the route or
    alias that chose the model and ``chosen`` why, and ``notes`` is what observers keep with it until it is over."""

    model: str | None = None
    path: str = ""
    id: str = ""
    # Not set with each request: most are over without the others.
    root: str | None = field(default=None, init=False)
    first_name: str | None = field(default=None, init=False)
    features: Features = field(default=Features(), init=False)
    first_byte: float | None = field(default=None, init=False)  # s after the latest attempt began, if that is observed
    decision: Decision | None = field(default=None, init=False)
    steps: tuple[Any, ...] = field(default=(), init=False)
    stays: tuple[QueueStay, ...] = field(default=(), init=False)
    asked: str | None = field(default=None, init=False)
    chosen: str | None = field(default=None, init=False)
    notes: Any = field(default=None, init=False)
