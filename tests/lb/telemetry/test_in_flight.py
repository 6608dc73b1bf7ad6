"""What other machines have in flight, beside what other processes here have."""

from __future__ import annotations

from pathlib import Path

import pytest

from lb.telemetry import in_flight
from lb.telemetry.in_flight import RemoteLoads
from lb.telemetry.shared_counters import Counters


def test_what_other_machines_have_counts_as_what_other_processes_have(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "counters.bin")
    cell = counters.share("a", 7)
    assert cell is not None and cell.others() == 0
    counters.hear({"a": 3, "unknown": 2})
    assert cell.others() == 3
    counters.hear({"a": 5})
    assert cell.others() == 5
    counters.hear({})
    assert cell.others() == 0
    counters.close()


def test_it_is_not_taken_for_what_is_in_flight_on_a_later_start_of_the_worker(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "counters.bin")
    counters.share("a", 7)
    counters.hear({"a": 3})
    later = counters.share("a", 8)
    assert later is not None and later.others() == 0
    counters.hear({"a": 1})
    assert later.others() == 1
    counters.close()


def test_it_is_not_counted_once_nobody_tells_it_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counters = Counters(tmp_path / "counters.bin")
    cell = counters.share("a", 7)
    assert cell is not None
    counters.hear({"a": 3})
    counters.refresh()
    assert cell.others() == 3
    monkeypatch.setattr(in_flight, "_FRESH_S", -1.0)
    counters.refresh()
    assert cell.others() == 0
    counters.close()


def test_a_backend_that_is_not_told_of_has_nothing_in_flight_elsewhere() -> None:
    loads = RemoteLoads()
    assert loads.put({"a": 2, "b": -1}, {"a": 1, "b": 1}, 0.0)
    assert not loads.put({"b": 1}, {"a": 1, "b": 1}, 0.1)
    assert {name: cells.tolist() for name, (cells, _) in loads.places().items()} == {"a": [1, 0], "b": [1, 1]}
