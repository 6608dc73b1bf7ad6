from __future__ import annotations

from collections.abc import Collection

import pytest

from cluster.adapters.registry import Adapter, Registry, Version
from cluster.adapters.report import MOST, OTHER, overall, states
from cluster.fleet.groups import DEFAULT
from cluster.fleet.instance import HeldAdapters, Refusal


def registry(*names: str) -> Registry:
    version = Version(2, "h", "/p", 8, (), None, "/s", 1, 0.0)
    return Registry({name: Adapter(name, 2, (version,)) for name in names})


def held(loaded: Collection[str] = (), refused: Collection[str] = (), withheld: Collection[str] = ()) -> HeldAdapters:
    refusals = {name: Refusal("no", "/p", 1, 0.0) for name in refused}
    return HeldAdapters(dict.fromkeys(loaded, "/p"), set(withheld), refusals)


@pytest.mark.parametrize(
    ("there", "wanted", "state"),
    [
        (held({"poet"}), {"poet"}, "loaded"),
        (held({"poet"}, withheld={"poet"}), {"poet"}, "loading"),
        (held(), {"poet"}, "loading"),
        (held(refused={"poet"}), {"poet"}, "refused"),
        (held(), set(), "lazy"),
        (held({"pirate"}), {"pirate"}, "lazy"),
    ],
)
def test_the_state_on_one_worker(there: HeldAdapters, wanted: set[str], state: str) -> None:
    assert there.state("poet", wanted) == state


@pytest.mark.parametrize(
    ("states", "together"),
    [((), "registered"), (("loaded", "loaded"), "loaded"), (("loaded", "lazy"), "loaded"), (("lazy",), "lazy"),
     (("lazy", "loading"), "loading"), (("loading", "refused"), "refused")],
)  # fmt: skip
def test_the_state_on_all_workers_is_the_one_that_keeps_it_from_being_loaded(
    states: tuple[str, ...], together: str
) -> None:
    assert overall(states) == together


def test_workers_are_counted_by_state_with_the_active_version() -> None:
    workers = [(DEFAULT, one, {"poet"}) for one in (held({"poet"}), held({"poet"}), held(refused={"poet"}))]
    assert states(registry("poet"), {}, workers) == {
        "poet": {"version": 2, "states": {"loaded": 2, "refused": 1}}
    }
    assert states(registry("poet"), {}, []) == {"poet": {"version": 2, "states": {}}}


def test_so_many_are_named_the_refused_and_the_most_used_first() -> None:
    names = [f"a{number}" for number in range(MOST + 50)]
    used = {name: float(at) for at, name in enumerate(names)}
    found = states(registry(*names), used, [(DEFAULT, held(names[1:], {"a0"}), names)])
    assert len(found) == MOST + 1
    assert found["a0"]["states"] == {"refused": 1}, "the one that somebody has to see, however seldom it is used"
    assert names[-1] in found and names[1] not in found
    assert found[OTHER] == {"version": None, "states": {"loaded": 50}}
