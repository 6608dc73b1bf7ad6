"""Who was refused, as it is told: each kind once a while, however often it happens."""

from __future__ import annotations

from lb.records.refusals import Refusals


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def made() -> tuple[Refusals, Clock]:
    clock = Clock()
    return Refusals(lambda: 5000.0 + clock.now, clock), clock


def test_the_same_over_and_over_is_told_once_with_a_count() -> None:
    refusals, clock = made()
    assert refusals.due() == []
    for _ in range(50):
        refusals.note("127.0.0.1", "POST", "/v1/cluster/scale", 401, "wrong")
    refusals.note("::1", "POST", "/v1/cluster/scale", 401, "wrong")
    assert refusals.due() == [], "more like it may come"
    clock.now += 11
    first, second = refusals.due()
    assert first == {
        "at": 5100.0, "from": "127.0.0.1", "method": "POST", "path": "/v1/cluster/scale", "status": 401,
        "reason": "wrong", "count": 50,
    }  # fmt: skip
    assert (second["from"], second["count"]) == ("::1", 1)
    clock.now += 11
    assert refusals.due() == [], "each is told once"


def test_a_flood_of_different_ones_is_bounded_in_number_and_length() -> None:
    refusals, clock = made()
    for number in range(5000):
        refusals.note("127.0.0.1", "P" * 999, f"/{number}/" + "x" * 9999, 403, "y" * 9999)
    clock.now += 11
    told = refusals.due()
    assert len(told) == 101 and sum(one["count"] for one in told) == 5000
    assert all(len(str(value)) <= 200 for one in told for value in one.values())
