from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from config.topology import BackendSet, BackendSpec
from lb.routing.backend import Backend
from lb.routing.pool import Pool
from lbfakes import Waiting, backend_set, card, spec


def pool(*specs: BackendSpec) -> Pool:
    made = Pool()
    made.apply(backend_set(*specs))
    return made


def ids(made: Pool, model: str | None = None, excluded: tuple[str, ...] = (), now: float = 0.0) -> list[str]:
    return [b.id for b in made.candidates(model, excluded, now)]


def test_an_older_set_changes_nothing() -> None:
    made = Pool()
    assert made.apply(backend_set(spec("instance_0"), revision=5))
    assert not made.apply(backend_set(revision=4))
    assert not made.apply(backend_set(revision=5))
    assert ids(made) == ["instance_0"]


def test_a_later_supervisors_first_revision_is_newer_than_its_predecessors_last() -> None:
    made = Pool()
    made.apply(backend_set(spec("instance_0"), revision=900, epoch=1))
    assert made.apply(backend_set(spec("instance_1"), revision=1, epoch=2))
    assert ids(made) == ["instance_1"]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), max_size=12))
def test_the_version_never_goes_back(versions: list[tuple[int, int]]) -> None:
    made = Pool()
    for epoch, revision in versions:
        before = made.version
        made.apply(backend_set(epoch=epoch, revision=revision))
        assert made.version == max(before, (epoch, revision))


def test_strategy_and_shutting_down_are_taken_over() -> None:
    made = pool()
    made.apply(backend_set(revision=2, strategy="random", shutting_down=True))
    assert (made.strategy, made.shutting_down) == ("random", True)


def test_the_count_stays_as_long_as_the_incarnation_is_the_same() -> None:
    made = pool(spec())
    made.backends["instance_0"].lease(lambda reason: None)
    made.apply(backend_set(spec(weight=7), revision=2))
    assert made.in_flight() == {"instance_0": 1}
    assert made.backends["instance_0"].weight == 7


def test_a_restarted_worker_starts_at_0_and_the_old_requests_are_told() -> None:
    made, told = pool(spec(incarnation=1)), []
    lease = made.backends["instance_0"].lease(told.append)
    made.apply(backend_set(spec(incarnation=2), revision=2))
    assert made.in_flight() == {"instance_0": 0}
    assert told == ["it has ended"]
    lease.release()
    assert made.in_flight() == {"instance_0": 0}


def test_an_attached_backend_keeps_its_requests_whatever_its_incarnation() -> None:
    made, told = pool(spec("backend_0", managed=False, incarnation=1)), []
    made.backends["backend_0"].lease(told.append)
    made.apply(backend_set(spec("backend_0", managed=False, incarnation=2), revision=2))
    assert made.in_flight() == {"backend_0": 1}
    assert told == []


def test_one_that_is_gone_is_told() -> None:
    made, told = pool(spec("instance_0"), spec("instance_1")), []
    made.backends["instance_1"].lease(told.append)
    made.apply(backend_set(spec("instance_0"), revision=2))
    assert told == ["it has ended"]
    assert list(made.backends) == ["instance_0"]


def test_one_whose_process_ended_is_told_what_it_is() -> None:
    made, told = pool(spec()), []
    made.backends["instance_0"].lease(told.append)
    made.apply(backend_set(spec(state="backoff"), revision=2))
    assert told == ["it is backoff"]


def test_draining_lets_what_runs_run_and_takes_nothing_new() -> None:
    made, told = pool(spec()), []
    made.backends["instance_0"].lease(told.append)
    made.apply(backend_set(spec(state="draining"), revision=2))
    assert told == []
    assert ids(made) == []


def test_what_is_left_on_a_drained_worker_is_told_to_go_elsewhere() -> None:
    made, told = pool(spec("instance_0"), spec("instance_1")), list[str]()
    made.backends["instance_0"].lease(told.append)
    made.apply(backend_set(spec("instance_0", state="draining"), spec("instance_1"), revision=2))
    assert told == []
    made.apply(backend_set(spec("instance_0", state="drained"), spec("instance_1"), revision=3))
    assert told == ["it is drained"] and ids(made) == ["instance_1"]
    made.apply(backend_set(spec("instance_0"), spec("instance_1"), revision=4))
    assert ids(made) == ["instance_0", "instance_1"]


def test_nobody_waits_for_a_drained_worker_and_back_from_it_an_ejection_is_forgiven() -> None:
    made = pool(spec(state="drained"))
    assert made.hopeless(None)
    made.backends["instance_0"].ejection.failed(0.0)
    made.apply(backend_set(spec(), revision=2))
    assert ids(made) == ["instance_0"]


def test_back_from_unhealthy_an_ejection_is_forgiven() -> None:
    made = pool(spec())
    made.backends["instance_0"].ejection.failed(0.0)
    made.apply(backend_set(spec(state="unhealthy"), revision=2))
    made.apply(backend_set(spec(state="ready"), revision=3))
    assert ids(made, now=0.1) == ["instance_0"]


def test_an_ejection_outlives_a_set_that_says_nothing_about_it() -> None:
    made = pool(spec())
    made.backends["instance_0"].ejection.failed(0.0)
    made.apply(backend_set(spec(weight=2), revision=2))
    assert ids(made, now=0.1) == []


def test_never_more_than_half_are_left_out_for_slowness() -> None:
    made = pool(*(spec(f"instance_{n}") for n in range(5)))
    ejected = []
    for backend in made.backends.values():
        if made.may_eject_slow(0.0):
            ejected.append(backend.ejection.failed(0.0, slow=True))
    assert ejected == [True, True]
    assert ids(made, now=0.1) == ["instance_2", "instance_3", "instance_4"]
    assert made.may_eject_slow(1.0)


