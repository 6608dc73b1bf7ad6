"""What balancers on several machines know of each other's requests: told in batches, and forgotten with who told it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.control import joined_attempts
from lb.control.joined_attempts import JoinedAttempts
from lb.routing.backend import Backend
from lb.routing.strategies.adaptive import Adaptive
from lb.routing.strategies.base import AttemptOutcome, Features
from lbfakes import spec

_RECORDS = st.lists(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=63), max_size=20)


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Here:
    """The board of the processes of one machine."""

    def __init__(self, *news: tuple[int, Sequence[int] | None]) -> None:
        self.told: list[Sequence[int]] = []
        self._news, self.looks = list(news), 0

    def tell(self, record: Sequence[int]) -> None:
        self.told.append(record)

    def news(self) -> list[tuple[int, Sequence[int] | None]]:
        return self._news

    def look(self) -> None:
        self.looks += 1


def _over_the_wire(message: Mapping[str, Any] | None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(message))
    return found


@given(st.lists(_RECORDS, max_size=4))
def test_records_come_as_they_were_told(batches: list[list[list[int]]]) -> None:
    time = Time()
    first, second = JoinedAttempts(None, time), JoinedAttempts(None, time)
    heard: list[Sequence[int] | None] = []
    for batch in batches:
        for record in batch:
            first.tell(record)
        time.now += 1
        second.hear(_over_the_wire(first.due()))
        heard += [record for _, record in second.news()]
    assert heard == ([None] if batches else []) + [record for batch in batches for record in batch]


def test_those_of_this_machine_are_told_too_and_heard() -> None:
    here = Here((7, (1, 2)), (8, None))
    board = JoinedAttempts(here, Time())
    board.tell((3, 4))
    board.look()
    assert here.told == [(3, 4)] and here.looks == 1 and list(board.news()) == [(7, (1, 2)), (8, None)]


def test_one_that_is_silent_counts_no_more_and_one_that_is_alive_says_so() -> None:
    time = Time()
    first, second = JoinedAttempts(None, time), JoinedAttempts(None, time)
    second.hear(_over_the_wire(first.due()))
    assert first.due() is None, "it has just said something"
    [(who, nothing)] = second.news()
    assert nothing is None
    time.now += 2.9
    second.hear(_over_the_wire(first.due()))
    time.now += 2.9
    second.look()
    assert list(second.news()) == []
    time.now += 0.2
    second.look()
    assert list(second.news()) == [(who, None)]


def test_what_nobody_takes_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined_attempts, "_MOST_TOLD", 10)
    monkeypatch.setattr(joined_attempts, "_MOST_HEARD", 10)
    time = Time()
    first, second = JoinedAttempts(None, time), JoinedAttempts(None, time)
    second.hear(_over_the_wire(first.due()))
    for number in range(100):
        first.tell((1, number))
    message = _over_the_wire(first.due())
    assert message["anew"] and len(message["records"]) < 200
    for _ in range(20):
        second.hear(message)
    assert len(list(second.news())) <= 11


@pytest.mark.parametrize(
    "wrong", [{}, {"who": "me"}, {"who": 1, "anew": False, "records": "no base64"},
              {"who": 1, "anew": False, "records": "AAAA"}, {"who": 1, "anew": False, "records": 5}],
)  # fmt: skip
def test_what_is_no_message_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        JoinedAttempts(None, Time()).hear(wrong)


def test_an_adapter_goes_where_another_machine_has_sent_it() -> None:
    """Which it would one time in three without."""
    time = Time()
    there = [Backend(replace(spec(f"instance_{n}"), slots=2, places=4)) for n in range(3)]
    boards = [JoinedAttempts(None, time) for _ in range(2)]
    first, second = (_strategy(board, there, seed) for seed, board in enumerate(boards))
    for number in range(6):
        features = Features(adapter=f"a{number}", tokens=50)
        chosen = first.choose(there, features)[0]
        first.sent(chosen, features)
        boards[1].hear(_over_the_wire(boards[0].due()))
        second.hear()
        assert second.choose(there, Features(adapter=f"a{number}", tokens=50))[0] is chosen
        first.observe(AttemptOutcome(chosen.key, features, 200, 1.0, 0.1))


def _strategy(board: JoinedAttempts, there: Sequence[Backend], seed: int) -> Adaptive:
    made = Adaptive(Random(seed))
    made.meets(board)
    for each in there:
        made.joined(each)
    made.placed({}, {f"a{n}": 8 for n in range(6)})
    return made

