"""Which GPUs of those that are held together a worker gets, and on which node."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import Agents
from worker.drivers.nodes import HeldPlace, WorkerNeed, WorkerPlace, own_gpus
from worker.drivers.remote.driver import RemoteDriver


@pytest.mark.parametrize(
    ("held", "used", "wanted", "own"),
    [
        ([0, 1], [], 2, (0, 1)),
        ([0, 1], [0], 1, (1,)),
        ([1, 0, 2], [1], 2, (0, 2)),
        ([0, 0], [0], 1, (0,)),
    ],
)
def test_what_is_held_and_not_used(held: list[int], used: list[int], wanted: int, own: tuple[int, ...]) -> None:
    assert own_gpus(held, used, wanted) == own


def test_too_few_are_not_made_up() -> None:
    with pytest.raises(OSError, match="1 GPUs are held there"):
        own_gpus([0], [0], 1)


@given(st.permutations(range(6)), st.data())
def test_places_made_again_in_any_order_never_give_one_gpu_twice(again: list[int], data: st.DataObject) -> None:
    used = data.draw(st.lists(st.sampled_from(range(6)), unique=True, max_size=5))
    own = own_gpus(again, used, 1)
    assert not set(own) & set(used)


@pytest.mark.processes
def test_each_on_the_node_with_the_fewest_that_has_room(tmp_path: Path) -> None:
    agents = Agents(tmp_path / "agents", {"a": "127.0.0.1", "b": "127.0.0.2"})
    driver = RemoteDriver(agents, places=agents)
    try:
        taken: dict[str, WorkerPlace] = {}
        for name, gpus in (("large", 2), ("one", 1), ("other", 1)):
            taken[name] = driver.place(name, WorkerNeed(gpus), taken)
        assert {name: (place.endpoint.host, place.gpus) for name, place in taken.items()} == {
            "large": ("127.0.0.1", (0, 1)), "one": ("127.0.0.2", (0,)), "other": ("127.0.0.2", (1,)),
        }  # fmt: skip
        with pytest.raises(OSError, match="no node has 1 GPUs free"):
            driver.place("more", WorkerNeed(1), taken)
        driver.keep({name: HeldPlace(WorkerNeed(1), None) for name in ("large", "other")})
        del taken["one"]
        assert driver.place("more", WorkerNeed(1), taken).gpus == (0,)
        assert [(node.name, node.state) for node in driver.nodes()] == [("a", "up"), ("b", "up")]
    finally:
        driver.end()
        driver.close()