def test_refused_connections_take_no_place_of_slow_ones() -> None:
    made = pool(spec("instance_0"), spec("instance_1"), spec("instance_2"))
    for name in ("instance_0", "instance_1"):
        made.backends[name].ejection.failed(0.0)
    assert made.may_eject_slow(0.1)
    assert ids(made, now=0.1) == ["instance_2"]


def test_one_that_is_alone_may_be_left_out_for_slowness() -> None:
    assert pool(spec()).may_eject_slow(0.0)
    assert pool(spec(), spec("instance_1", state="unhealthy")).may_eject_slow(0.0)


def test_only_backends_where_something_waits_are_named() -> None:
    made = pool(spec("instance_0"), spec("instance_1"))
    made.backends["instance_0"].lease(lambda reason: None, Waiting(7))
    made.backends["instance_1"].lease(lambda reason: None, Waiting(None))
    assert made.waiting() == {"instance_0": (1, 7)}


def test_candidates_serve_the_model() -> None:
    made = pool(spec("instance_0", models=("base",)), spec("instance_1", models=("base", "poet")))
    assert ids(made, "poet") == ["instance_1"]
    assert ids(made, "base") == ["instance_0", "instance_1"]
    assert ids(made, None, excluded=("instance_0",)) == ["instance_1"]


def test_weight_0_takes_requests_only_where_there_is_no_other() -> None:
    made = pool(spec("instance_0", weight=0), spec("instance_1"))
    assert ids(made) == ["instance_1"]
    assert ids(made, excluded=("instance_1",)) == ["instance_0"]


def test_a_model_is_known_while_anybody_serves_it_even_when_not_ready() -> None:
    made = pool(spec("instance_0", models=(), expected=("base", "poet"), state="starting"))
    assert made.knows("poet")
    assert not made.knows("nobody")


def test_before_the_first_set_any_model_may_exist() -> None:
    assert Pool().knows("whatever")
    assert not Pool().hopeless("whatever")


def test_it_is_hopeless_when_all_that_serve_the_model_have_failed() -> None:
    made = pool(spec("instance_0", models=("poet",), state="failed"), spec("instance_1", models=("base",)))
    assert made.hopeless("poet")
    assert not made.hopeless("base")
    assert not made.hopeless(None)


def test_models_are_the_union_each_once_and_base_models_first() -> None:
    made = Pool()
    made.apply(
        backend_set(
            dataclasses.replace(spec("instance_0"), models=(card("poet", "base"), card("base"))),
            dataclasses.replace(spec("instance_1"), models=(card("base"), card("pirate", "base"))),
        )
    )
    assert [c["id"] for c in made.models()] == ["base", "poet", "pirate"]


def test_models_of_a_worker_out_of_rotation_are_not_listed_while_another_is_ready() -> None:
    made = pool(spec("instance_0", models=("base",)), spec("instance_1", models=("old",), state="unhealthy"))
    assert [c["id"] for c in made.models()] == ["base"]


def test_with_none_ready_the_models_last_seen_are_listed() -> None:
    assert [c["id"] for c in pool(spec(state="unhealthy")).models()] == ["base"]


def test_whoever_waits_is_told_of_every_change() -> None:
    told: list[int] = []
    made = Pool(lambda: told.append(1))
    made.apply(backend_set(revision=1))
    made.apply(backend_set(revision=1))
    made.apply(backend_set(revision=2))
    assert len(told) == 2


def test_a_set_survives_the_way_through_json() -> None:
    sent = backend_set(spec(models=("base", "poet"), expected=("base",), api_key="k"), shutting_down=True)
    assert BackendSet.from_json(sent.to_json()) == sent


_SPECS = st.dictionaries(
    st.sampled_from("abcd"), st.tuples(st.integers(1, 2), st.sampled_from(["ready", "draining", "backoff"])), max_size=4
)


@given(st.lists(_SPECS, min_size=1, max_size=5))
def test_what_is_new_of_each_set_comes_to_the_same_as_the_sets(sets: list[dict[str, tuple[int, str]]]) -> None:
    """For those that run there as well."""
    whole, new = (_Told() for _ in range(2))
    before: dict[str, tuple[int, str]] = {}
    for revision, now in enumerate(sets, 1):
        specs = {id: spec(id, incarnation=number, state=state) for id, (number, state) in now.items()}
        whole.pool.apply(backend_set(*specs.values(), revision=revision))
        changed = backend_set(*(made for id, made in specs.items() if before.get(id) != now[id]), revision=revision)
        base = (1, revision - 1) if revision > 1 else (0, 0)
        assert new.pool.change(base, changed, [id for id in before if id not in now])
        for each in (whole, new):
            assert {id: backend.spec for id, backend in each.pool.backends.items()} == specs
            each.send_requests()
        assert sorted(whole.heard) == sorted(new.heard)
        before = now


class _Told:
    """A pool whose workers all have requests, and what those and others hear."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.pool = Pool(lost=lambda *lost: self.heard.append(str(lost)))

    def send_requests(self) -> None:
        for backend in self.pool.backends.values():
            if backend.keeps_running():  # no other is sent any
                self._send(backend)

    def _send(self, backend: Backend) -> None:
        def evicted(reason: str) -> None:
            self.heard.append(reason)
            lease.release()

        lease = backend.lease(evicted)
