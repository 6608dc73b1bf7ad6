"""The tables of what follows from a failure, row by row."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TypeVar

import pytest

from lb.forwarding.retry.failure_policy import (
    AFTER_FAILURE,
    ON_BREAK,
    Action,
    Break,
    Loss,
    after_failure,
    of_status,
    on_break,
    on_dying,
)
from lb.protocol.failures import CONSEQUENCES, Ejects, Failure

Facts = TypeVar("Facts", Break, Loss)
Rows = Sequence[tuple[Mapping[str, bool], Action]]

#: Counter, sent, blamed, suspect, excluded, counts, ejects.
ROWS = {
    Failure.UNREACHABLE: ("connect", False, True, False, False, False, Ejects.FOR_A_WHILE),
    Failure.SLOW_CONNECT: ("connect", False, True, False, True, False, Ejects.IF_ROOM),
    Failure.STALE: ("stale", False, False, True, True, False, Ejects.NO),
    Failure.BROKEN: ("broken", True, True, True, True, True, Ejects.NO),
    Failure.ERROR: ("broken", True, True, True, True, True, Ejects.NO),
    Failure.BUSY: ("broken", True, True, False, True, True, Ejects.NO),
    Failure.ABSENT: ("absent", True, False, False, False, True, Ejects.NO),
    Failure.SILENT: ("silent", True, True, True, True, True, Ejects.IF_ROOM),
    Failure.STALLED: ("stalled", True, True, True, True, True, Ejects.NO),
    Failure.DISPLACED: ("displaced", True, False, False, True, True, Ejects.NO),
    Failure.EVICTED: ("evicted", True, True, True, True, False, Ejects.NO),
    Failure.ENGINE_DIED: ("engine", True, True, True, True, False, Ejects.UNTIL_RESTARTED),
}


@pytest.mark.parametrize("failure", Failure)
def test_a_row(failure: Failure) -> None:
    row = CONSEQUENCES[failure]
    assert (row.cause, row.sent, row.blamed, row.suspect, row.excluded, row.counts, row.ejects) == ROWS[failure]


def test_what_cannot_have_been_read_is_never_counted_against_the_request() -> None:
    assert not [failure for failure, row in CONSEQUENCES.items() if not row.sent and row.counts]


def test_one_who_may_have_killed_it_does_not_go_back_to_it() -> None:
    assert not [failure for failure, row in CONSEQUENCES.items() if row.suspect and not row.excluded]


def test_which_answers_are_asked_for_elsewhere() -> None:
    expected = {429: Failure.BUSY, 502: Failure.BUSY, 503: Failure.BUSY, 504: Failure.BUSY, 500: Failure.ERROR}
    keys = {**expected, 401: Failure.BUSY, 403: Failure.BUSY}
    assert {status: found for status in range(100, 600) if (found := of_status(status))} == expected
    assert {status: found for status in range(100, 600) if (found := of_status(status, our_key=True))} == keys


@pytest.mark.parametrize("failure", Failure)
def test_what_happens_on_a_dying_worker_happens_because_of_that(failure: Failure) -> None:
    unrelated = {Failure.UNREACHABLE, Failure.SLOW_CONNECT, Failure.STALE, Failure.ABSENT, Failure.DISPLACED}
    assert on_dying(failure) is (failure if failure in unrelated else Failure.ENGINE_DIED)


def products(facts: type[Facts]) -> list[Facts]:
    """Each way in which it can be."""
    return [facts(*values) for values in itertools.product((False, True), repeat=len(dataclasses.fields(facts)))]


def _ends(b: Break) -> Action:
    if b.tunnel:
        return Action.END_TUNNEL
    if b.stale:
        if b.taken or not b.idempotent:
            return Action.FAIL_AS_BROKEN
        return Action.FAIL if b.elsewhere else Action.RECONNECT
    return Action.END_AS_TOLD if b.final else Action.FAIL


def _goes_on(x: Loss) -> Action:
    if x.began:
        if not x.stream:
            return Action.END_WITH_ERROR
        if x.finished:
            return Action.COMPLETE
        return Action.END_WITH_ERROR if x.hindered else Action.RESUME
    if x.read and not x.repeatable:
        return Action.ANSWER_FAILED
    if x.slow and x.late:
        return Action.ANSWER_LATE
    return Action.RETRY if x.read or x.suspect else Action.CHOOSE_AGAIN


def test_what_the_end_of_an_attempt_means() -> None:
    assert not [(facts, on_break(facts)) for facts in products(Break) if on_break(facts) is not _ends(facts)]


def test_how_a_request_goes_on_after_a_failure() -> None:
    wrong = [(facts, after_failure(facts)) for facts in products(Loss) if after_failure(facts) is not _goes_on(facts)]
    assert not wrong


@pytest.mark.parametrize(("rows", "facts"), [(ON_BREAK, Break), (AFTER_FAILURE, Loss)])
def test_each_row_decides_something_and_names_what_there_is(rows: Rows, facts: type[Facts]) -> None:
    deciding = {
        next(number for number, (row, _) in enumerate(rows) if all(getattr(one, name) is row[name] for name in row))
        for one in products(facts)
    }
    assert deciding == set(range(len(rows)))


def test_what_has_begun_is_never_made_again_and_what_has_not_is_never_cut_off() -> None:
    begun = {Action.END_WITH_ERROR, Action.COMPLETE, Action.RESUME}
    assert {after_failure(facts) in begun for facts in products(Loss) if facts.began} == {True}
    assert {after_failure(facts) in begun for facts in products(Loss) if not facts.began} == {False}


def test_what_may_have_been_read_is_made_again_only_where_it_may_be() -> None:
    retried = [facts for facts in products(Loss) if facts.read and after_failure(facts) is Action.RETRY]
    assert retried and all(facts.repeatable for facts in retried)


def test_an_upload_of_which_bytes_are_gone_is_not_sent_again() -> None:
    assert not [facts for facts in products(Break) if facts.taken and on_break(facts) is Action.RECONNECT]
