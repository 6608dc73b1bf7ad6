"""How many failed probes in a row mean what."""

from __future__ import annotations

import pytest

from cluster.monitoring.probes import Health, Liveness

WELL, OUT, LOST = Health.WELL, Health.OUT, Health.LOST


@pytest.mark.parametrize(
    ("probes", "changes"),
    [
        ("+++", [None, None, None]),
        ("--", [None, None]),
        ("---", [None, None, OUT]),
        ("--+--", [None, None, None, None, None]),
        ("----", [None, None, OUT, None]),
        ("-----", [None, None, OUT, None, LOST]),
        ("------", [None, None, OUT, None, LOST, None]),
        ("---+", [None, None, OUT, WELL]),
        ("---+---", [None, None, OUT, WELL, None, None, OUT]),
        ("-----+", [None, None, OUT, None, LOST, WELL]),
    ],
)
def test_a_change_is_told_once_and_when_it_happens(probes: str, changes: list[Health | None]) -> None:
    liveness = Liveness(failures=3, fatal=5)
    assert [liveness.observe(p == "+") for p in probes] == changes


def test_with_equal_thresholds_it_is_given_up_at_once() -> None:
    assert Liveness(failures=1, fatal=1).observe(False) is LOST


def test_one_adopted_out_of_rotation_comes_back_with_one_success() -> None:
    liveness = Liveness(3, 5, health=OUT)
    assert [liveness.observe(False), liveness.observe(True)] == [None, WELL]
