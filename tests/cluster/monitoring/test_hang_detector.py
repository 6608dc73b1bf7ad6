"""Who is hung and who is not, over time that passes as told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.monitoring.hang_detector import NO_WORK, Hang, HangDetector, Rules, Work, allowance
from worker.progress import Reading

RULES = Rules(stall=10.0, canary=30.0, context=8192)
EVERY = 0.5
BUSY = Work(in_flight=3)

#: What a worker answers at a moment: None, that it tells nothing; "silent", not at all; "refused", no connection.
Answer = Reading | str | None


def reading(steps: int, running: int = 1, waiting: int = 0) -> Reading:
    return Reading(frozenset({str(steps)}), running, waiting)


class Play:
    """Looks at a worker as `cluster.monitoring.hang_monitors` does. ``canary`` answers a request for one token: None,
    well."""

    def __init__(self, rules: Rules = RULES) -> None:
        self.now, self.progress = 1000.0, HangDetector(rules, 1000.0)
        self.verdicts: list[tuple[float, Hang]] = []
        self.canaries: list[float] = []
        self.began = self.now
        self._pending = False

    def run(
        self, seconds: float, worker: Callable[[float], Answer], work: Work = BUSY,
        canary: Callable[[], str | None] | None = None, pauses: list[float] | None = None,
    ) -> Hang | None:
        """The first verdict, if there is one within ``seconds``; ``worker`` is given the seconds since the beginning.
        Without ``canary`` no request for a token is ever answered."""
        pauses = list(pauses or [])
        end = self.now + seconds
        while self.now < end:
            self.progress.tick(self.now)
            verdict = self.progress.verdict(work)
            if verdict is not None:
                self.verdicts.append((self.now - self.began, verdict))
                return verdict
            looked = not self._pending and self.progress.wants_look(EVERY, work)
            if looked:
                self.progress.looking()
                answer = worker(self.now - self.began)
                self._pending = answer == "silent"
                if isinstance(answer, Reading) or answer is None:
                    self.progress.looked(answer)
                elif answer == "refused":
                    self.progress.refused()
            if self.progress.wants_canary(work):
                self.canaries.append(self.now - self.began)
                self.progress.canary_sent()
                if canary is not None:
                    error = canary()
                    self.progress.canary_back(error, engines=error is not None)
            # What is answered is judged at once.
            pause = 0.01 if looked and not self._pending else min(EVERY, max(0.05, self.progress.due_in(work)))
            self.now += pauses.pop(0) if pauses else pause
        return None


def still(seconds: float, **counts: int) -> Callable[[float], Answer]:
    """Makes steps for so long, then none."""
    return lambda now: reading(int(min(now, seconds) * 100), **counts)


# tokens stand still


@given(st.floats(0.0, 40.0))
def test_what_runs_and_stands_still_is_hung_after_the_stall_timeout(stops: float) -> None:
    play = Play()
    verdict = play.run(stops + 20, still(stops))
    assert verdict is not None
    assert verdict.cause == "still"
    at = play.verdicts[0][0]
    assert stops + RULES.stall - 0.02 <= at <= stops + RULES.stall + EVERY + 0.1


@given(st.lists(st.floats(0.05, 9.0), min_size=1, max_size=20))
def test_what_makes_steps_is_never_hung(gaps: list[float]) -> None:
    """However slowly, and however much waits."""
    steps = [sum(gaps[:n]) for n in range(len(gaps))]
    play = Play()
    work = Work(in_flight=500)
    seen = lambda now: reading(sum(at <= now for at in steps), running=1, waiting=499)  # noqa: E731
    assert play.run(sum(gaps), seen, work) is None


def test_the_reason_says_for_how_long_and_what_ran() -> None:
    play = Play()
    assert play.run(20, still(2.0, running=12)) == play.verdicts[0][1]
    assert play.verdicts[0][1].reason == "hung: no token for 10.0 s with 12 requests running"


def test_requests_that_come_to_an_idle_worker_have_the_whole_timeout() -> None:
    play = Play(replace(RULES, canary=0))
    play.run(100, still(0, running=0), NO_WORK)
    began = play.now - play.began
    assert play.run(30, lambda now: reading(0 if now == began else 1)) is not None
    assert play.verdicts[0][0] - began >= RULES.stall


def test_a_worker_that_goes_on_in_time_is_not_hung() -> None:
    play = Play()
    assert play.run(60, lambda now: reading(int(now / 9.0))) is None


def test_a_load_of_an_adapter_is_given_time_and_counts_as_progress() -> None:
    """The engine makes no steps while it reads one from disk."""
    play = Play()
    loading = replace(BUSY, loading=True)
    play.run(1, still(1))
    assert play.run(25, still(1), loading) is None
    assert play.run(9, still(1), replace(BUSY, loads=1)) is None
    assert play.run(5, still(1), replace(BUSY, loads=1)) is not None


# no answer


@given(st.floats(0.0, 20.0), st.sampled_from([BUSY, NO_WORK]))
def test_a_busy_worker_that_does_not_answer_is_hung(stops: float, work: Work) -> None:
    """Whoever knows that it has requests."""
    play = Play()
    verdict = play.run(stops + 20, lambda now: reading(int(now * 100)) if now < stops or not now else "silent", work)
    assert verdict is not None
    assert verdict.cause == "silent"
    assert stops + RULES.stall - 0.02 <= play.verdicts[0][0] <= stops + RULES.stall + EVERY + 0.1


def test_one_that_never_answered_is_hung_if_the_balancer_has_requests_there() -> None:
    assert Play().run(20, lambda now: "silent") is not None
    assert Play(replace(RULES, ours=False)).run(60, lambda now: "silent") is None


def test_an_idle_worker_that_does_not_answer_is_left_to_its_canary() -> None:
    play = Play()
    assert play.run(39, lambda now: reading(1, running=0) if not now else "silent", NO_WORK) is None
    assert play.run(5, lambda now: "silent", NO_WORK) is not None
    assert 40 <= play.verdicts[0][0] <= 41


def test_a_refused_connection_is_no_hang() -> None:
    assert Play().run(60, lambda now: reading(1) if not now else "refused") is None


def test_an_answer_that_takes_long_is_an_answer() -> None:
    """Each look is open for nearly the stall timeout, and brings news."""
    play = Play()
    for step in range(5):
        play.progress.tick(play.now)
        play.progress.looking()
        for _ in range(19):
            play.now += EVERY
            play.progress.tick(play.now)
            assert play.progress.verdict(BUSY) is None
        play.progress.looked(reading(step))


# waiting


@given(st.integers(1, 100), st.integers(0, 100))
def test_who_only_waits_is_never_hung_while_a_token_of_ours_comes(waiting: int, in_flight: int) -> None:
    play = Play()
    assert play.run(200, still(0, running=0, waiting=waiting), Work(in_flight), canary=lambda: None) is None
    assert play.canaries


def test_who_only_waits_is_not_hung_before_it_was_asked_for_a_token() -> None:
    play = Play()
    assert play.run(20, still(0, running=0, waiting=5), canary=None) is not None
    assert play.canaries == [pytest.approx(RULES.stall / 2, abs=EVERY + 0.1)]
    assert RULES.stall <= play.verdicts[0][0] <= RULES.stall + EVERY + 0.1


def test_a_request_at_an_engine_that_hung_while_idle() -> None:
    """The gauges of a hung engine stay at what they were: only the balancer knows of the request."""
    play = Play()
    verdict = play.run(20, still(0, running=0), Work(in_flight=1))
    assert verdict is not None
    assert verdict.reason.endswith("with 1 request in flight, not even for a request of our own")


# idle


def test_an_idle_worker_is_asked_now_and_then() -> None:
    play = Play()
    assert play.run(100, still(0, running=0), NO_WORK, canary=lambda: None) is None
    assert play.canaries == pytest.approx([30, 60, 90], abs=3 * EVERY)


def test_a_busy_worker_is_never_asked() -> None:
    play = Play()
    assert play.run(300, lambda now: reading(int(now)), canary=lambda: None) is None
    assert play.canaries == []


def test_without_an_interval_an_idle_worker_is_left_in_peace() -> None:
    play = Play(replace(RULES, canary=0))
    assert play.run(300, still(0, running=0), NO_WORK) is None
    assert play.canaries == []


def test_a_token_that_does_not_come_is_a_hang() -> None:
    play = Play()
    assert play.run(60, still(0, running=0), NO_WORK) is not None
    at, verdict = play.verdicts[0]
    assert verdict.cause == "canary"
    assert 40 <= at <= 41


def test_an_error_of_the_engine_is_a_hang_if_it_comes_twice() -> None:
    errors = ["500 dead"]
    once = Play()
    assert once.run(100, still(0, running=0), NO_WORK, canary=lambda: errors.pop() if errors else None) is None
    twice = Play().run(100, still(0, running=0), NO_WORK, canary=lambda: "500 dead")
    assert twice is not None
    assert twice.reason == "hung: asked for one token twice, it answered 500 dead"


def test_a_request_that_comes_after_the_canary_gives_it_the_time_its_prompt_needs() -> None:
    play = Play()
    play.run(30.5, still(0, running=0), NO_WORK)
    assert play.canaries
    long = Work(in_flight=1, waiting=1, largest=16_000)
    assert play.run(14, still(0, running=0), long) is None
    assert play.run(20, still(0, running=0), long) is not None


# those that do not tell


def test_a_server_without_such_metrics_is_not_judged_by_them() -> None:
    for ours in (True, False):
        assert Play(replace(RULES, ours=ours)).run(300, lambda now: None) is None


def test_a_foreign_server_that_does_not_tell_is_not_asked_for_a_token() -> None:
    play = Play(replace(RULES, ours=False))
    assert play.run(300, lambda now: None, NO_WORK) is None
    assert play.canaries == []


def test_a_worker_of_ours_that_does_not_tell_has_its_canary() -> None:
    play = Play()
    assert play.run(60, lambda now: None, NO_WORK) is not None
    assert play.canaries


# a supervisor that did not look


@given(st.lists(st.one_of(st.floats(0.05, 0.5), st.floats(2.0, 10_000.0)), max_size=60))
def test_time_in_which_nobody_looked_does_not_count(pauses: list[float]) -> None:
    play = Play()
    verdict = play.run(sum(pauses), still(0), pauses=pauses)
    watched = sum(min(pause, 1.0) for pause in pauses)
    assert verdict is None or watched >= RULES.stall


def test_a_clock_that_goes_back_is_no_time_either() -> None:
    play = Play()
    play.run(5, still(0))
    play.progress.tick(play.now - 1000)
    assert play.progress.verdict(BUSY) is None


# long prompts


@given(st.integers(0, 1 << 26), st.integers(1, 200_000))
def test_a_prompt_is_given_no_more_than_its_context_takes(largest: int, context: int) -> None:
    given_ = allowance(Work(1, 1, largest), context)
    assert 0 <= given_ <= max(0, context - 2000) / 500


@given(st.integers(0, 1 << 20), st.integers(0, 1 << 20))
def test_a_longer_prompt_is_never_given_less(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert allowance(Work(1, 1, low), None) <= allowance(Work(1, 1, high), None)


def test_a_short_prompt_is_given_nothing_more() -> None:
    assert allowance(Work(5, 5, 4000), None) == 0


def test_while_a_stream_is_under_way_no_prompt_is_an_excuse() -> None:
    assert allowance(Work(2, 2, 1 << 20), 100_000) > 100
    assert allowance(Work(3, 2, 1 << 20), 100_000) == 0


def test_a_long_prompt_is_waited_for() -> None:
    work = Work(in_flight=1, waiting=1, largest=16_000)
    play = Play()
    assert play.run(21.9, still(0), work) is None
    assert play.run(3, still(0), work) is not None


# what is shown


def test_how_long_it_stands_still_is_told_after_a_while() -> None:
    play = Play()
    play.run(2, still(0))
    assert play.progress.without_progress(BUSY) == ""
    play.run(4, still(0))
    assert play.progress.without_progress(BUSY) == "no token for 6 s"
    assert play.progress.without_progress(NO_WORK) == "no token for 6 s"  # by its own word it still runs something


def test_progress_is_seen_when_it_is_made() -> None:
    play = Play()
    assert play.progress.seen_at is None
    play.run(5, still(3.0))
    assert play.progress.seen_at == pytest.approx(play.began + 3.0, abs=EVERY + 0.01)
