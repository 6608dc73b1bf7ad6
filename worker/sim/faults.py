"""Faults: what may go wrong, when, and for whom. Pure; `now` is a monotonic time in seconds.

A fault fires at once (``die``, ``hang`` …) or when a stream has sent ``after_chunks`` chunks; ``count`` ends
it after so many firings and ``for_s`` after so many seconds. ``garbage`` comes in place of an answer or, with
``after_chunks``, in the middle of a stream. ``poison`` is for life: a request whose prompt holds ``text`` kills every
worker that has it on, so it belongs on the command line. With ``kills=engine`` the engine alone dies of it, as vLLM's
does: its API server answers 500 for a moment, and exits with 0. With ``drop_lora`` an adapter loads and changes
nothing, as where vLLM uses none of its modules. With ``forget_lora`` a worker that was woken applies none any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.sim.engine.tokens import decode
from worker.sim.errors import ApiError

# Faults of the whole process; with `after_chunks` they wait for a stream to get that far.
PROCESS = frozenset({"die", "exit0", "hang", "refuse"})
# Faults of one stream, after some chunks.
STREAM = frozenset({"stall", "error_event", "abort", "reset"})
# Faults of one request, before it is answered.
REQUEST = frozenset({"error500", "garbage", "refuse_lora", "slow_lora", "drop_lora", "slow_health", "forget_lora"})
KINDS = PROCESS | STREAM | REQUEST | {"slow", "poison"}
# Those that may wait for a stream to have sent so many chunks.
_LATE = PROCESS | STREAM | {"garbage"}
_OPTIONS = {
    "after_chunks": int, "count": int, "for_s": float, "factor": float, "delay_s": float, "text": str, "kills": str,
}  # fmt: skip
_VICTIMS = ("process", "engine")


@dataclass(slots=True)
class Fault:
    """One active fault; times in seconds."""

    kind: str
    after_chunks: int | None = None
    count: int | None = None
    until: float | None = None
    # slow: how many times slower; slow_lora and slow_health: how much later.
    factor: float = 10.0
    delay_s: float = 5.0
    # poison: what the prompt holds, and whether the process dies or its engine only.
    text: str = "poison"
    kills: str = "process"

    @property
    def key(self) -> str:
        """What an older one gives way for: its kind, of poison the text too."""
        return f"{self.kind} {self.text}" if self.kind == "poison" else self.kind

    def as_json(self, now: float) -> dict[str, Any]:
        """The fault as the control route shows it."""
        left = None if self.until is None else max(0.0, self.until - now)
        return {"kind": self.kind, "after_chunks": self.after_chunks, "count": self.count, "left_s": left}


def parse(options: Mapping[str, Any], now: float) -> Fault:
    """A fault from the fields of a request; raises `ApiError` for what is unknown."""
    kind = options.get("kind")
    if kind not in KINDS:
        raise ApiError(f"unknown fault kind {kind!r}; known: {', '.join(sorted(KINDS))}", param="kind")
    given: dict[str, Any] = {}
    for name, value in options.items():
        if name == "kind" or value is None:
            continue
        if name not in _OPTIONS:
            raise ApiError(f"unknown option {name!r}; known: {', '.join(_OPTIONS)}", param=name)
        try:
            given[name] = _OPTIONS[name](value)
        except (TypeError, ValueError):
            raise ApiError(f"{name} must be a number, got {value!r}", param=name) from None
    if given.get("kills", _VICTIMS[0]) not in _VICTIMS:
        raise ApiError(f"kills must be one of {', '.join(_VICTIMS)}, got {given['kills']!r}", param="kills")
    seconds = given.pop("for_s", None)
    if kind in STREAM:
        given.setdefault("after_chunks", 1)
    return Fault(kind, until=None if seconds is None else now + seconds, **given)


def parse_text(text: str, now: float) -> Fault:
    """A fault from the command line: ``KIND[:name=value...]``."""
    kind, *pairs = text.split(":")
    options: dict[str, Any] = {"kind": kind}
    for pair in pairs:
        name, _, value = pair.partition("=")
        options[name] = value
    return parse(options, now)


class FaultBox:
    """The active faults, at most one of each kind, and of each poison."""

    def __init__(self) -> None:
        self._faults: dict[str, Fault] = {}

    def put(self, fault: Fault) -> None:
        """Switch a fault on, in place of an older one of its kind."""
        self._faults[fault.key] = fault

    def clear(self, kind: str | None = None) -> None:
        """Switch all off, or the one of that kind."""
        self._faults = {key: fault for key, fault in self._faults.items() if kind not in (None, fault.kind)}

    def active(self, now: float) -> list[Fault]:
        """All that are on."""
        return [fault for kind in list(self._faults) if (fault := self.get(kind, now))]

    def get(self, kind: str, now: float) -> Fault | None:
        """The fault of that kind, if it is on; does not count as a firing."""
        fault = self._faults.get(kind)
        if fault is not None and fault.until is not None and now >= fault.until:
            del self._faults[kind]
            return None
        return fault

    def fire(self, kind: str, now: float) -> Fault | None:
        """The fault of that kind, if it is on; counts as a firing."""
        fault = self.get(kind, now)
        if fault is not None and fault.count is not None:
            fault.count -= 1
            if fault.count <= 0:
                del self._faults[kind]
        return fault

    def poison(self, prompts: Iterable[Sequence[int]], now: float) -> Fault | None:
        """The fault ``poison`` whose text one of ``prompts`` (token ids) holds, if there is one."""
        poisons = [fault for fault in self.active(now) if fault.kind == "poison"]
        texts = [decode(ids) for ids in prompts] if poisons else []
        return next((fault for fault in poisons if any(fault.text in text for text in texts)), None)

    def due(self, chunks: int, now: float) -> Fault | None:
        """The fault that hits a stream that has sent ``chunks`` chunks; counts as a firing."""
        if not self._faults:
            return None
        for fault in list(self._faults.values()):
            if fault.after_chunks is None or fault.kind not in _LATE:
                continue
            if chunks >= fault.after_chunks and self.get(fault.kind, now):
                return self.fire(fault.kind, now)
        return None
