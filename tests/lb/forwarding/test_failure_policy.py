"""The table of what follows from a failure, row by row."""

from __future__ import annotations

import pytest

from lb.forwarding.failure_policy import CONSEQUENCES, Ejects, Failure, of_status, on_dying

#: Counter, sent, told, suspect, excluded, counts, ejects.
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
    Failure.EVICTED: ("evicted", True, True, True, True, False, Ejects.NO),
    Failure.ENGINE_DIED: ("engine", True, True, True, True, False, Ejects.UNTIL_RESTARTED),
}


@pytest.mark.parametrize("failure", Failure)
def test_a_row(failure: Failure) -> None:
    row = CONSEQUENCES[failure]
    assert (row.cause, row.sent, row.told, row.suspect, row.excluded, row.counts, row.ejects) == ROWS[failure]


def test_what_cannot_have_been_read_is_never_counted_against_the_request() -> None:
    assert not [failure for failure, row in CONSEQUENCES.items() if not row.sent and row.counts]


def test_one_who_may_have_killed_it_does_not_go_back_to_it() -> None:
    assert not [failure for failure, row in CONSEQUENCES.items() if row.suspect and not row.excluded]


@pytest.mark.parametrize("status", range(100, 600))
def test_which_answers_are_asked_for_elsewhere(status: int) -> None:
    expected = {429: Failure.BUSY, 502: Failure.BUSY, 503: Failure.BUSY, 504: Failure.BUSY, 500: Failure.ERROR}
    assert of_status(status) == expected.get(status)
    keys = {**expected, 401: Failure.BUSY, 403: Failure.BUSY}
    assert of_status(status, our_key=True) == keys.get(status)


@pytest.mark.parametrize("failure", Failure)
def test_what_happens_on_a_dying_worker_happens_because_of_that(failure: Failure) -> None:
    unrelated = {Failure.UNREACHABLE, Failure.SLOW_CONNECT, Failure.STALE, Failure.ABSENT}
    assert on_dying(failure) is (failure if failure in unrelated else Failure.ENGINE_DIED)
