"""Which pods EndpointSlices name, and how many there are to be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.drivers.kubernetes.pods import (
    DELETE_AFTER_S,
    FEWER_AFTER_S,
    MOST_PODS,
    LostPods,
    Pod,
    PodTable,
    Replicas,
    crowded,
    needed,
    read_slice,
)


def _slice(name: str, *pods: tuple[str, str, str], port: Any = 8100, kind: str = "IPv4") -> dict[str, Any]:
    return {
        "metadata": {"name": name}, "addressType": kind,
        "ports": [{"name": "http", "port": 1}, {"name": "agent", "port": port}],
        "endpoints": [
            {"addresses": [host], "targetRef": {"kind": "Pod", "name": pod, "uid": uid}} for pod, uid, host in pods
        ],
    }  # fmt: skip


_A, _B = ("w-0", "0123456789ab", "10.0.0.1"), ("w-1", "ba9876543210", "10.0.0.2")


def test_a_slice_names_its_pods_by_uid_and_the_port_of_their_agents() -> None:
    found = read_slice(_slice("s", _A, _B))
    assert found == {"0123456789ab": Pod("w-0", "0123456789ab", "10.0.0.1", 8100), "ba9876543210": Pod(*_B, 8100)}
    assert [(pod.node, pod.ordinal) for pod in found.values()] == [("w-0.01234567", 0), ("w-1.ba987654", 1)]


@pytest.mark.parametrize(
    "document",
    [
        _slice("s", _A, kind="IPv6"), _slice("s", _A, kind="FQDN"), _slice("s", _A, port=None),
        {**_slice("s"), "endpoints": None}, {**_slice("s", _A), "ports": None},
        {**_slice("s"), "endpoints": [{"addresses": ["10.0.0.9"]}]},
        {**_slice("s"), "endpoints": [{"addresses": ["1.2.3.4"], "targetRef": {"kind": "Node", "name": "n"}}]},
    ],
)
def test_what_is_no_pod_with_an_agent_is_left_out(document: dict[str, Any]) -> None:
    assert read_slice(document) == {}


@pytest.mark.parametrize(
    "document",
    [{}, {"addressType": "IPv4", "ports": [1]}, {**_slice("s"), "endpoints": [{"targetRef": {"kind": "Pod"}}]}],
)
def test_what_is_no_slice_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="EndpointSlice"):
        read_slice(document)


@pytest.mark.parametrize(
    ("name", "ordinal"), [("w-0", 0), ("a-b-17", 17), ("w", None), ("w-", None), ("w-x", None), ("w-1a", None)]
)
def test_a_pod_has_the_number_at_its_end(name: str, ordinal: int | None) -> None:
    assert Pod(name, "u", "h", 1).ordinal == ordinal


def test_a_pod_that_moves_from_one_slice_to_another_is_there_all_the_time() -> None:
    table = PodTable()
    table.replace([_slice("s", _A, _B)])
    table.apply("ADDED", _slice("t", _B))
    assert set(table.pods()) == {"w-0.01234567", "w-1.ba987654"}
    table.apply("MODIFIED", _slice("s", _A))
    table.apply("BOOKMARK", {"metadata": {"resourceVersion": "9"}})
    assert set(table.pods()) == {"w-0.01234567", "w-1.ba987654"}
    table.apply("DELETED", _slice("t"))
    assert set(table.pods()) == {"w-0.01234567"}


def test_a_pod_of_the_same_name_is_another_one() -> None:
    table = PodTable()
    table.replace([_slice("s", _A)])
    table.apply("MODIFIED", _slice("s", ("w-0", "ffffffffffff", "10.0.0.1")))
    assert set(table.pods()) == {"w-0.ffffffff"}


def test_more_pods_than_any_cluster_has_are_refused_and_nothing_has_changed() -> None:
    table = PodTable()
    table.replace([_slice("s", _A)])
    many = [(f"w-{number}", f"{number:012}", "10.0.0.1") for number in range(MOST_PODS + 1)]
    with pytest.raises(ValueError, match="more than"):
        table.apply("ADDED", _slice("t", *many))
    assert set(table.pods()) == {"w-0.01234567"}


_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]), st.sampled_from("stu"),
        st.lists(st.integers(0, 9), max_size=4, unique=True),
    ),
    max_size=30,
)  # fmt: skip


@given(_EVENTS)
def test_after_any_events_it_knows_what_a_new_list_would_tell(events: list[tuple[str, str, list[int]]]) -> None:
    followed, known = PodTable(), dict[str, dict[str, Any]]()
    for kind, name, numbers in events:
        document = _slice(name, *((f"w-{number}", f"{number:012}", "10.0.0.1") for number in numbers))
        followed.apply(kind, document)
        if kind == "DELETED":
            known.pop(name, None)
        elif kind != "BOOKMARK":
            known[name] = document
    listed = PodTable()
    listed.replace(known.values())
    assert followed.pods() == listed.pods()


@pytest.mark.parametrize(
    ("workers", "used", "lost", "pods"),
    [
        (0, [], 0, 0), (3, [], 0, 3), (3, [0, 1, 2], 0, 3), (1, [2], 0, 3), (3, [0, 1], 1, 4), (1, [], 5, 2),
        (0, [], 5, 0),
    ],
)  # fmt: skip
def test_as_many_pods_as_workers_and_none_below_a_used_one_goes(
    workers: int, used: list[int], lost: int, pods: int
) -> None:
    assert needed(workers, used, lost) == pods


@given(st.integers(0, 50), st.sets(st.integers(0, 60)), st.integers(0, 60))
def test_no_pod_that_is_used_is_ever_scaled_away(workers: int, used: set[int], lost: int) -> None:
    pods = needed(workers, used, lost)
    assert pods >= workers and all(ordinal < pods for ordinal in used) and pods <= max(2 * workers, *used, -1) + 1


def test_more_at_once_and_fewer_after_a_while() -> None:
    replicas = Replicas()
    assert replicas.change(1, 3, 0.0) == 3 and replicas.change(3, 3, 1.0) is None
    assert replicas.change(3, 1, 2.0) is None
    assert replicas.change(3, 3, 3.0) is None, "it begins anew"
    assert replicas.change(3, 1, 4.0) is None and replicas.change(3, 1, 3.9 + FEWER_AFTER_S) is None
    assert replicas.change(3, 1, 4.0 + FEWER_AFTER_S) == 1


def test_a_pod_is_deleted_when_it_was_lost_for_long_and_not_again_at_once() -> None:
    lost = LostPods()
    assert lost.due(["a"], 0.0) == [] and lost.due(["a", "b"], DELETE_AFTER_S - 1) == []
    assert lost.due(["a", "b"], DELETE_AFTER_S) == ["a"] and lost.due(["a", "b"], DELETE_AFTER_S + 1) == []
    assert lost.due(["b"], DELETE_AFTER_S + 2) == [] and lost.due(["a"], 9 * DELETE_AFTER_S) == [], "it had come back"


@pytest.mark.parametrize(("used", "free", "found"), [
    ((), (0, 1), None), ((0, 1), (2,), None), ((2,), (0, 1), 2), ((0, 3), (2,), 3), ((1, 2), (0, 4), 2),
])  # fmt: skip
def test_the_highest_pod_that_is_used_keeps_free_ones_below(
    used: tuple[int, ...], free: tuple[int, ...], found: int | None
) -> None:
    assert crowded(used, free) == found
