"""Policies side by side: what load each carries, and who is best as things vary."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from cluster.adapters.homes import Homes
from lb.routing.strategies.base import Strategy
from lb.routing.strategies.registry import STRATEGIES
from sim.moves import MovingRun
from sim.policies.adapter_hash import AdapterHash
from sim.policies.cache_aware import CacheAware
from sim.policies.gateway_scorer import GatewayScorer
from sim.policies.informed import KNOWING
from sim.policies.kv_cost import KvCost
from sim.policies.rank_aware import RankAware
from sim.policies.tokens_times_batch import TokensTimesBatch
from sim.scenarios import Scenario, Workload, sweep
from sim.simulation import Result, Setting, run
from sim.traces import TraceRow

#: What is compared, by the names that the table shows. `prefix_affinity` and `adapter_affinity` are hashes with bounded
#: loads: by the prompt's beginning, as KubeAI has it, and by the adapter alone.
POLICIES: Mapping[str, Callable[[Random], Strategy]] = {
    "least connections": STRATEGIES["least_connections"],
    "power of two": STRATEGIES["power_of_two"],
    "bounded-load hash (prefix)": STRATEGIES["prefix_affinity"],
    "cache-aware": CacheAware,
    "gateway scorers": GatewayScorer,
    "KV cost": KvCost,
    "new tokens x batch": TokensTimesBatch,
    "rank-aware": RankAware,
    "adapter hash": AdapterHash,
    "bounded-load hash (adapter)": STRATEGIES["adapter_affinity"],
    "adaptive": STRATEGIES["adaptive"],
}

OURS = "adaptive"

#: And with homes, as a supervisor says them (`cluster.adapters.homes`).
SETTLED = f"{OURS}, with homes"

#: A request is good within both, s and s a token after the first.
TTFT, TPOT = 2.0, 0.05

#: Speeds among which the one that a policy sustains is looked for, and to what it is narrowed down.
_SLOWEST, _FASTEST, _EXACT = 0.125, 32.0, 1.01


@dataclass(frozen=True, slots=True)
class Sustained:
    """``speed``: so many times that of the trace, the most at which ``share`` of the requests are good; ``result`` is
    what came of it. None: not even at the slowest."""

    speed: float
    result: Result | None


def sustained(
    workload: Workload, policy: Callable[[Random], Strategy], setting: Setting, share: float,
    homes: Callable[[], Homes | None] = lambda: None,
) -> Sustained:  # fmt: skip
    """By halving, as more load is never better by much."""
    low, high, found = _SLOWEST, _FASTEST, Sustained(0.0, None)
    while high / low > _EXACT:
        speed = math.sqrt(low * high)
        result = run(workload.at(speed), policy, setting, homes())
        if result.goodput(TTFT, TPOT) >= share:
            low, found = speed, Sustained(speed, result)
        else:
            high = speed
    return found


def informed(workload: Workload, setting: Setting, share: float = 0.9) -> Iterator[tuple[str, Sustained, float]]:
    """What `adaptive` sustains with knowledge of engines that it infers else, and how many of its requests are good at
    the load that it sustains without."""
    speed = 0.0
    for name, policy in {"nothing": POLICIES[OURS], **KNOWING}.items():
        found = sustained(workload, policy, setting, share)
        speed = speed or found.speed
        yield name, found, run(workload.at(speed), policy, setting).goodput(TTFT, TPOT)


def moving(
    rows: Sequence[TraceRow], only: str = "", share: float = 0.9
) -> Iterator[tuple[Scenario, float, Result, Result, int]]:
    """Every scenario of the sweep whose words have ``only``, at the load that `adaptive` just sustains: what comes of
    it, and with streams that are moved, so many."""
    for scenario in (each for each in sweep(rows) if only in each.vary and each.workload.count):
        workload, policy = scenario.workload, POLICIES[OURS]
        found = sustained(workload, policy, scenario.setting, share)
        if found.result is not None:
            moves = MovingRun(policy, scenario.setting)
            yield scenario, found.speed, found.result, moves.drive(workload.at(found.speed)), moves.moved


def compare(workload: Workload, setting: Setting, share: float = 0.9) -> Iterator[tuple[str, Sustained]]:
    for name, policy in POLICIES.items():
        yield name, sustained(workload, policy, setting, share)
    yield SETTLED, sustained(workload, POLICIES[OURS], setting, share, Homes)


@dataclass(frozen=True, slots=True)
class Row:
    """Of one scenario at the load that the best of the peers' policies just sustains times ``factor``: goodput by
    policy."""

    scenario: Scenario
    speed: float
    goodput: Mapping[str, float]

    @property
    def best(self) -> str:
        """Of the others."""
        return max((name for name in self.goodput if name != OURS), key=lambda name: self.goodput[name])


def vary(rows: Sequence[TraceRow], factor: float, only: str = "", share: float = 0.9) -> Iterator[Row]:
    """Every scenario of the sweep whose words have ``only``, where the best peer is at its limit."""
    for scenario in (each for each in sweep(rows) if only in each.vary):
        peers = {name: policy for name, policy in POLICIES.items() if name != OURS}
        speed = factor * max(
            sustained(scenario.workload, policy, scenario.setting, share).speed for policy in peers.values()
        )
        goodput = {
            name: run(scenario.workload.at(speed), policy, scenario.setting).goodput(TTFT, TPOT)
            for name, policy in POLICIES.items()
        }
        yield Row(scenario, speed, goodput)
