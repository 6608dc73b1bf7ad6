"""Events, the sentence about a worker's end, and the times of detection and recovery."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.events import EPOCH_IDS, KEPT, Event, EventLog
from cluster.fleet.exit_report import PATIENCE, ExitReports, Outcome, WorkerExit, sentence
from cluster.fleet.fleet import describe_end
from cluster.monitoring.recovery_times import BOUNDS, RecoveryTimes
from fakes import Clock

ROOT = Path(__file__).parents[2]
LOSS = WorkerExit("instance_1", 7, "killed by signal 9 (pid 4711)", "restart 1 of 5 in 1.2 s", {"pid": 4711})


def _outcome(requests: int, incarnation: int = 7, **became: int) -> dict[str, Any]:
    zeros = {"moved": 0, "retried": 0, "failed": 0}
    return {
        "type": "outcome", "backend": "instance_1", "incarnation": incarnation, "requests": requests, **zeros, **became
    }


def test_an_event_is_kept_heard_and_has_words_for_people_and_a_kind_for_programs() -> None:
    clock, heard = Clock(), []
    log = EventLog(clock)
    log.listeners.append(heard.append)
    log.emit("instance_1", "ready after 1.0 s", kind="worker.ready", data={"seconds": 1.0})
    log.emit("cluster", "strategy random")
    first, second = log.events
    assert heard == [first, second] and (first.id, second.id) == (1, 2)
    assert first.wire() == {
        "id": 1, "at": 1000.0, "subject": "instance_1", "kind": "worker.ready", "text": "instance_1 ready after 1.0 s",
        "data": {"seconds": 1.0},
    }
    assert (second.sentence, second.kind) == ("strategy random", "note")
    assert Event(**first.to_json()) == first


def test_ids_rise_over_supervisors_even_if_the_last_ones_were_not_saved() -> None:
    one = EventLog(Clock())
    one.begin(1, [])
    for _ in range(3):
        one.emit("a", "b")
    saved = [event.to_json() for event in list(one.events)[:1]]
    two = EventLog(Clock())
    two.begin(2, saved)
    two.emit("a", "c")
    assert [event.text for event in two.events] == ["b", "c"]
    assert two.events[-1].id > one.events[-1].id
    three = EventLog(Clock())
    three.begin(2, [{**saved[0], "id": 7 * EPOCH_IDS}])  # a state from elsewhere: still no step back
    three.emit("a", "d")
    assert three.events[-1].id == 7 * EPOCH_IDS + 1


def test_only_the_latest_are_kept() -> None:
    log = EventLog(Clock())
    for number in range(KEPT + 5):
        log.emit("a", str(number))
    assert (len(log.events), log.events[0].text) == (KEPT, "5")


def test_what_is_held_is_told_when_it_is_released_and_never_otherwise() -> None:
    log = EventLog(Clock())
    with log.held() as release:
        log.emit("a", "one")
    with log.held():
        log.emit("a", "never")
    log.emit("a", "two")
    assert [event.text for event in log.events] == ["two"]
    release()
    assert [event.text for event in log.events] == ["two", "one"]


@pytest.mark.parametrize("kind", ["worker.exited", "balancer.lost", "balancer.restarted", "restart.stopped"])
def test_a_loss_is_a_warning_in_the_log(caplog: pytest.LogCaptureFixture, kind: str) -> None:
    log = EventLog(Clock())
    with caplog.at_level("INFO"):
        log.emit("a", "is lost", kind=kind)
        log.emit("a", "is there", kind="worker.ready")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_the_page_about_events_names_every_kind_and_no_other() -> None:
    told = {
        kind for file in (ROOT / "cluster").rglob("*.py")
        for kind in re.findall(r"""\bkind(?:: str)? ?= ?"([a-z.]+)\"""", file.read_text())
    }  # fmt: skip
    rows = re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs" / "events.md").read_text(), re.M)
    assert set(re.findall(r"`([a-z.]+)`", "".join(rows))) == told


