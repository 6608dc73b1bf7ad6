"""Who waits for a broker that does not answer, and who does not."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from pathlib import Path

import pytest

from fakes import eventually
from worker.drivers.nodes import WorkerNeed
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
