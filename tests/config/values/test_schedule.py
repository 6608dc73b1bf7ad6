"""How few workers there may be, by the time of the week."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import UsageError
from config.settings import load
from config.values import schedule

MONDAY = datetime(2026, 3, 2)
MINUTES = st.integers(0, 7 * 24 * 60 - 1)


def _at(text: str, day: int, time: str) -> int:
    hours, minutes = map(int, time.split(":"))
    return schedule.parse(text).at(MONDAY + timedelta(days=day, hours=hours, minutes=minutes))


@pytest.mark.parametrize(
    ("day", "time", "count"),
    [(0, "07:59", 1), (0, "08:00", 4), (4, "18:59", 4), (4, "19:00", 1), (5, "12:00", 1), (6, "12:00", 1)],
)
def test_a_window_holds_on_its_days_from_its_start_to_before_its_end(day: int, time: str, count: int) -> None:
    assert _at("4@mon-fri 08:00-19:00", day, time) == count


@pytest.mark.parametrize(
    ("day", "time", "count"),
    [(4, "21:59", 2), (4, "22:00", 5), (4, "23:59", 5), (5, "00:00", 5), (5, "05:59", 5), (5, "06:00", 2),
     (4, "03:00", 2), (6, "22:00", 5), (0, "01:00", 5), (0, "23:00", 2)],
)  # fmt: skip
def test_over_midnight_it_belongs_to_the_day_on_which_it_began(day: int, time: str, count: int) -> None:
    assert _at("2, 5@fri+sun 22:00-06:00", day, time) == count


def test_days_go_over_the_end_of_the_week_and_the_largest_of_several_holds() -> None:
    assert [_at("3@sat-mon 00:00-24:00", day, "12:00") for day in range(7)] == [3, 1, 1, 1, 1, 3, 3]
    assert _at("1,3@08:00-12:00,2@mon 11:00-13:00", 0, "11:30") == 3
    assert _at("1,3@08:00-12:00,2@mon 11:00-13:00", 0, "12:30") == 2


def test_clocks_that_are_put_forward_and_back() -> None:
    berlin, least = ZoneInfo("Europe/Berlin"), schedule.parse("4@02:00-03:00")

    def hours(day: datetime) -> int:
        """For how many hours of that day there are four."""
        minutes = [day.replace(tzinfo=UTC) + timedelta(minutes=n) for n in range(26 * 60)]
        return sum(least.at(minute.astimezone(berlin)) == 4 for minute in minutes) // 60

    assert hours(datetime(2026, 3, 28, 20)) == 0  # two o'clock is three o'clock
    assert hours(datetime(2026, 10, 24, 20)) == 2  # two o'clock comes twice
    assert hours(datetime(2026, 6, 1, 20)) == 1


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 23), st.integers(0, 24), MINUTES)
def test_never_below_what_is_usual_nor_above_the_most(usual: int, more: int, start: int, end: int, at: int) -> None:
    text = f"{usual},{more}@tue-thu {start:02}:00-{end:02}:00"
    if start == end:
        return
    made = schedule.parse(text)
    assert usual <= made.at(MONDAY + timedelta(minutes=at)) <= made.most == max(usual, more)


@pytest.mark.parametrize(
    "text",
    ["", "x", "1,2", "4@", "4@mon", "4@moo 08:00-09:00", "4@mon-fri 08:00-08:00", "4@24:00-08:00", "4@08:60-09:00",
     "4@08:00-25:00", "5000", "-1", "4@mon-fri-sat 08:00-09:00", True, 1.5, [], ["1", 2.5],
     ",".join(["1@mon 08:00-09:00"] * 65)],
)  # fmt: skip
def test_anything_else_is_refused_by_the_name_of_the_setting(text: object) -> None:
    with pytest.raises(UsageError, match="--min-instances"):
        load({"min_instances": text})


@pytest.mark.parametrize(
    ("given", "kept"),
    [("3", 3), (0, 0), ("1,4@MON-FRI 08:00-19:00", "1, 4@mon-fri 08:00-19:00"),
     ([2, "4@sat 08:00-19:00"], "2, 4@sat 08:00-19:00")],
)  # fmt: skip
def test_a_number_stays_a_number_and_times_are_kept_in_one_form(given: object, kept: object) -> None:
    assert load({"min_instances": given, "instances": 3}).min_instances == kept


def test_the_most_workers_are_no_fewer_than_those_of_any_time() -> None:
    with pytest.raises(UsageError, match="max_instances 3 is below min_instances 4"):
        load({"min_instances": "4@mon-fri 08:00-19:00", "max_instances": 3})


@pytest.mark.parametrize(
    ("given", "mode"), [("true", "on"), (True, "on"), ("OFF", "off"), ("advise", "advise"), (False, "off")]
)
def test_autoscaling_is_named_in_several_ways(given: object, mode: str) -> None:
    assert load({"autoscale": given}).autoscale == mode


def test_it_is_switched_on_by_the_environment_of_other_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTO_SCALING", "true")
    assert load({}).autoscale == "on"
