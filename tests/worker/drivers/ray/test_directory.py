"""Who waits for a broker that does not answer, and who does not."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from pathlib import Path

import pytest

from fakes import eventually
from worker.drivers.nodes import HeldPlace, WorkerNeed
from worker.drivers.ray.directory import RayDirectory


@pytest.mark.measured
def test_a_place_waits_for_no_look_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor does nothing else meanwhile."""
    monkeypatch.setattr("worker.drivers.ray.directory._BUSY_S", 0.05)
    directory = RayDirectory("auto", "name", "key", 10.0, tmp_path / "log")
    directory._argv = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    with pytest.raises(OSError, match="not there yet"):
        directory.place("instance_0", WorkerNeed(1), ["127.0.0.2"])

    def look() -> None:
        with contextlib.suppress(OSError):
            directory.agents()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        eventually(directory._lock.locked)
        began = time.monotonic()
        with pytest.raises(OSError, match="being asked something else"):
            directory.place("instance_0", WorkerNeed(1), ["127.0.0.2"])
        assert time.monotonic() - began < 5
    finally:
        directory.close()
        looking.join(10)
    assert not looking.is_alive()


def test_where_workers_are_is_said_of_all_and_what_they_hold_of_those_that_hold_something(tmp_path: Path) -> None:
    directory = RayDirectory("auto", "name", "key", 10.0, tmp_path / "log")
    assert directory._look() == {"ask": "agents", "keep": None, "used": None}, "nothing is known yet"
    held, waits = HeldPlace(WorkerNeed(1), "h2"), HeldPlace(WorkerNeed(2), None)
    places = {"a": HeldPlace(WorkerNeed(), "h1"), "b": held, "c": waits}
    directory.keep(places)
    said = directory._look()
    assert said["used"] == ["h1", "h2"]
    assert {name: place["host"] for name, place in said["keep"].items()} == {"b": "h2", "c": None}


def test_what_it_was_is_said_until_it_is_tried_again(tmp_path: Path) -> None:
    directory = RayDirectory("auto", "name", "key", 10.0, tmp_path / "log")
    directory._argv = [sys.executable, "-S", "-c", "print('{\"error\": \"no Ray\"}')"]
    for _ in range(2):
        with pytest.raises(OSError, match=r"^no Ray$"):
            directory.agents()
        directory._argv = ["/does/not/exist"]
    directory.close()
