"""What a job is given of the machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.errors import Refused
from cluster.jobs.environment import job_environment
from cluster.jobs.record import GpuWish, JobRecord
from cluster.jobs.resources import JobShare, MachineUse, share

CPU = MachineUse((), (), on_cpu=True, cores=8)
GPUS = MachineUse((0, 1, 2), {1}, on_cpu=False, cores=8)
IDLE = MachineUse((), (), on_cpu=False, cores=8)


@pytest.mark.parametrize(
    ("asked", "use", "given"),
    [
        ({}, GPUS, JobShare((0,), False, None)),
        ({}, replace(GPUS, taken={0}), JobShare((2,), False, None)),
        ({}, replace(GPUS, taken={0, 2}), None),
        ({"wish": GpuWish((0, 2))}, GPUS, JobShare((0, 2), False, None)),
        ({"wish": GpuWish((0, 2))}, replace(GPUS, taken={2}), None),
        ({"wish": GpuWish((0, 1), share=True)}, replace(GPUS, taken={0}), JobShare((0, 1), False, None)),
        ({"wish": GpuWish(())}, GPUS, JobShare((), False, 8)),
        ({"wish": GpuWish((2,))}, GPUS, JobShare((2,), False, None)),
        ({"wish": GpuWish((1,), share=True)}, GPUS, JobShare((1,), False, None)),
        ({"background": True}, GPUS, JobShare((0,), True, None)),
        ({}, CPU, JobShare((), True, 4)),
        ({"background": False}, CPU, JobShare((), False, 4)),
        ({}, IDLE, JobShare((), False, 8)),
        ({}, MachineUse((0,), {0}, on_cpu=False, cores=1), JobShare((), False, 1)),
        ({"computes": False}, CPU, JobShare((), False, None)),
        ({"computes": False, "background": True}, GPUS, JobShare((), True, None)),
    ],
)
def test_a_job_gets_what_nobody_uses(asked: dict[str, Any], use: MachineUse, given: JobShare | None) -> None:
    assert share(JobRecord("train-1", "train", "me", 1.0, **asked), use) == given


@pytest.mark.parametrize(
    ("named", "words"), [((7,), "there is no GPU 7 for jobs; there are: 0, 1, 2"), ((0, 1), "GPU 1 serves")]
)
def test_gpus_that_serve_are_given_only_when_told(named: tuple[int, ...], words: str) -> None:
    with pytest.raises(Refused, match=words):
        share(JobRecord("train-1", "train", "me", 1.0, wish=GpuWish(named)), GPUS)


def test_the_environment_says_what_it_may_take_and_people_may_say_otherwise() -> None:
    assert job_environment({"HF_TOKEN": "x"}, (0, 2)) == {
        "HF_TOKEN": "x", "CUDA_VISIBLE_DEVICES": "0,2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"
    }  # fmt: skip
    found = job_environment({"OMP_NUM_THREADS": "3"}, (), 8)
    assert (found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"], found["CUDA_VISIBLE_DEVICES"]) == ("3", "8", "")
