"""What several balancers say, as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from cluster.balancers import reports

_BACKENDS = st.sampled_from("abc")


@dataclass(frozen=True)
class Said:
    engaged: bool = True
    version: tuple[int, int] = (1, 1)
    in_flight: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    queued: int = 0
    unread: float = 0.0
    models: Mapping[str, list[float]] = field(default_factory=dict)


_COUNTS = st.integers(0, 50)
_SAID = st.builds(
    Said, version=st.tuples(st.integers(1, 2), _COUNTS), in_flight=st.dictionaries(_BACKENDS, _COUNTS),
    waiting=st.dictionaries(_BACKENDS, st.tuples(_COUNTS, _COUNTS)), queued=_COUNTS,
    models=st.dictionaries(_BACKENDS, st.lists(_COUNTS.map(float), min_size=4, max_size=4)),
)  # fmt: skip


@given(st.lists(_SAID, min_size=1), st.lists(_SAID))
def test_a_machine_says_what_its_processes_would_say_themselves(machine: list[Said], others: list[Said]) -> None:
    told = reports.as_one(machine)
    as_one = Said(
        version=tuple(told["version"]), in_flight=told["in_flight"], waiting=told["waiting"], queued=told["queued"],
        unread=told["unread"], models=told["models"],
    )  # fmt: skip
    for backend in "abc":
        assert reports.load([as_one, *others], backend) == reports.load([*machine, *others], backend)
    assert reports.demand([as_one, *others], "abc", None) == reports.demand([*machine, *others], "abc", None)
    assert reports.models([as_one, *others]) == reports.models([*machine, *others])
    assert min(each.version for each in [as_one, *others]) == min(each.version for each in [*machine, *others])
