"""Adapters x workers, as `GET /v1/cluster/placement` describes them."""

from __future__ import annotations

from lb.admin import placement
from lb.routing.worker_view import WorkerView


def _view(*sent: str, over: tuple[str, ...] = ()) -> WorkerView:
    view = WorkerView(slots=2, places=3, kv_tokens=4_096)
    for name in sent:
        view.enter(name, 8, 10, ())
    for name in over:
        view.leave(name)
    return view


def test_it_says_where_adapters_belong_are_and_are_busy() -> None:
    view = _view("a", "b", "c", "c", over=("a", "b"))
    found = placement.described({"w0": view, "w1": None}, {"a": ("w1",), "c": ("w0", "w1")}, {"a": 8, "c": 16, "z": 64})
    assert found["workers"] == {"w0": {"slots": 2}, "w1": {"slots": None}}
    cells = {adapter["lora_name"]: adapter["on"] for adapter in found["adapters"]}
    assert list(cells) == ["c", "a", "b", "z"], "the busiest first, then those in most places"
    nothing = {"active": 0, "resident": False, "held": False, "home": False}
    assert cells["c"] == {
        "w0": {"active": 2, "resident": True, "held": True, "home": True}, "w1": {**nothing, "home": True}
    }  # fmt: skip
    assert cells["a"] == {"w0": {**nothing, "held": True}, "w1": {**nothing, "home": True}}, "its slot went to another"
    assert cells["b"] == {"w0": {**nothing, "resident": True, "held": True}}
    assert cells["z"] == {}
    assert [adapter["rank"] for adapter in found["adapters"]] == [16, 8, None, 64]


def test_of_very_many_the_busiest_are_told() -> None:
    ranks = {f"a{n}": 8 for n in range(placement.MOST + 5)}
    found = placement.described({"w0": _view("a1003")}, {}, ranks)
    assert found["adapters"][0]["lora_name"] == "a1003"
    assert (len(found["adapters"]), found["left_out"]) == (placement.MOST, 5)
