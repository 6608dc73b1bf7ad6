"""What Ray's autoscaler is told of workers that wait, with a Ray that is played."""

from __future__ import annotations

from typing import Any

import pytest

from fakes import Clock
from worker.drivers.nodes import WorkerNeed
from worker.drivers.ray.room_requests import RoomRequests


class Ray:
    """``asked``: the options of each task, by number; ``done``: those for which there was room; ``cancelled``."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.done: set[int] = set()
        self.cancelled: list[int] = []

    def remote(self, *_: Any) -> Any:
        """Of a function and of what it becomes."""
        return self if _ else len(self.asked) - 1

    def options(self, **given: Any) -> Any:
        self.asked.append(given)
        return self

    def wait(self, tasks: list[int], timeout: float) -> tuple[list[int], list[int]]:
        assert timeout == 0, "nobody is waited for"
        return [task for task in tasks if task in self.done], [task for task in tasks if task not in self.done]

    def cancel(self, task: int) -> None:
        self.cancelled.append(task)


@pytest.fixture
def ray() -> Ray:
    return Ray()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def requests(ray: Ray, clock: Clock) -> RoomRequests:
    return RoomRequests(ray, "c", clock)


def test_a_worker_asks_once_for_what_it_needs(ray: Ray, requests: RoomRequests) -> None:
    for _ in range(3):
        requests.ask("a", WorkerNeed(2, {"fast": 0.5}, {"zone": "b"}))
    [asked] = ray.asked
    assert (asked["num_gpus"], asked["num_cpus"], asked["resources"]) == (2, 0, {"fast": 0.5})
    assert asked["label_selector"] == {"zone": "b"} and asked["name"] == "clusterctl-c/a waits"


def test_what_it_needs_may_change(ray: Ray, requests: RoomRequests) -> None:
    requests.ask("a", WorkerNeed(1))
    requests.ask("a", WorkerNeed(2))
    assert [asked["num_gpus"] for asked in ray.asked] == [1, 2] and ray.cancelled == [0]
    assert "label_selector" not in ray.asked[0]


def test_who_waits_on_though_there_was_room_asks_again_in_a_while(
    ray: Ray, requests: RoomRequests, clock: Clock
) -> None:
    """The node may be one on which no agent answers yet."""
    requests.ask("a", WorkerNeed(1))
    ray.done.add(0)
    for later, asked in ((0.0, 1), (4.0, 1), (2.0, 2)):
        clock.advance(later)
        requests.ask("a", WorkerNeed(1))
        assert len(ray.asked) == asked
    assert ray.cancelled == [], "it was over"


def test_nobody_asks_for_what_is_not_wanted_any_more(ray: Ray, requests: RoomRequests) -> None:
    for worker in "abc":
        requests.ask(worker, WorkerNeed(1))
    requests.withdraw("a")
    requests.withdraw("a")
    requests.keep(["b"])
    assert ray.cancelled == [0, 2]
    requests.keep(())
    assert ray.cancelled == [0, 2, 1]


def test_what_cannot_be_cancelled_is_no_harm(ray: Ray, requests: RoomRequests, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: int) -> None:
        raise ValueError("it is gone")

    requests.ask("a", WorkerNeed(1))
    monkeypatch.setattr(ray, "cancel", gone)
    requests.withdraw("a")
    requests.ask("a", WorkerNeed(1))
    assert len(ray.asked) == 2