@pytest.mark.parametrize(("outcome", "text"), [
    (None, "killed by signal 9 (pid 4711); restart 1 of 5 in 1.2 s"),
    (Outcome(1), "killed by signal 9 (pid 4711) with no requests; restart 1 of 5 in 1.2 s"),
    (Outcome(1, 12, 12), "killed by signal 9 (pid 4711) with 12 requests; 12 moved; restart 1 of 5 in 1.2 s"),
    (Outcome(2, 4, 2, 1, 1),
     "killed by signal 9 (pid 4711) with 4 requests; 2 moved, 1 retried, 1 failed; restart 1 of 5 in 1.2 s"),
    (Outcome(1, 1), "killed by signal 9 (pid 4711) with 1 request; restart 1 of 5 in 1.2 s"),
])  # fmt: skip
def test_the_sentence_about_an_end(outcome: Outcome | None, text: str) -> None:
    assert sentence(LOSS, outcome) == text


@pytest.mark.parametrize(("status", "failure", "words"), [
    (-9, None, "killed by signal 9 (pid 3)"),
    (0, None, "exited with code 0 (pid 3), which nobody asked for"),
    (1, None, "exited with code 1 (pid 3)"),
    (None, None, "ended (pid 3; adopted, so its exit status is not known)"),
    (-9, "health checks keep failing", "ended (pid 3; health checks keep failing)"),
])  # fmt: skip
def test_how_a_worker_ended(status: int | None, failure: str | None, words: str) -> None:
    assert describe_end(status, 3, failure) == words


def _losses() -> tuple[ExitReports, list[tuple[str, Mapping[str, Any]]]]:
    told: list[tuple[str, Mapping[str, Any]]] = []

    def emit(subject: str, text: str, kind: str = "", data: Mapping[str, Any] | None = None) -> None:
        assert kind == "worker.exited" and data is not None and data["pid"] == 4711
        told.append((text, {name: count for name, count in data.items() if name != "pid"}))

    return ExitReports(emit), told


def _told(outcome: Outcome | None) -> list[tuple[str, Mapping[str, Any]]]:
    return [(sentence(LOSS, outcome), outcome.to_json() if outcome else {})]


def test_a_loss_is_told_when_every_balancer_has_spoken() -> None:
    losses, told = _losses()
    losses.lost(LOSS, 0.0, 2)
    losses.outcome(_outcome(3, moved=3), 0.1)
    assert not told
    losses.outcome(_outcome(2, retried=1, failed=1), 0.2)
    assert told == _told(Outcome(2, 5, 3, 1, 1))
    losses.due(100.0)
    assert len(told) == 1


def test_a_loss_waits_no_longer_than_a_second_for_balancers() -> None:
    losses, told = _losses()
    losses.lost(LOSS, 0.0, 1)
    losses.due(PATIENCE - 0.01)
    assert not told
    losses.due(PATIENCE)
    assert told == _told(None)


def test_without_a_balancer_a_loss_is_told_at_once() -> None:
    losses, told = _losses()
    losses.lost(LOSS, 0.0, 0)
    assert told == _told(None)


def test_an_outcome_that_comes_before_the_end_is_kept_for_it_and_not_for_another_incarnation() -> None:
    losses, told = _losses()
    losses.outcome(_outcome(2, moved=2), 0.0)
    losses.outcome(_outcome(9, incarnation=6, moved=9), 0.0)
    losses.lost(LOSS, 5.0, 1)
    assert told == _told(Outcome(1, 2, 2))


def test_at_the_end_everything_is_told() -> None:
    losses, told = _losses()
    losses.lost(LOSS, 0.0, 3)
    losses.due(0.0, everything=True)
    assert told == _told(None)


def test_a_recovery_is_measured_from_the_first_cause_to_being_ready() -> None:
    times = RecoveryTimes()
    times.detected("unhealthy", 2.0)
    times.lost("a", "unhealthy", 10.0)
    times.lost("a", "killed", 12.0)
    assert times.ready("a", 13.5) == 3.5
    assert times.ready("a", 20.0) is None, "it was not lost again"
    times.lost("b", "exit", 20.0)
    times.forget("b")
    assert times.ready("b", 30.0) is None
    seen = times.to_json()
    assert (seen["detect"]["unhealthy"]["count"], seen["detect"]["unhealthy"]["sum"]) == (1, 2.0)
    restored = seen["restore"]["unhealthy"]
    assert (restored["sum"], restored["max"], sum(restored["buckets"])) == (3.5, 3.5, 1)
    assert len(restored["buckets"]) == len(seen["bounds"]) + 1 == len(BOUNDS) + 1
    assert set(seen["restore"]) == {"unhealthy"}
