"""A day in short: as many engines as a rule asks for."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

import sim
from cluster.fleet.autoscaler import Demand
from sim.__main__ import main
from sim.autoscaling import RULES, DayRun, PodRule, day
from sim.traces import read
from worker.sim.engine.costs import H100_8B

pytestmark = pytest.mark.long

EXCERPT = Path(sim.__path__[0]) / "excerpts" / "azure_2023_conversation.csv"
ROWS = read(EXCERPT)


def test_a_day_is_busy_when_it_should_be_and_in_order() -> None:
    rows = list(day(ROWS, ROWS, 0.5))
    assert all(one.at <= other.at for one, other in pairwise(rows))
    hours = [sum(h * 3600 <= row.at < (h + 1) * 3600 for row in rows) for h in range(24)]
    assert hours.index(max(hours)) in range(14, 20) and hours.index(min(hours)) in range(2, 8)
    assert rows[-1].at < 24 * 3600


@pytest.mark.parametrize("name", RULES)
def test_every_request_is_answered_by_as_many_workers_as_are_asked_for(name: str) -> None:
    rows = list(day(ROWS, ROWS, 3.0, 0.5))
    one, again = (DayRun(H100_8B, RULES[name](20, 9)).drive(iter(rows)) for _ in range(2))
    assert one == again
    assert one.requests == len(rows)
    assert 1 < one.most <= 9
    assert 0.5 * 1 <= one.worker_hours <= 9 * 0.6
    assert one.good > 0.5 * one.requests


def test_the_rule_of_pods_waits_before_it_takes_any_away() -> None:
    rule = PodRule(10.0, 50)
    assert rule.wanted(Demand(10), 1, True, 0.0) == 1
    assert rule.wanted(Demand(11), 1, True, 15.0) == 1  # within a tenth
    assert rule.wanted(Demand(200), 1, True, 30.0) == 5  # four more at a time
    assert rule.wanted(Demand(200), 20, True, 45.0) == 20
    assert rule.wanted(Demand(10), 20, True, 300.0) == 20
    assert rule.wanted(Demand(10), 20, True, 346.0) == 1


def test_one_command_makes_the_table() -> None:
    made = CliRunner().invoke(
        main, ["autoscale", str(EXCERPT), str(EXCERPT), "--hours", "0.1", "--each", "20"], catch_exceptions=False
    )
    assert made.output.count("\n") == 2 + len(RULES)
