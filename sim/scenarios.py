"""What is asked, of which machines: a trace at some speed with adapters drawn for it; all follows from the seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from sim.simulation import Request, Setting
from sim.traces import AdapterSpec, TraceRow, adapters, with_adapters
from worker.sim.engine.costs import H100_8B

#: Length of a burst and the quiet time after it, s.
_BURST = 60.0


@dataclass(frozen=True)
class Workload:
    """The rows of a trace, each for one of ``count`` adapters of ``ranks`` in turn, popular by ``zipf``; ``bursts``: 1
    leaves the times as they are, with 2 most of each minute comes at its beginning."""

    rows: Sequence[TraceRow]
    count: int = 200
    zipf: float = 1.0
    ranks: tuple[int, ...] = (8, 16, 32, 64)
    bursts: float = 1.0
    seed: int = 1

    @cached_property
    def drawn(self) -> list[int]:
        """The adapter of each row; without any the base model is asked."""
        return with_adapters(self.rows, self.count, self.zipf, self.seed)

    @cached_property
    def adapters(self) -> list[AdapterSpec]:
        return adapters(self.count, self.ranks)

    def at(self, speed: float) -> Iterator[Request]:
        """With all times divided by ``speed``."""
        for row, number in zip(self.rows, self.drawn, strict=True):
            adapter = self.adapters[number] if self.count else None
            blocks = tuple(block * (self.count + 1) + number for block in row.blocks)
            at = _bunched(row.at / speed, self.bursts)
            name, rank = (None, 0) if adapter is None else (adapter.name, adapter.rank)
            yield Request(at, row.prompt, row.output, name, rank, blocks)

    def rare(self) -> frozenset[str]:
        """The half of the adapters that is asked for least."""
        return frozenset(adapter.name for adapter in self.adapters[self.count // 2 :])


def _bunched(at: float, bursts: float) -> float:
    whole, part = divmod(at, _BURST)
    return _BURST * (whole + math.pow(part / _BURST, bursts))


@dataclass(frozen=True, slots=True)
class Scenario:
    """``vary`` tells what is different from the first one."""

    vary: str
    workload: Workload
    setting: Setting = field(default_factory=lambda: Setting(H100_8B))


def spare(rows: Sequence[TraceRow]) -> list[Scenario]:
    """No more adapters than slots."""
    return [
        Scenario(f"{count} adapters, {slots} slots", Workload(rows, count), Setting(H100_8B, slots=slots))
        for count, slots in ((0, 8), (1, 8), (4, 16), (8, 8), (32, 32))
    ]


def sweep(rows: Sequence[TraceRow]) -> list[Scenario]:
    """One thing at a time is changed."""
    base, setting = Workload(rows), Setting(H100_8B)
    found = [Scenario("nothing", base, setting)]
    found += [Scenario(f"{n} slots", base, replace(setting, slots=n)) for n in (1, 2, 4, 16, 32)]
    found += [
        Scenario(f"adapters cost {factor:g} x", base, replace(setting, hardware=H100_8B.with_tax(factor)))
        for factor in (0.1, 0.5, 2.0)
    ]
    found += [Scenario(f"Zipf {zipf:g}", replace(base, zipf=zipf), setting) for zipf in (0.6, 0.8, 1.2, 1.4)]
    found += [Scenario("bursts", replace(base, bursts=2.0), setting)]
    found += [
        Scenario(f"ranks {', '.join(map(str, ranks))}", replace(base, ranks=ranks), setting)
        for ranks in ((16,), (64,), (8, 128))
    ]
    found += [Scenario("all adapters in host memory", base, replace(setting, host_adapters=1000))]
    found += [
        Scenario(f"4 balancers, {stale * 1000:g} ms old", base, replace(setting, balancers=4, stale=stale))
        for stale in (0.0, 0.1, 0.5)
    ]
    found += [Scenario("8 adapters", replace(base, count=8), setting), Scenario("no adapters", replace(base, count=0))]
    return found

