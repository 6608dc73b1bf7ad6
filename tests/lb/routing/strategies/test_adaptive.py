"""What the adaptive strategy goes by, one thing at a time, and that its books are even in the end."""

from __future__ import annotations

import time
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.routing.backend import Backend
from lb.routing.strategies.adaptive import Adaptive
from lb.routing.strategies.base import AttemptOutcome, Features
from lbfakes import spec

RANKS = {"poet": 8, "cook": 8, "clerk": 64}


def backend(number: int, slots: int | None = 2) -> Backend:
    return Backend(replace(spec(f"instance_{number}"), slots=slots, places=4))


def strategy(*backends: Backend, homes: dict[str, tuple[str, ...]] | None = None) -> Adaptive:
    made = Adaptive(Random(1))
    for each in backends:
        made.joined(each)
    made.placed(homes or {}, RANKS)
    return made


def ask(adapter: str | None = "poet", tokens: int = 100, blocks: tuple[int, ...] = ()) -> Features:
    return Features(adapter, tokens=tokens, blocks=blocks, stream=True)


def send(made: Adaptive, to: Backend, features: Features) -> Features:
    to.lease(lambda reason: None)
    made.sent(to, features)
    return features


def finish(made: Adaptive, to: Backend, features: Features, seconds: float = 2.0, first: float = 0.5) -> None:
    made.began(to.key, features, first)
    made.observe(AttemptOutcome(to.key, features, 200, seconds, first, tokens=50))


def test_where_its_adapter_is_in_a_slot() -> None:
    one, other = backend(1), backend(2)
    made = strategy(one, other)
    finish(made, other, send(made, other, ask("poet")))
    other._leases.clear()
    assert made.choose([one, other], ask("poet"))[0] is other


def test_not_where_all_slots_are_taken_by_others() -> None:
    one, other = backend(1), backend(2)
    made = strategy(one, other)
    for name in ("cook", "clerk"):
        send(made, one, ask(name))
    for _ in range(3):
        send(made, other, ask("poet"))
    assert made.choose([one, other], ask("poet"))[0] is other
    assert made.cost(one, ask("poet"), ()).slot > 0 == made.cost(other, ask("poet"), ()).slot


def test_where_the_prompt_has_been_read_unless_much_is_to_be_read_before_it() -> None:
    one, other = backend(1), backend(2)
    made = strategy(one, other)
    blocks = tuple(range(8))
    finish(made, other, send(made, other, ask(None, 4096, blocks)))
    other._leases.clear()
    longer = ask(None, 5000, (*blocks, 99))
    assert made.choose([one, other], longer)[0] is other
    send(made, other, ask(None, 100_000))
    assert made.choose([one, other], longer)[0] is one


def test_a_stream_is_worth_moving_where_it_costs_less_than_what_those_that_wait_get_by_it() -> None:
    one, other = backend(1, 1), backend(2, 1)
    made = strategy(one, other)
    send(made, one, ask("poet"))
    assert not made.worth_moving(one, [other], ask("poet"), 0), "nobody waits"
    send(made, one, ask("cook"))
    assert made.worth_moving(one, [other], ask("poet"), 1)
    assert not made.worth_moving(one, [], ask("poet"), 1), "there is no other worker"
    assert not made.worth_moving(one, [other], ask("poet", 100_000), 1), "too much to read again"
    assert made.worth_moving(one, [other], ask("poet", 100_000), 9), "not for many"
    send(made, other, ask("clerk"))
    assert not made.worth_moving(one, [other], ask("poet"), 1), "it would have to wait there"
    send(made, one, ask("poet"))
    assert not made.worth_moving(one, [backend(3, 1)], ask("poet"), 1), "its adapter would keep the slot"


def test_nothing_is_worth_moving_where_slots_are_not_counted() -> None:
    one, other = backend(1, None), backend(2, None)
    made = strategy(one, other)
    for name in RANKS:
        send(made, one, ask(name))
    assert not made.worth_moving(one, [other], ask("poet"), 5)


def test_a_large_rank_stays_with_large_ranks() -> None:
    one, other = backend(1, 8), backend(2, 8)
    made = strategy(one, other)
    for _ in range(4):
        send(made, one, ask("poet"))
        send(made, other, ask("clerk"))
    made._view(one).resident.use("clerk")  # it would cost nothing to load
    assert made.choose([one, other], ask("clerk"))[0] is other
    assert made.choose([one, other], ask("cook"))[0] is one


def test_at_home_rather_than_elsewhere() -> None:
    one, other = backend(1), backend(2)
    made = strategy(one, other, homes={"poet": ("instance_2",)})
    assert made.choose([one, other], ask("poet"))[0] is other
    assert made.choose([one, other], ask("poet"))[1] is not None


def test_what_can_be_in_time_is_and_what_cannot_keeps_out_of_the_way() -> None:
    one, other = backend(1, None), backend(2, None)
    made = strategy(one, other)
    send(made, one, ask(None, 45_000))  # 1.8 s of prompts
    for _ in range(20):
        send(made, other, ask(None, 1_500))  # 1.2 s, and a batch of twenty that stops meanwhile
    assert made.choose([one, other], ask(None, 4_000))[0] is one
    assert made.choose([one, other], ask(None, 8_000))[0] is other  # there it would be late
    assert made.choose([one, other], ask(None, 60_000))[0] is one  # it is late wherever it is


