"""The picture: drawn of anything, or told in one line that it cannot be."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.tools.bench import plot
from cluster.tools.bench.result import Result
from cluster.tools.bench.samples import BenchRun, Sample
from config.errors import UsageError

ONE = Sample("a", 0.1, ttft=0.1, latency=0.5, gaps=[0.1, 0.3], output_tokens=3)


@pytest.mark.parametrize("samples", [[ONE], [], [Sample("a", 0.0, error="timeout")], [Sample("a", 0.0, latency=0.1)]])
def test_it_draws_what_there_is(tmp_path: Path, samples: list[Sample]) -> None:
    result = Result({}, "now", False, (BenchRun(samples, 1.0), BenchRun([], 0.0)))
    plot.draw(result, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml")
    assert "matplotlib.pyplot" not in sys.modules


def test_it_draws_in_the_format_of_the_name(tmp_path: Path) -> None:
    plot.draw(Result({}, "now", False, (BenchRun([ONE], 1.0),)), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"clusterctl\[plot\]"):
        plot.draw(Result({}, "now", False, ()), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
