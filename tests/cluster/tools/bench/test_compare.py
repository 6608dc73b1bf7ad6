"""Two results side by side."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from cluster.tools.bench.compare import differences, groups, read_result, rows
from cluster.tools.bench.result import Result
from cluster.tools.bench.samples import BenchRun, Sample
from config.errors import UsageError


def _result(scale: float, *models: str, **settings: object) -> dict:
    samples = [
        Sample(m, 0.0, ttft=0.1 * scale, latency=0.3 * scale, gaps=[0.1 * scale] * 2, prompt_tokens=5, output_tokens=3)
        for m in models
    ]
    return Result(settings, "now", False, (BenchRun(samples, scale),)).to_json(requests=True)


def test_ratios_are_second_to_first_and_say_which_is_better() -> None:
    found = {row.what: row for row in rows(_result(1.0, "a")["total"], _result(2.0, "a")["total"])}
    assert found["end to end, p99, ms"].ratio == pytest.approx(2) and found["end to end, p99, ms"].verdict == "worse"
    assert found["answers per second"].ratio == pytest.approx(0.5) and found["answers per second"].verdict == "worse"
    assert found["time to first token, mean, ms"].verdict == "worse" and found["answered"].verdict == ""
    back = {row.what: row.verdict for row in rows(_result(2.0, "a")["total"], _result(1.0, "a")["total"])}
    assert back["end to end, p99, ms"] == back["answers per second"] == "better"


def test_a_small_difference_is_neither_and_the_first_failure_is_worse() -> None:
    one, two = _result(1.0, "a")["total"], _result(1.04, "a")["total"]
    assert {row.verdict for row in rows(one, two)} == {""}
    failed = {row.what: row for row in rows(one, {**copy.deepcopy(one), "failed": 3})}["failed"]
    assert (failed.ratio, failed.verdict) == (None, "worse")


def test_what_only_one_has_is_left_out() -> None:
    one, two = _result(1.0, "a")["total"], {**_result(1.0, "a")["total"], "ttft_ms": None}
    assert not any("first token" in row.what for row in rows(one, two))


def test_models_in_both_and_settings_that_differ() -> None:
    one, two = _result(1.0, "a", "b", rate=1.0, model="a"), _result(1.0, "b", "c", rate=2.0, model="a", out="x")
    assert [name for name, _ in groups(one, two)] == ["all", "b"]
    assert [name for name, _ in groups(_result(1.0, "a"), _result(1.0, "a"))] == ["all"]
    assert differences(one, two) == ["rate: 1.0, 2.0", "out: -, x"]


def test_only_results_can_be_compared(tmp_path: Path) -> None:
    good = tmp_path / "good.json"
    good.write_text(json.dumps(_result(1.0, "a")))
    assert read_result(good)["total"]["completed"] == 1
    for text in ("{]", "{}", "[]", '{"format": "other"}'):
        bad = tmp_path / "bad.json"
        bad.write_text(text)
        with pytest.raises(UsageError, match="no result"):
            read_result(bad)
    with pytest.raises(UsageError, match="No such file"):
        read_result(tmp_path / "absent.json")
