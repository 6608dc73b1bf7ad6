"""What the supervisor knows of one worker: changed by `cluster.fleet.fleet` alone but for the adapters that it holds,
which its agent (`cluster.adapters.agent`) writes down. Pure."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.fleet.groups import group_of, number_of
from cluster.fleet.restart import History
from cluster.fleet.states import TRANSITIONS, IllegalTransition, InstanceObserved, WorkerState
from worker.drivers.base import LOCAL, Handle
from worker.spec import Slot, WorkerEndpoint, WorkerSpec


@dataclass(slots=True)
class Refusal:
    """What a worker said to an adapter that the others hold. ``retry_at`` in seconds of the agent's clock."""

    reason: str
    path: str
    attempts: int
    retry_at: float


@dataclass(slots=True)
class HeldAdapters:
    """By name: paths of those that are ``loaded``; those ``withheld`` are on their way out and are sent no requests;
    ``refused`` it should hold, and does not take."""

    loaded: dict[str, str] = field(default_factory=dict)
    withheld: set[str] = field(default_factory=set)
    refused: dict[str, Refusal] = field(default_factory=dict)

    def state(self, name: str, wanted: Container[str]) -> str:
        """``loaded``, ``loading``, ``refused``, or ``lazy``: until somebody asks for it. ``wanted``: what it should
        hold."""
        if name in self.loaded:
            return "loading" if name in self.withheld else "loaded"
        if name in self.refused:
            return "refused"
        return "loading" if name in wanted else "lazy"

    def serves(self, name: str) -> bool:
        """Whether it may be sent requests for it."""
        return name in self.loaded and name not in self.withheld

    def reasons(self) -> dict[str, str]:
        """Of the refused ones, in the worker's words."""
        return {name: refusal.reason for name, refusal in self.refused.items()}


