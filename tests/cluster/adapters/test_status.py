from __future__ import annotations

import pytest

from cluster.adapters.registry import Adapter, Registry, Version
from cluster.adapters.status import MOST, OTHER, Held, states


def registry(*names: str) -> Registry:
    version = Version(2, "h", "/p", 8, (), None, "/s", 1, 0.0)
    return Registry({name: Adapter(name, 2, (version,)) for name in names})


@pytest.mark.parametrize(
    ("held", "state"),
    [
        (Held({"poet"}, {"poet"}, (), ()), "loaded"),
        (Held({"poet"}, {"poet"}, (), {"poet"}), "loading"),
        (Held({"poet"}, (), (), ()), "loading"),
        (Held({"poet"}, (), {"poet"}, ()), "refused"),
        (Held((), (), (), ()), "lazy"),
        (Held({"pirate"}, {"pirate"}, (), ()), "lazy"),
    ],
)
def test_the_state_on_one_worker(held: Held, state: str) -> None:
    assert held.state("poet") == state


def test_workers_are_counted_by_state_with_the_active_version() -> None:
    workers = [Held({"poet"}, {"poet"}, (), ()), Held({"poet"}, {"poet"}, (), ()), Held({"poet"}, (), {"poet"}, ())]
    assert states(registry("poet"), {}, workers) == {
        "poet": {"version": 2, "states": {"loaded": 2, "refused": 1}}
    }
    assert states(registry("poet"), {}, []) == {"poet": {"version": 2, "states": {}}}


def test_so_many_are_named_the_refused_and_the_most_used_first() -> None:
    names = [f"a{number}" for number in range(MOST + 50)]
    used = {name: float(at) for at, name in enumerate(names)}
    found = states(registry(*names), used, [Held(names, names[1:], {"a0"}, ())])
    assert len(found) == MOST + 1
    assert found["a0"]["states"] == {"refused": 1}, "the one that somebody has to see, however seldom it is used"
    assert names[-1] in found and names[1] not in found
    assert found[OTHER] == {"version": None, "states": {"loaded": 50}}