def test_a_wait_for_a_slot_is_a_risk_to_be_late() -> None:
    one, other = backend(1, 2), backend(2, 2)
    made = strategy(one, other)
    send(made, one, ask("poet", 0))
    send(made, one, ask("cook", 0))
    send(made, other, ask(None, 36_000))  # 1.44 s of prompts, but a slot
    near, far = made.cost(one, ask("baker", 1), ()), made.cost(other, ask("baker", 1), ())
    assert (near.slot, far.slot) == (1.5, 0.0)
    assert made.choose([one, other], ask("baker", 1))[0] is other


def test_one_more_in_a_batch_costs_those_that_are_there() -> None:
    one, other = backend(1, None), backend(2, None)
    made = strategy(one, other)
    for pace, batch in ((0.01, 1), (0.02, 21), (0.03, 41)) * 200:
        made._tax.observe(0, batch, pace)
    assert made.cost(one, ask(None), ()).others == made.cost(other, ask(None), ()).others
    for _ in range(10):
        send(made, one, ask(None, 0))
    assert made.cost(one, ask(None, 1), ()).others > made.cost(other, ask(None, 1), ()).others + 0.1


def test_rates_are_learnt() -> None:
    one = backend(1, None)
    made = strategy(one)
    random = Random(3)
    for _ in range(400):
        tokens = random.randrange(500, 5000)
        finish(made, one, send(made, one, ask(None, tokens)), 1.0 + tokens * 0.0002, tokens * 0.0002)
    assert made._view(one).rates.prefill.value == pytest.approx(0.0002, rel=0.05)
    assert made._view(one).rates.decode.value == pytest.approx(1.0, rel=0.05)


def test_an_answer_that_comes_whole_tells_nothing_of_its_first_token() -> None:
    one = backend(1, None)
    made = strategy(one)
    before = made._view(one).rates.prefill.value, made._view(one).rates.decode.value
    for tokens in range(100, 5000, 100):
        features = Features(None, tokens=tokens)
        made.sent(one, features)
        made.observe(AttemptOutcome(one.key, features, 200, 60.0, 60.0))
    assert (made._view(one).rates.prefill.value, made._view(one).rates.decode.value) == before


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([None, "poet", "cook", "clerk"]), st.integers(0, 9)), max_size=40
    ),
    st.integers(0, 99),
)
def test_nothing_is_left_on_the_books(asked: list[tuple[int, str | None, int]], seed: int) -> None:
    """However attempts end, in whatever order, and whoever leaves meanwhile."""
    backends, random = [backend(n) for n in range(4)], Random(seed)
    made = strategy(*backends)
    under_way = []
    for number, adapter, blocks in asked:
        features = ask(adapter, 100 + blocks, tuple(range(blocks)))
        send(made, backends[number], features)
        under_way.append((backends[number], features))
        if random.random() < 0.5:
            to, features = under_way.pop(random.randrange(len(under_way)))
            if random.random() < 0.5:
                made.began(to.key, features, 0.1)
            made.observe(AttemptOutcome(to.key, features, random.choice((0, 200, 499)), 1.0, 0.1))
    made.left(backends[0])
    for to, features in under_way:
        made.observe(AttemptOutcome(to.key, features, 0, 1.0, None, "broken"))
    for each in backends[1:]:
        view = made._view(each)
        assert (view.backlog, view.running, view.active, view.top) == (0, 0, {}, 0)
    assert not made._open
    assert all(backends[0] not in holders for holders in made._cluster.holders.values())


def test_of_many_the_one_that_holds_it_is_found() -> None:
    backends = [backend(n, 8) for n in range(500)]
    made = strategy(*backends)
    finish(made, backends[321], send(made, backends[321], ask(None, 4000, (1, 2, 3))))
    backends[321]._leases.clear()
    assert made.choose(backends, ask(None, 4000, (1, 2, 3, 4)))[0] is backends[321]
    send(made, backends[123], ask("poet"))
    assert made.choose(backends, ask("poet"))[0] is backends[123]
    # One that is not to be asked now is not chosen, whatever it holds.
    assert made.choose(backends[:100], ask("poet"))[0] in backends[:100]


@pytest.mark.processes
@pytest.mark.parametrize(("count", "most"), [(8, 15e-6), (1000, 60e-6)])
def test_a_choice_takes_no_longer_than(count: int, most: float, capsys: pytest.CaptureFixture[str]) -> None:
    """Of processor time where a turn of the loop below takes 30 ns; a slower machine may take as much longer.
    The best of several: the machine has other things to do."""
    backends = [backend(n, 8) for n in range(count)]
    made, names = strategy(*backends), [f"adapter-{n}" for n in range(200)]
    homes = {name: tuple(b.id for b in backends[n : n + 2]) for n, name in enumerate(names)}
    made.placed(homes, dict.fromkeys(names, 16))
    random = Random(1)
    for n in range(4 * count):
        send(made, backends[n % count], ask(random.choice(names), 1000, tuple(range(n, n + 4))))
    asked = [ask(random.choice(names), 1000, tuple(range(n, n + 4))) for n in range(200)]
    choices, turns = [], []
    for _ in range(9):
        begun = time.process_time()
        for each in asked:
            made.choose(backends, each)
        chosen = time.process_time()
        total = 0
        for n in range(100_000):
            total += n & 7
        choices.append((chosen - begun) / len(asked))
        turns.append((time.process_time() - chosen) / 100_000)
    with capsys.disabled():
        print(f"{count} workers: {min(choices) * 1e6:.1f} us a choice, {min(turns) * 1e9:.0f} ns a turn")
    assert min(choices) <= most * max(1.0, min(turns) / 30e-9)