@dataclass(slots=True)
class Instance:
    """Monotonic times in seconds; ``started_at`` is wall-clock. ``failure``: why it is being killed although nobody
    wanted it to end. ``adapters``: those it holds; of an adopted worker, those it held when it was last seen.
    ``swept``: the process that ended, whose session is to be emptied. ``drain_version``: the first backend set in
    which the balancer sends it nothing new. ``settings``: the number of those it was started with
    (`cluster.deployment.revisions`). ``hung``: why it is to be killed at once. ``slow``: it was taken out of rotation
    for slowness and has not been back since. ``hangs``: how often it was found hung. ``cause``: of its last end, in a
    word; ``restarted``: how often it was started again, by that; ``start_seconds``: how long its last start took.
    ``driver``: the name of that which starts it. ``dozing``: it is being put to sleep. ``canary``: what it answered
    before it slept, by model (`cluster.models.canary`), from when it falls asleep until it has answered so again.
    More attributes than a class should have: all that is known of one worker stands in one row."""

    id: str
    slot: Slot
    state: WorkerState = WorkerState.STOPPED
    since: float = 0.0
    generation: int = 0
    settings: int = 0
    incarnation: int = 0
    starts: int = 0
    handle: Handle | None = None
    swept: Handle | None = None
    spec: WorkerSpec | None = None
    started_at: float | None = None
    ready_at: float | None = None
    models: tuple[dict[str, Any], ...] = ()
    #: Requests that it computes at a time; None: not known.
    seats: int | None = None
    adapters: HeldAdapters = field(default_factory=HeldAdapters)
    history: History = field(default_factory=History)
    restart_at: float = 0.0
    tree_empty: bool = True
    in_flight: int | None = 0
    drain_version: tuple[int, int] = (0, 0)
    failing_probes: bool = False
    hung: str | None = None
    slow: bool = False
    hangs: int = 0
    cause: str = ""
    restarted: dict[str, int] = field(default_factory=dict)
    start_seconds: float | None = None
    failure: str | None = None
    phase: str = ""
    reason: str = ""
    last_exit: dict[str, Any] | None = None
    driver: str = LOCAL
    dozing: bool = False
    canary: dict[str, Any] = field(default_factory=dict)
    #: The name of its group.
    group: str = field(init=False)

    def __post_init__(self) -> None:
        self.group = group_of(self.id)

    @property
    def number(self) -> int:
        return number_of(self.id)

    def enter(self, state: WorkerState, now: float, reason: str) -> None:
        """Raises IllegalTransition. Entering the state it is in changes only the reason."""
        if state is not self.state:
            if state not in TRANSITIONS[self.state]:
                raise IllegalTransition(f"{self.state} -> {state}")
            self.state, self.since = state, now
        self.reason = reason

    def observed(self, *, cordoned: bool = False, missing_adapters: bool = False) -> InstanceObserved:
        return InstanceObserved(
            id=self.id,
            state=self.state,
            since=self.since,
            generation=self.generation,
            main_alive=self.handle is not None,
            tree_empty=self.tree_empty,
            in_flight=self.in_flight,
            restart_at=self.restart_at,
            failing_probes=self.failing_probes,
            hung=self.hung,
            gpus=self.slot.gpus,
            forked=self.spec is not None and self.spec.zygote is not None,
            cordoned=cordoned,
            missing_adapters=missing_adapters,
            dozing=self.dozing,
        )

    @property
    def endpoint(self) -> WorkerEndpoint | None:
        """Where its present start answers, or the one before did."""
        known = self.handle or self.spec
        return known.endpoint if known else None

    def _process(self) -> dict[str, Any] | None:
        """The main process or, while its session is not empty, the one that was."""
        known = self.handle or (None if self.tree_empty else self.swept)
        return known.identity if known else None

    def record(self) -> dict[str, Any]:
        """What a later supervisor needs to adopt the worker; `restore` reads it. Asked of all workers after every
        change, so fields are named: `dataclasses.asdict` copies each by itself."""
        spec = self.spec
        return {
            "state": str(self.state),
            "generation": self.generation,
            "settings": self.settings,
            "incarnation": self.incarnation,
            "starts": self.starts,
            "restarted": dict(self.restarted),
            "cause": self.cause,
            "start_seconds": self.start_seconds,
            "started_at": self.started_at,
            "process": self._process(),
            "spec": {
                "argv": spec.argv, "cwd": str(spec.cwd), "log": str(spec.log), "run_file": str(spec.run_file),
                "api_key": spec.api_key, "port": spec.endpoint.port, "host": spec.endpoint.host,
                "tls": spec.endpoint.tls,
            } if spec else None,
            "slot": {"gpus": self.slot.gpus, "cores": self.slot.cores, "share": self.slot.share},
            "models": self.models,
            "held": dict(self.adapters.loaded),
            "last_exit": self.last_exit,
            "reason": self.reason,
            "history": {"early": self.history.early, "restarts": self.history.restarts},
        } | ({} if self.driver == LOCAL else {"driver": self.driver}) | {
            name: value for name, value in (("seats", self.seats), ("canary", self.canary)) if value
        }


def restore(name: str, record: dict[str, Any], now: float) -> Instance:
    """The instance that `Instance.record` described, without a handle: whether it runs is for the caller to see.
    Raises KeyError/TypeError/ValueError for what is no such record."""
    slot, spec = record["slot"], restored_spec(name, record)
    return Instance(
        id=name,
        slot=Slot(tuple(slot["gpus"]), tuple(tuple(c) for c in slot["cores"]), slot["share"]),
        state=WorkerState(record["state"]),
        since=now,
        generation=record["generation"],
        settings=record.get("settings", 0),
        incarnation=record["incarnation"],
        starts=record["starts"],
        restarted=dict(record.get("restarted", {})),
        cause=record.get("cause", ""),
        start_seconds=record.get("start_seconds"),
        started_at=record["started_at"],
        spec=spec,
        models=tuple(record["models"]),
        seats=record.get("seats"),
        adapters=HeldAdapters(dict(record["held"])),
        last_exit=record["last_exit"],
        reason=record["reason"],
        history=History(**record["history"]),
        driver=record.get("driver", LOCAL),
        canary=dict(record.get("canary", {})),
    )


def restored_spec(name: str, record: dict[str, Any]) -> WorkerSpec | None:
    """By which the worker of ``record`` was started last, if it was. Raises like `restore`."""
    kept = record["spec"]
    if not kept:
        return None
    where = {key: kept[key] for key in ("port", "host", "tls") if key in kept}
    return WorkerSpec(
        id=name, incarnation=record["incarnation"], argv=tuple(kept["argv"]), env={}, cwd=Path(kept["cwd"]),
        log=Path(kept["log"]), run_file=Path(kept["run_file"]), endpoint=WorkerEndpoint(**where),
        api_key=kept["api_key"],
    )
