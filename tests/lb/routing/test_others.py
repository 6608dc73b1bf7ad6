"""Several balancers have one view of the workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.routing.backend import Backend
from lb.routing.others import Board, Channels
from lb.routing.strategies.adaptive import Adaptive
from lb.routing.strategies.base import AttemptOutcome, Features
from lb.telemetry.shared_attempts import SharedAttempts
from lb.telemetry.shared_counters import Counters
from lbfakes import spec

RANKS = {"poet": 8, "cook": 8, "clerk": 64}
_LOST = "lost"


class Boards:
    """As `SharedAttempts`, in memory."""

    def __init__(self, count: int) -> None:
        self.heard: list[list[tuple[int, Sequence[int] | None]]] = [[] for _ in range(count)]

    def of(self, number: int) -> OneBoard:
        return OneBoard(self, number)


class OneBoard:
    def __init__(self, boards: Boards, number: int) -> None:
        self._boards, self._number = boards, number

    def tell(self, record: Sequence[int]) -> None:
        assert 0 < len(record) < 64 and all(0 <= value < 2**64 for value in record)
        for number, heard in enumerate(self._boards.heard):
            if number != self._number:
                heard.append((self._number, record))

    def news(self) -> Iterable[tuple[int, Sequence[int] | None]]:
        heard, self._boards.heard[self._number] = self._boards.heard[self._number], []
        return heard


def backends() -> list[Backend]:
    return [Backend(replace(spec(f"instance_{n}"), slots=2, places=4)) for n in range(3)]


def strategy(board: Board, there: Sequence[Backend]) -> Adaptive:
    made = Adaptive(Random(1))
    made.meets(board)
    for each in there:
        made.joined(each)
    made.placed({}, RANKS)
    return made


def ask(adapter: str | None = "poet", tokens: int = 100, blocks: tuple[int, ...] = ()) -> Features:
    return Features(adapter, tokens=tokens, blocks=blocks, stream=True)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.integers(0, 2), st.sampled_from([None, *RANKS]), st.integers(0, 60),
            st.sampled_from(["ends", "begins", "stays", _LOST]),
        ),
        max_size=30,
    )
)  # fmt: skip
def test_all_see_the_same_and_in_the_end_nothing(steps: list[tuple[int, int, str | None, int, str]]) -> None:
    """Whoever sends what where; one of them loses its place and is heard anew."""
    boards = Boards(3)
    there = [backends() for _ in range(3)]
    made = [strategy(boards.of(n), there[n]) for n in range(3)]
    under_way: list[tuple[int, Backend, Features]] = []
    for who, worker, adapter, blocks, then in steps:
        features, to = ask(adapter, 100 + 512 * blocks, tuple(range(blocks))), there[who][worker]
        made[who].hear()
        made[who].sent(to, features)
        if then in ("begins", "ends"):
            made[who].began(to.key, features, 0.1)
        if then == "ends":
            made[who].observe(AttemptOutcome(to.key, features, 200, 1.0, 0.1))
        else:
            under_way.append((who, to, features))
    for each in made:
        each.hear()
    for worker in range(3):
        views = [made[n]._view(there[n][worker]) for n in range(3)]
        assert len({(view.backlog, view.running, view.top, *sorted(view.active.items())) for view in views}) == 1
        assert views[0].running == sum(to.id == f"instance_{worker}" for _, to, _ in under_way)
    lost = [who for who, *_, then in steps if then == _LOST]
    for who, to, features in under_way:
        if who not in lost[:1]:
            made[who].observe(AttemptOutcome(to.key, features, 0, 1.0))
    if lost:
        for number in {0, 1, 2} - {lost[0]}:
            boards.heard[number].append((lost[0], None))
    for number, each in enumerate(made):
        each.hear()
        if number not in lost[:1]:
            for view in each._views.values():
                assert (view.backlog, view.running, view.active, view.top) == (0, 0, {}, 0)
            assert not each._cluster.holders


def test_what_is_told_of_workers_that_are_gone_or_not_there_yet_is_left_out() -> None:
    boards = Boards(2)
    ours, theirs = backends(), backends()
    one, other = strategy(boards.of(0), ours[:2]), strategy(boards.of(1), theirs)
    asked = [ask() for _ in range(3)]
    for to, features in zip(theirs, asked, strict=True):
        other.sent(to, features)
    one.hear()
    assert [view.running for view in one._views.values()] == [1, 1]
    one.left(ours[0])
    for to, features in zip(theirs, asked, strict=True):
        other.observe(AttemptOutcome(to.key, features, 200, 1.0, 0.1))
    one.hear()
    assert [view.running for view in one._views.values()] == [0]


def test_another_strategy_instance_begins_with_nothing() -> None:
    boards = Boards(2)
    there = backends()
    one, other = strategy(boards.of(0), backends()), strategy(boards.of(1), there)
    other.sent(there[0], ask())
    one.hear()
    assert [view.running for view in one._views.values()] == [1, 0, 0]
    strategy(boards.of(1), there)
    one.hear()
    assert [view.running for view in one._views.values()] == [0, 0, 0]


def test_strategies_of_different_models_do_not_hear_each_other() -> None:
    """All of a process share its board; whoever is lost is lost to all of them."""
    boards, there = Boards(2), backends()
    ours, theirs = Channels(boards.of(0)), Channels(boards.of(1))
    chats, codes = (strategy(ours.of(name), backends()) for name in ("chats", "codes"))
    far = strategy(theirs.of("codes"), there)
    far.sent(there[2], ask())
    chats.hear()
    codes.hear()
    running = [[view.running for view in each._views.values()] for each in (chats, codes)]
    assert running == [[0, 0, 0], [0, 0, 1]]
    boards.heard[0].append((1, None))
    chats.hear()
    codes.hear()
    assert [view.running for view in codes._views.values()] == [0, 0, 0]
    del codes
    far.sent(there[2], ask())
    chats.hear()
    assert strategy(ours.of("codes"), backends()).unread() == 0.0


@pytest.mark.parametrize("adapter", [*RANKS, "unheard of", None])
def test_through_files_one_goes_where_another_has_sent_the_adapter_and_the_prompt(
    tmp_path: Path, adapter: str | None
) -> None:
    counters = [Counters(tmp_path / "counters.bin") for _ in range(2)]
    boards = [SharedAttempts(each.path, each.peers) for each in counters]
    for each, board in zip(counters, boards, strict=True):
        each.refresh()
        board.look()
    there = [backends(), backends()]
    one, other = (strategy(board, known) for board, known in zip(boards, there, strict=True))
    for made in (one, other):
        made.placed({}, {**RANKS, "unheard of": 8})
    features = ask(adapter, 3000, (1, 2, 3, 4, 5))
    other.sent(there[1][1], features)
    other.began(there[1][1].key, features, 0.1)
    assert [one.choose(there[0], ask(adapter, 3000, (1, 2, 3, 4, 5)))[0].id for _ in range(5)] == ["instance_1"] * 5
