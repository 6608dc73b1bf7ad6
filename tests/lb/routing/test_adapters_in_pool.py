"""Adapters in the pool: who has one, who could have it, and what a name means."""

from __future__ import annotations

from pathlib import Path

import pytest

from lb.routing.pool import Pool
from lb.telemetry.shared_counters import ADAPTER, Counters
from lbfakes import backend_set, card, spec


def pool(*specs: object, registered: tuple[str, ...] = (), revision: int = 1) -> Pool:
    made = Pool()
    push(made, *specs, registered=registered, revision=revision)
    return made


def push(made: Pool, *specs: object, registered: tuple[str, ...] = (), revision: int = 2) -> None:
    cards = tuple(card(name, "base") for name in registered)
    assert made.apply(backend_set(*specs, revision=revision, registered=cards))  # type: ignore[arg-type]


def ids(made: Pool, model: str) -> list[str]:
    return [backend.id for backend in made.candidates(model, (), 0.0)]


def test_a_registered_adapter_is_known_though_nobody_holds_it() -> None:
    made = pool(spec(), registered=("poet",))
    assert made.knows("poet") and not made.knows("pirate")
    assert ids(made, "poet") == []
    assert not made.hopeless("poet")


def test_waiting_for_a_registered_one_is_hopeless_where_all_workers_have_failed() -> None:
    assert pool(spec(state="failed"), registered=("poet",)).hopeless("poet")


def test_a_worker_of_somebody_else_gives_no_hope_for_an_adapter() -> None:
    made = pool(spec("attached", managed=False), spec(state="failed"), registered=("poet",))
    assert made.hopeless("poet")


def test_only_who_holds_it_takes_its_requests() -> None:
    made = pool(spec("instance_0"), spec("instance_1", models=("base", "poet")), registered=("poet",))
    assert ids(made, "poet") == ["instance_1"]
    assert ids(made, "base") == ["instance_0", "instance_1"]


def test_who_lacks_it_takes_everything_else() -> None:
    made = pool(spec(models=("base", "poet")), registered=("poet",))
    made.backends["instance_0"].missing_models["poet"] = 1e9
    assert (ids(made, "poet"), ids(made, "base")) == ([], ["instance_0"])
    assert made.knows("poet")


def test_the_supervisors_next_word_makes_who_lacked_it_a_candidate_again() -> None:
    made = pool(spec(models=("base", "poet")), registered=("poet",))
    made.backends["instance_0"].missing_models["poet"] = 1e9
    push(made, spec(models=("base", "poet")), registered=("poet",))
    assert ids(made, "poet") == ["instance_0"]


def test_an_adapter_that_is_registered_no_more_is_not_known() -> None:
    made = pool(spec(), registered=("poet",))
    push(made, spec())
    assert not made.knows("poet")


def test_all_registered_ones_are_listed_once_with_their_parent() -> None:
    made = pool(spec(models=("base", "poet")), registered=("poet", "pirate"))
    assert [(c["id"], c["parent"]) for c in made.models()] == [("base", None), ("poet", "base"), ("pirate", "base")]
    assert made.names() == ["base", "poet", "pirate"]


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("poet", "poet"), ("base:poet", "poet"), ("base_model:poet", "poet"), ("base:nobody", "base:nobody"),
        ("other:poet", "other:poet"), ("base", "base"), (":poet", ":poet"), ("base:", "base:"),
        ("with:colon", "with:colon"),
        ("base:with:colon", "with:colon"), (None, None), ("base_model:", "base_model:"),
    ],
)  # fmt: skip
def test_a_name_behind_the_bases_is_the_adapters(asked: str | None, meant: str | None) -> None:
    assert pool(spec(models=("base",)), registered=("poet", "with:colon")).canonical(asked) == meant


def test_a_name_behind_another_adapters_is_unknown() -> None:
    """The issue: `BASE` is the served name or literally `base_model`."""
    made = pool(spec(models=("base",)), registered=("poet", "pirate"))
    assert made.canonical("pirate:poet") == "pirate:poet"


# what is counted of them


def test_an_adapters_counts_and_last_use_survive_a_reopening(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "c")
    counters.add(f"{ADAPTER}poet", requests=2, errors=1, used_ms=5_000)
    counters.add("poet", requests=7)
    counters.close()
    again = Counters(tmp_path / "c")
    assert again.get(f"{ADAPTER}poet") == (2, 1)
    assert again.last_used(f"{ADAPTER}poet") == 5.0
    assert again.last_used("poet") is None and again.last_used("never") is None
    assert again.names() == ["poet"], "an adapter is no backend"
    again.close()


def test_the_last_use_is_the_latest(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "c")
    for used in (5_000, 9_000, 7_000):
        counters.add(f"{ADAPTER}poet", used_ms=used)
    counters.add(f"{ADAPTER}poet", requests=1)
    assert counters.last_used(f"{ADAPTER}poet") == 9.0
    counters.close()


def test_what_was_used_lately_is_told_once(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "c")
    counters.add(f"{ADAPTER}poet", requests=1, used_ms=5_000)
    counters.add("instance_0", requests=1)
    assert counters.recently_used() == {"poet": 5.0}
    assert counters.recently_used() == {}
    counters.close()


def test_the_longest_adapter_name_is_counted_over_a_reopening(tmp_path: Path) -> None:
    name = ADAPTER + "x" * 128
    for expected in (1, 2):
        counters = Counters(tmp_path / "c")
        counters.add(name, requests=1)
        assert counters.get(name) == (expected, 0)
        counters.close()
