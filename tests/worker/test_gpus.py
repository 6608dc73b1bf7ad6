"""The GPUs that may be used."""

from __future__ import annotations

import pynvml
import pytest

from worker import gpus
from worker.gpus import Gpu, visible_only

ALL = [Gpu(i, f"GPU-{c}000-1", "H200", 141 * 1024**3, 0) for i, c in enumerate("abc")]
TWINS = [*ALL, Gpu(3, "GPU-a999-1", "H200", 1, 0)]


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("0", [0]),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("0,7,1", [0]),
        ("-1", []),
        ("0,-1,1", [0]),
        ("NoDevFiles", []),
        ("1,1", [1]),
        ("GPU-b", [1]),
        ("GPU-c000-1,0", [2, 0]),
        ("GPU-", []),
        ("1,GPU-b", [1]),
        ("00", []),
    ],
)
def test_cudas_rule_decides_what_is_visible(visible: str | None, indices: list[int]) -> None:
    assert [g.index for g in visible_only(ALL, visible)] == indices


def test_a_beginning_that_two_share_names_none() -> None:
    assert visible_only(TWINS, "GPU-a") == []
    assert visible_only(TWINS, "GPU-a0") == [ALL[0]]


def test_a_gpu_is_described_for_people() -> None:
    assert str(ALL[1]) == "1: H200 141 GiB"


def _fail(*_: object) -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)


@pytest.mark.parametrize("visible", [None, "0"])
def test_without_a_driver_there_are_none(monkeypatch: pytest.MonkeyPatch, visible: str | None) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", _fail)
    assert gpus.detect(visible) == []


def _two(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []

    class Memory:
        total, used = 8 * 1024**3, 1

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: calls.append("shutdown"))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda handle: Memory)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: f"GPU-{handle}".encode())
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda handle: "A100")
    return calls


def test_what_the_driver_reports_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _two(monkeypatch)
    assert gpus.detect() == [Gpu(i, f"GPU-{i}", "A100", 8 * 1024**3, 1) for i in range(2)]
    assert [g.index for g in gpus.detect("1")] == [1]
    assert calls == ["shutdown", "shutdown"]


def test_a_driver_that_fails_half_way_reports_none(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _two(monkeypatch)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", _fail)
    assert gpus.detect() == [] and calls == ["shutdown"]
