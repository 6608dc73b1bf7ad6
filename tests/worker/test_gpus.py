"""The GPUs that may be used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pynvml
import pytest

from config.errors import UsageError
from fakes import Clock
from worker import gpus
from worker.gpus import Gpu, GpuReading, Monitor, visible_only

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


@pytest.mark.parametrize("visible", ["MIG-a1b2", "0, MIG-a1b2"])
def test_parts_of_gpus_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    calls = _two(monkeypatch)
    with pytest.raises(UsageError, match=rf"^CUDA_VISIBLE_DEVICES={visible}: parts of GPUs \(MIG\) are not understood"):
        gpus.detect(visible)
    assert calls == ["shutdown"]
    monkeypatch.setattr(pynvml, "nvmlInit", _fail)
    assert gpus.detect(visible) == [], "there is nothing to name"


def test_a_driver_that_fails_half_way_reports_none(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _two(monkeypatch)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", _fail)
    assert gpus.detect() == [] and calls == ["shutdown"]


@pytest.mark.parametrize("question", ["HandleByIndex", "UUID", "Name", "MemoryInfo"])
@pytest.mark.parametrize("visible", [None, "1,0"])
def test_a_gpu_that_fails_leaves_the_others_and_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, question: str, visible: str | None
) -> None:
    Driver(monkeypatch).broken[f"nvmlDeviceGet{question}"] = pynvml.NVML_ERROR_GPU_IS_LOST
    alive = [] if visible and question != "MemoryInfo" else [0]  # the list ends at what names no GPU
    assert [gpu.index for gpu in gpus.detect(visible)] == alive
    assert [record.getMessage() for record in caplog.records] == ["GPU 1 is left out: NVML says GPU is lost"]


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NO_PERMISSION])
def test_a_gpu_whose_memory_is_not_told_is_one_all_the_same(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    Driver(monkeypatch).broken["nvmlDeviceGetMemoryInfo"] = error
    one, other = gpus.detect()
    assert (one.memory_total, other.memory_total, str(other)) == (8000, 0, "1: H200 of unknown memory")


def test_a_gpu_that_cannot_be_identified_is_not_read_and_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    Driver(monkeypatch).broken["nvmlDeviceGetUUID"] = pynvml.NVML_ERROR_GPU_IS_LOST
    assert [reading.index for reading in Monitor().read()] == [0]


# read again and again


class Memory(NamedTuple):
    total: int
    used: int


class Utilization(NamedTuple):
    gpu: int
    memory: int


class Driver:
    """NVML with two GPUs; ``broken`` questions are answered by that error, of the second GPU alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.there = True
        self.broken: dict[str, int] = {}
        answers: dict[str, Callable[..., Any]] = {
            "nvmlInit": self._begin, "nvmlShutdown": lambda: self.calls.append("shutdown"),
            "nvmlDeviceGetCount": lambda: 2, "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}", "nvmlDeviceGetName": lambda handle: "H200",
            "nvmlDeviceGetMemoryInfo": lambda handle: Memory(8000, 1000 * (handle + 1)),
            "nvmlDeviceGetUtilizationRates": lambda handle: Utilization(25, 3),
            "nvmlDeviceGetTemperature": lambda handle, sensor: 61,
            "nvmlDeviceGetPowerUsage": lambda handle: 310_500,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(pynvml, name, self._asked(name, answer))

    def _begin(self) -> None:
        self.calls.append("init")
        if not self.there:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    def _asked(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*args: Any) -> Any:
            if name in self.broken and args[:1] == (1,):
                raise pynvml.NVMLError(self.broken[name])
            return answer(*args)

        return ask


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver(monkeypatch)


def test_readings_are_in_bytes_parts_degrees_and_watts(driver: Driver) -> None:
    one, other = Monitor().read()
    assert one == GpuReading(0, "GPU-0", "H200", 8000, 1000, 0.25, 61.0, 310.5)
    assert (other.index, other.uuid, other.memory_used) == (1, "GPU-1", 2000)


def test_all_readings_are_of_one_session(driver: Driver) -> None:
    monitor = Monitor()
    for _ in range(3):
        assert len(monitor.read()) == 2
    monitor.close()
    assert driver.calls == ["init", "shutdown"]


def test_only_visible_gpus_are_read(driver: Driver) -> None:
    assert [reading.index for reading in Monitor("1").read()] == [1]


@pytest.mark.parametrize(("question", "field"), [
    ("nvmlDeviceGetMemoryInfo", "memory_used"), ("nvmlDeviceGetUtilizationRates", "utilisation"),
    ("nvmlDeviceGetTemperature", "temperature"), ("nvmlDeviceGetPowerUsage", "power"),
])  # fmt: skip
def test_what_a_gpu_does_not_tell_is_unknown_and_nothing_else(driver: Driver, question: str, field: str) -> None:
    driver.broken[question] = pynvml.NVML_ERROR_NOT_SUPPORTED
    monitor = Monitor()
    one, other = monitor.read()
    assert getattr(one, field) is not None and getattr(other, field) is None
    assert other.name == "H200"


def test_a_gpu_that_is_lost_leaves_the_others(driver: Driver) -> None:
    monitor = Monitor()
    monitor.read()
    for name in ("MemoryInfo", "UtilizationRates", "Temperature", "PowerUsage"):
        driver.broken[f"nvmlDeviceGet{name}"] = pynvml.NVML_ERROR_GPU_IS_LOST
    one, other = monitor.read()
    assert one.memory_used == 1000
    assert (other.memory_used, other.temperature) == (None, None)


def test_without_a_driver_nothing_is_read_and_it_is_asked_for_seldom(driver: Driver) -> None:
    clock, driver.there = Clock(), False
    monitor = Monitor(clock=clock)
    assert monitor.read() == monitor.read() == []
    assert driver.calls == ["init"]
    driver.there = True
    clock.advance(61.0)
    assert len(monitor.read()) == 2


def test_a_session_that_is_over_is_begun_anew(driver: Driver) -> None:
    clock = Clock()
    monitor = Monitor(clock=clock)
    monitor.read()
    clock.advance(3600.0)
    driver.broken["nvmlDeviceGetMemoryInfo"] = pynvml.NVML_ERROR_UNINITIALIZED
    assert monitor.read() == []
    driver.broken.clear()
    clock.advance(59.0)
    assert monitor.read() == [], "not at once again"
    clock.advance(2.0)
    assert len(monitor.read()) == 2


def test_a_driver_that_fails_while_its_gpus_are_counted_is_left(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", _fail)
    assert Monitor().read() == [] and driver.calls == ["init", "shutdown"]
