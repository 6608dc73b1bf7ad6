"""What a worker is pinned to."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet.placement import CPU_MOST, Machine, Placement, choose_gpus
from config.errors import UsageError
from worker.spec import Slot

GIB = 1024**3


def _gpus(*indices: int) -> tuple[tuple[int, str], ...]:
    return tuple((i, f"{i}: H200 141 GiB") for i in indices)


def _on_gpus(count: int, ranks: int = 1, per_gpu: int = 1) -> Placement:
    return Placement(Machine(_gpus(*range(count)), (0, 1), 64 * GIB), ranks=ranks, per_gpu=per_gpu)


def _on_cpu(cores: int = 4, memory: int = 64 * GIB, **more: Any) -> Placement:
    machine = Machine((), tuple(range(cores)), memory)
    return Placement(machine, on_gpu=False, **more)


@pytest.mark.parametrize(
    ("gpus", "ranks", "per_gpu", "capacity"), [(4, 1, 1, 4), (4, 2, 1, 2), (5, 2, 1, 2), (1, 2, 1, 0), (2, 1, 3, 6)]
)
def test_so_many_workers_fit_on_the_gpus(gpus: int, ranks: int, per_gpu: int, capacity: int) -> None:
    assert _on_gpus(gpus, ranks, per_gpu).capacity == capacity


@pytest.mark.parametrize(("on_gpu", "slot"), [(True, Slot(gpus=(0, 1))), (False, Slot())])
def test_where_each_has_a_machine_of_its_own_all_are_pinned_alike(on_gpu: bool, slot: Slot) -> None:
    placement = Placement(Machine((), (), 0), ranks=2, on_gpu=on_gpu, apart=True)
    assert placement.slot(0) == placement.slot(999) == placement.slot_beside([slot], [slot, slot]) == slot
    assert placement.capacity == placement.room_beside(3) == 1024
    placement.require(1024)


@given(st.integers(1, 8), st.integers(1, 3), st.integers(1, 3))
def test_workers_share_a_gpu_only_as_often_as_asked(gpus: int, ranks: int, per_gpu: int) -> None:
    placement = _on_gpus(gpus, ranks, per_gpu)
    slots = [placement.slot(n) for n in range(placement.capacity)]
    used = list(chain.from_iterable(slot.gpus for slot in slots))
    assert all(len(set(slot.gpus)) == ranks and slot.share == per_gpu for slot in slots)
    assert all(used.count(gpu) == per_gpu for gpu in set(used))


def test_neighbours_go_to_different_gpus_first() -> None:
    placement = _on_gpus(2, per_gpu=2)
    assert [placement.slot(n).gpus for n in range(4)] == [(0,), (1,), (0,), (1,)]


def test_gpus_are_taken_in_the_order_they_were_chosen() -> None:
    placement = Placement(Machine(_gpus(3, 1), (), 0))
    assert [placement.slot(n).gpus for n in range(2)] == [(3,), (1,)]


@pytest.mark.parametrize(
    ("placement", "instances", "said"),
    [
        (_on_gpus(1), 2, "2 instances x 1 GPU each need 2, there is 1 (0: H200 141 GiB)"),
        (_on_gpus(3, ranks=2), 2, "2 instances x 2 GPUs each need 4, there are 3 "),
        (_on_gpus(1, ranks=2), 1, "1 instance x 2 GPUs each need 2, there is 1 "),
        (_on_gpus(1, per_gpu=2), 3, "3 instances x 1 GPU each, 2 a GPU need 2, there is 1 "),
    ],
)
def test_too_few_gpus_are_an_error_that_says_what_is_there_and_needed(
    placement: Placement, instances: int, said: str
) -> None:
    with pytest.raises(UsageError) as error:
        placement.require(instances)
    assert said in str(error.value)


def test_spares_take_places_of_their_own() -> None:
    with pytest.raises(UsageError, match="3 instances and 2 spares x 1 GPU each need 5, there are 4"):
        _on_gpus(4).require(3, 2)
    _on_gpus(4).require(3, 1)
    assert _on_gpus(4).room_beside(9) == 4, "a GPU that is not there holds nobody"
    assert _on_cpu(memory=4 * GIB, memory_each=2 * GIB, planned=3).room_beside(2) == 5, "an estimate yields"
    bound = _on_cpu(cores=8, planned=3, spares=1)
    assert [bound.slot(n).cores for n in (0, 3)] == [((0, 1),), ((6, 7),)]


def test_what_fits_is_no_error() -> None:
    _on_gpus(4, ranks=2).require(2)
    _on_cpu().require(1000)  # memory is an estimate: a warning by nature, no reason to refuse


@pytest.mark.parametrize(
    ("memory", "each", "capacity"), [(100, 10, 9), (100, 30, 3), (5, 10, 1), (10_000, 1, CPU_MOST), (1, 0, CPU_MOST)]
)
def test_without_gpus_memory_decides_with_a_tenth_left_over(memory: int, each: int, capacity: int) -> None:
    assert _on_cpu(memory=memory, memory_each=each).capacity == capacity


@given(st.integers(1, 32), st.integers(1, 8), st.integers(1, 3))
def test_core_lists_are_disjoint_equal_and_of_this_machine(cores: int, planned: int, ranks: int) -> None:
    placement = _on_cpu(cores, planned=planned, ranks=ranks)
    lists = [rank for n in range(planned) for rank in placement.slot(n).cores]
    used = list(chain.from_iterable(lists))
    assert len(used) == len(set(used)) and set(used) <= set(range(cores))
    assert len({len(rank) for rank in lists}) <= 1
    assert len(lists) == (planned * ranks if cores >= planned * ranks else 0)


def test_workers_beyond_what_was_planned_are_not_bound() -> None:
    placement = _on_cpu(4, planned=2)
    assert placement.slot(1).cores == ((2, 3),)
    assert placement.slot(2).cores == ()


def test_all_gpus_are_used_unless_some_are_named() -> None:
    assert choose_gpus(_gpus(0, 1, 2), None) == _gpus(0, 1, 2)
    assert choose_gpus(_gpus(0, 1, 2), (2, 0)) == _gpus(2, 0)


def test_a_gpu_that_is_not_there_is_an_error_that_says_which_are() -> None:
    with pytest.raises(UsageError, match=r"--gpus 7: .*; there are: 0: H200 141 GiB; 1: H200"):
        choose_gpus(_gpus(0, 1), (0, 7))
    with pytest.raises(UsageError, match="there are: none"):
        choose_gpus((), (0,))


def test_gpus_of_one_group_are_not_given_to_another_while_both_are_up() -> None:
    placement, other = _on_gpus(3), Slot(gpus=(0,))
    first = placement.slot_beside([], [other])
    assert first is not None and first.gpus == (1,)
    second = placement.slot_beside([first], [other])
    assert second is not None and second.gpus == (2,)
    assert placement.slot_beside([first, second], [other]) is None


def test_workers_of_one_group_share_gpus_beside_another_as_often_as_asked() -> None:
    placement, slots = _on_gpus(4, ranks=2, per_gpu=2), []
    while (slot := placement.slot_beside(slots, [Slot(gpus=(1,))])) is not None:
        slots.append(slot)
    assert [slot.gpus for slot in slots] == [(2, 3), (2, 3)] and slots[0].share == 2


def test_cores_are_divided_among_all_that_may_be_up() -> None:
    placement = _on_cpu(cores=4, planned=1, crowd=2)
    first = placement.slot_beside([], [])
    assert first == placement.slot(0) == Slot(cores=((0, 1),))
    second = placement.slot_beside([], [first])
    assert second == Slot(cores=((2, 3),))
    assert placement.slot_beside([first], [second]) == Slot(cores=())


@given(st.integers(1, 8), st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(0, 7), max_size=8))
def test_nothing_of_another_group_is_ever_given_away(gpus: int, ranks: int, per_gpu: int, taken: list[int]) -> None:
    placement, own = _on_gpus(gpus, ranks, per_gpu), []
    for _ in range(50):
        slot = placement.slot_beside(own, [Slot(gpus=(gpu,)) for gpu in taken])
        if slot is None:
            break
        assert len(slot.gpus) == ranks and not set(slot.gpus) & set(taken)
        own.append(slot)
    uses = [gpu for slot in own for gpu in slot.gpus]
    assert all(uses.count(gpu) <= per_gpu for gpu in uses) and len(own) <= placement.capacity


def test_far_more_workers_than_memory_has_room_for_are_refused() -> None:
    """What one takes is an estimate, so that somewhat more than fit are started at his word who asks for them."""
    each = 100 * 2**20
    for planned in (1, 20, 40):
        _on_cpu(memory=2 * GIB, memory_each=each, planned=planned).require_memory()
    with pytest.raises(UsageError, match=r"1000 workers of about 100 MiB each need 97\.7 GiB, .* has 2 GiB: 16 fit"):
        _on_cpu(memory=2 * GIB, memory_each=each, planned=998, spares=2).require_memory()
    _on_cpu(memory=2 * GIB, memory_each=8 * GIB).require_memory()  # a model alone is refused elsewhere, with what helps
    Placement(Machine((), (), 0), memory_each=each, planned=1000, on_gpu=False, apart=True).require_memory()
