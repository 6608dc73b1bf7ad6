"""Whether models can be up together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet.placement import Machine, Placement
from cluster.models.room import Footprint, fit, footprint
from worker.spec import Slot

GIB = 1024**3
GPUS = Machine(tuple((i, str(i)) for i in range(4)), (0, 1), 64 * GIB)


def wants(blocks: int, gpus: tuple[int, ...] = (0, 1, 2, 3), ranks: int = 1) -> Footprint:
    return Footprint(blocks=blocks, ranks=ranks, gpus=gpus)


@pytest.mark.parametrize(
    ("footprints", "fits"),
    [
        ([Footprint(memory=50), Footprint(memory=40)], True), ([Footprint(memory=50), Footprint(memory=41)], False),
        ([wants(2), wants(2)], True), ([wants(2), wants(3)], False),
        ([wants(1, ranks=2), wants(1, ranks=2), wants(1)], False),
        ([Footprint(held=frozenset({1})), wants(2, ranks=2)], False),
        ([Footprint(held=frozenset({1})), wants(1, ranks=2)], True),
        ([wants(1), Footprint(held=frozenset({0})), wants(2)], True),
        ([wants(1, (0,)), Footprint(held=frozenset({0}))], False),
        ([Footprint(held=frozenset({0})), Footprint(held=frozenset({0}))], False),
    ],
)  # fmt: skip
def test_models_fit_beside_each_other(footprints: list[Footprint], fits: bool) -> None:
    assert fit(footprints, 100) is fits


def test_what_a_model_takes() -> None:
    on_cpu = Placement(Machine((), (0,), 64 * GIB), on_gpu=False, memory_each=3 * GIB)
    assert footprint(on_cpu, 2, [Slot()], memory=True) == Footprint(memory=6 * GIB)
    assert footprint(on_cpu, 2, [Slot()], memory=False) == Footprint()
    on_gpu = Placement(GPUS, ranks=2, per_gpu=2)
    assert footprint(on_gpu, 3, [], memory=True) == Footprint(blocks=2, ranks=2, gpus=(0, 1, 2, 3))
    held = footprint(on_gpu, 3, [Slot(gpus=(0, 1)), Slot(gpus=(2, 3))], memory=True)
    assert held == Footprint(held=frozenset({0, 1, 2, 3}))


@given(st.lists(st.tuples(st.integers(1, 2), st.integers(1, 2), st.sets(st.integers(0, 3), min_size=1)), max_size=4))
def test_what_fits_is_placed(asked: list[tuple[int, int, set[int]]]) -> None:
    """In the order in which it was said to fit."""
    models = [
        (Placement(Machine(tuple((i, str(i)) for i in sorted(gpus)), (0,), GIB), ranks=ranks), count)
        for count, ranks, gpus in asked
    ]
    fits, others = fit([footprint(placement, count, [], memory=True) for placement, count in models], GIB), []
    placed = True
    for placement, count in models:
        own: list[Slot] = []
        for _ in range(count):
            slot = placement.slot_beside(own, others)
            placed = placed and slot is not None
            own += [slot] if slot is not None else []
        others += own
    assert placed is fits
