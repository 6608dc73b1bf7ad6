"""Several base models in the pool: which worker is for which, and what is known of one that is not up."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from config.topology import BackendSpec, OfferedModel
from lb.routing.model_offers import ModelOffers
from lb.routing.pool import Pool
from lb.routing.router import Router
from lb.routing.strategies.base import Feature, Features, RequestInfo
from lb.routing.strategies.registry import STRATEGIES
from lbfakes import backend_set, card, spec


def offer(name: str, state: str = "up", **fields: Any) -> OfferedModel:
    names = name, f"{name}-too"
    return OfferedModel(name=name, names=names, group=name, state=state, wait=9.0, **fields)


def worker(model: str, *more: str, **fields: Any) -> BackendSpec:
    return spec(f"{model}/instance_0", models=(model, f"{model}-too", *more), group=model, **fields)


def pool(*specs: BackendSpec, models: tuple[OfferedModel, ...]) -> Pool:
    """``poet`` is an adapter of ``b``."""
    made = Pool()
    assert made.apply(backend_set(*specs, models=models, registered=(card("poet", "b"),)))
    return made


def ids(made: Pool, model: str | None) -> list[str]:
    return [backend.id for backend in made.candidates(model, (), 0.0)]


def test_each_request_goes_to_workers_of_its_model() -> None:
    made = pool(worker("a"), worker("b", "poet"), models=(offer("a", is_default=True), offer("b")))
    assert [ids(made, name) for name in ("a", "a-too", "b", "poet", None)] == [
        ["a/instance_0"], ["a/instance_0"], ["b/instance_0"], ["b/instance_0"], ["a/instance_0"],
    ]  # fmt: skip


def test_a_worker_that_has_not_said_what_it_serves_is_of_its_own_model() -> None:
    made = pool(spec("a/instance_0", models=(), group="a"), models=(offer("a"), offer("b", "down")))
    assert (ids(made, "a"), ids(made, "b")) == (["a/instance_0"], [])


def test_without_a_default_a_request_has_to_name_one() -> None:
    made = pool(worker("a"), worker("b"), models=(offer("a"), offer("b")))
    assert not made.knows(None) and ids(made, None) == []


def test_what_is_not_up_is_known_and_no_more_is() -> None:
    made = pool(models=(offer("a", "down"), offer("b", "failed")))
    assert all(made.knows(name) for name in ("a", "b", "b-too", "poet"))
    assert not made.knows("c") and not made.hopeless("a") and not made.hopeless("poet")


def test_workers_of_another_model_are_no_reason_to_give_up_or_to_hope() -> None:
    made = pool(worker("a", state="failed"), worker("b"), models=(offer("a"), offer("b")))
    assert made.hopeless("a") and not made.hopeless("b")
    gone = pool(worker("a"), worker("b", state="failed"), models=(offer("a"), offer("b")))
    assert gone.hopeless("poet")


def test_an_adapter_may_be_asked_for_behind_its_own_model() -> None:
    made = pool(worker("a"), models=(offer("a", is_default=True), offer("b", "down")))
    assert made.canonical("b:poet") == made.canonical("b-too:poet") == "poet"
    assert made.canonical("a:poet") == "a:poet" and made.canonical("base_model:poet") == "base_model:poet"
    assert not made.knows("a:poet")


def test_a_key_for_the_default_model_may_name_none() -> None:
    made = pool(worker("b"), models=(offer("a", "down", is_default=True), offer("b")))
    assert made.offers(None, frozenset({"a-too"})) and not made.offers(None, frozenset({"b"}))


def test_all_are_listed_with_what_they_do() -> None:
    made = pool(worker("a"), models=(offer("a"), offer("b", "failed", why="no memory")))
    found = {one["id"]: made.offered.status(one) for one in made.models()}
    assert found == {
        "a": {"status": "up"}, "a-too": {"status": "up"}, "b": {"status": "failed", "reason": "no memory"},
        "b-too": {"status": "failed", "reason": "no memory"}, "poet": {"status": "failed", "reason": "no memory"},
    }  # fmt: skip
    assert [one["id"] for one in made.models()][-1] == "poet", "adapters come last"


@pytest.mark.parametrize("state", ["starting", "asleep", "stopping", "down", "failed"])
def test_what_has_to_be_waited_for(state: str) -> None:
    offers = ModelOffers((offer("a"), offer("b", state)), {"poet": card("poet", "b"), "stray": card("stray", "c")})
    assert offers.absent("a") is None and offers.absent("stray") is None and offers.absent("nobody's") is None
    assert offers.absent("b") is offers.absent("poet") is offers.models[1]


def test_where_there_is_one_model_nothing_is_offered() -> None:
    made = Pool()
    made.apply(backend_set(spec()))
    assert not made.offered and made.offered.absent("base") is None and made.knows(None)


# how the workers of each are chosen from


def router(made: Pool, strategy: str = "round_robin") -> Router:
    found = Router(made, lambda version, named: strategy, lambda: 0.0, Random(1))
    found.pool_changed()
    return found


def chosen_by(made: Router, model: str) -> str:
    info = RequestInfo(model)
    made.choose(info, frozenset(), None)
    assert info.decision is not None and info.decision[1] is not None
    return info.decision[1].name


def pairs(*models: str) -> list[BackendSpec]:
    return [
        spec(f"{model}/instance_{n}", models=(model, f"{model}-too"), group=model) for model in models for n in (0, 1)
    ]


def test_a_model_may_have_a_strategy_of_its_own() -> None:
    made = pool(*pairs("a", "b"), models=(offer("a"), offer("b", strategy="least_connections")))
    found = router(made)
    assert [chosen_by(found, name) for name in ("a", "b", "b-too")] == [
        "round_robin", "least_connections", "least_connections",
    ]  # fmt: skip
    assert found.strategy == "round_robin" and not found.observes


def test_what_its_strategy_needs_is_known_and_goes_with_it() -> None:
    made = pool(*pairs("a", "b"), models=(offer("a"), offer("b", strategy="adaptive")))
    found = router(made)
    assert found.observes and Feature.ADAPTER in found.needs
    made.apply(backend_set(*pairs("a", "b"), revision=2, models=(offer("a"), offer("b"))))
    found.pool_changed()
    assert chosen_by(found, "b") == "round_robin" and not found.observes and not found.needs


def test_each_strategy_hears_of_its_own_workers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, str, str]] = []
    for kind in (STRATEGIES["random"], STRATEGIES["round_robin"]):
        for act in ("joined", "left", "sent"):

            def note(self: Any, backend: Any, *_: Any, act: str = act) -> None:
                heard.append((self.name, act, backend.id))

            monkeypatch.setattr(kind, act, note)
    models = offer("a"), offer("b", strategy="random")
    made = pool(*pairs("a", "b"), spec("outside", models=("a", "b"), managed=False), models=models)
    found = router(made)
    assert sorted(heard) == [
        ("random", "joined", "b/instance_0"), ("random", "joined", "b/instance_1"), ("random", "joined", "outside"),
        ("round_robin", "joined", "a/instance_0"), ("round_robin", "joined", "a/instance_1"),
        ("round_robin", "joined", "outside"),
    ]  # fmt: skip
    heard.clear()
    for name in ("a/instance_0", "b/instance_0", "outside"):
        found.sent(made.backends[name], Features())
    assert sorted(heard) == [
        ("random", "sent", "b/instance_0"), ("random", "sent", "outside"), ("round_robin", "sent", "a/instance_0"),
        ("round_robin", "sent", "outside"),
    ]  # fmt: skip
    heard.clear()
    made.apply(backend_set(*pairs("a"), revision=2, models=models))
    found.pool_changed()
    assert sorted(heard) == [
        ("random", "left", "b/instance_0"), ("random", "left", "b/instance_1"), ("random", "left", "outside"),
        ("round_robin", "left", "outside"),
    ]  # fmt: skip


def test_the_names_of_one_model_are_one() -> None:
    made = pool(worker("a"), worker("b", "poet"), models=(offer("a"), offer("b"), offer("c", "down")))
    assert [made.first_name(name) for name in ("a", "a-too", "b-too", "poet", "c-too", None, "?")] == [
        "a", "a", "b", "poet", "c", None, "?",
    ]  # fmt: skip


def test_of_a_cluster_with_one_model_too() -> None:
    ours = spec("instance_0", models=(), expected=("demo", "/models/demo", "poet"))
    roots = {"x": "r", "y": "r", "z": "other", "v": None}
    cards = tuple({**card(name), "root": root} for name, root in roots.items())
    theirs = replace(spec("external_0", models=()), models=cards, managed=False)
    made = pool(ours, theirs, models=())
    assert [made.first_name(name) for name in ("demo", "/models/demo", "poet")] == ["demo", "demo", "poet"]
    assert [made.first_name(name) for name in ("x", "y", "z", "v")] == ["x", "x", "z", "v"]
