"""The short form of `make chaos`, and the harness's own arithmetic."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chaos import cases, report, run, score
from chaos.load import Outcome
from chaos.oracle import Kind
from chaos.scenarios import FAULTS, SCENARIOS, rounds
from chaos.score import Score, Struck

pytestmark = pytest.mark.processes

RUN = Path(__file__).with_name("run.py")


@pytest.mark.timeout(240)
def test_nothing_is_lost_or_wrong_whatever_happens_to_a_worker(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    command = [sys.executable, str(RUN), "--scenario", "short", "--json", str(result)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=220, check=False)
    assert result.exists(), ended.stderr
    found = json.loads(result.read_text())
    assert (found["failed"], found["wrong"], found["problems"]) == (0, 0, {}), ended.stdout
    assert found["requests"] > 100 and sum(row["times"] for row in found["faults"]) == len(SCENARIOS["short"].faults)
    assert ended.returncode == 0


@pytest.mark.timeout(240)
def test_answers_of_all_kinds_are_made_again_where_their_worker_is_killed(tmp_path: Path) -> None:
    """Guided ones, tools, thoughts, penalties, seeds, several choices, Messages and Responses."""
    result = tmp_path / "result.json"
    command = [sys.executable, str(RUN), "--scenario", "kinds", "--count", "4", "--streams", "12"]
    command += ["--json", str(result)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=220, check=False)
    assert result.exists(), ended.stderr
    found = json.loads(result.read_text())
    assert (found["failed"], found["wrong"], found["problems"]) == (0, 0, {}), ended.stdout
    assert found["moved"] > 5, ended.stdout
    assert ended.returncode == 0


def outcome(at: float, kind: Kind = Kind.OK, **more: Any) -> Outcome:
    return Outcome("1", True, at, at + 2, more.pop("hit", at + 2), kind, **more)


def test_an_answer_belongs_to_the_last_fault_it_lived_through() -> None:
    card = Score(struck=[Struck("a", 10, 12, 11, 12), Struck("b", 11, 20, None, 14), Struck("a", 40, 41)])
    card.outcomes = [outcome(0), outcome(9), outcome(10), outcome(19, Kind.WRONG), outcome(39, Kind.FAILED, lost=True)]
    rows = {row["fault"]: row for row in card.rows()}
    assert {name: row["requests"] for name, row in rows.items()} == {"a": 1, "b": 3, score.NOTHING: 1}
    assert rows["b"]["wrong"] == 1 and rows["a"]["lost"] == 1 and rows["a"]["failed"] == 0
    assert rows["a"]["times"] == 2 and rows["a"]["detect_s"] == {"p50": 1, "max": 1}
    card.outcomes = [outcome(39.9, Kind.FAILED, hit=40.3), outcome(39.9, Kind.FAILED, hit=39.95)]
    assert {row["fault"]: row["failed"] for row in card.rows()} == {"a": 1, "b": 0, score.NOTHING: 1}
    assert rows["b"]["detect_s"] is None and rows["b"]["restore_s"] == {"p50": 3, "max": 3}


@pytest.mark.parametrize(
    ("bad", "divergence", "passed"),
    [
        ([], 0.0, True),
        ([Kind.FAILED], 0.0, False),
        ([Kind.FAILED], 0.9, False),
        ([Kind.WRONG], 0.0, False),
        ([Kind.WRONG], 0.1, True),
        ([Kind.WRONG, Kind.WRONG], 0.1, False),
    ],
)
def test_what_passes(bad: list[Kind], divergence: float, passed: bool) -> None:
    kinds = bad + [Kind.OK] * (10 - len(bad))
    card = Score(divergence=divergence, outcomes=[outcome(n, kind) for n, kind in enumerate(kinds)])
    assert card.passed() is passed
    card.problem("it did not come back")
    assert not card.passed()


def test_a_run_without_an_answer_or_with_a_broken_promise_does_not_pass() -> None:
    assert not Score().passed()
    assert not Score(outcomes=[outcome(0)], struck=[Struck("a", 0, 1, problem="it was restarted")]).passed()
    assert Score(outcomes=[outcome(0, Kind.FAILED, lost=True)]).passed()


def test_the_cases_are_the_same_for_the_same_seed_and_of_all_kinds() -> None:
    def made(seed: int) -> list[cases.Case]:
        return cases.make(seed, ["demo", "poet", "pirate"], streams=48, plain=16, lengths=(40, 280))

    assert [c.body for c in made(1)] == [c.body for c in made(1)] != [c.body for c in made(2)]
    bodies = [case.body for case in made(1)]
    for name in ("stop", "logprobs", "return_token_ids", "stream_options", "min_tokens", "echo", "messages"):
        assert any(name in body for body in bodies), name
    assert {body["model"] for body in bodies} == {"demo", "poet", "pirate"}
    assert all(body["temperature"] == 0 for body in bodies) and sum("stream" in body for body in bodies) == 48
    assert not any("poison" in json.dumps(body) for body in bodies)


def test_rounds_are_every_fault_once_or_some_that_go_together() -> None:
    singly = list(itertools.islice(rounds(FAULTS, 1, together=False), len(FAULTS)))
    assert {kind for (kind,) in singly} == set(FAULTS)
    for kinds in itertools.islice(rounds(FAULTS, 1, together=True), 50):
        assert sum(kind.group == "worker" for kind in kinds) == 2 and len(kinds) == 3


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_can_be_had_shorter(name: str, tmp_path: Path) -> None:
    whole = run.chosen(run.options(["--scenario", name]))
    assert run.chosen(run.options(["--scenario", name, "--scale", "0.1"])).count <= max(1, whole.count // 5)
    assert run.chosen(run.options(["--scenario", name, "--count", "7"])).count == 7
    assert ("--max-num-seqs" in run.flags(whole, 3, tmp_path)) == (whole.full is not None)


def test_an_unknown_fault_is_refused() -> None:
    with pytest.raises(SystemExit, match="unknown fault 'flood'"):
        run.chosen(run.options(["--faults", "flood"]))


def result(name: str) -> dict[str, Any]:
    setting = {
        "scenario": name, "about": "something", "engine": "sim", "instances": 3, "streams": 5, "plain": 1, "seed": 1,
        "seconds": 3.0, "machine": "one", "count": 60, "every": 3.0,
    }  # fmt: skip
    card = Score(outcomes=[outcome(0), outcome(1, Kind.FAILED, reason="it broke off")], struck=[Struck("a", 0, 1)])
    card.skipped["disk full"] = "no disk to fill"
    return {"setting": setting, **card.to_json()}


def test_a_report_replaces_only_its_own_scenario_and_only_between_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "reliability.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write(tmp_path, "kills", result("kills"))
    report.write(tmp_path, "stop", result("stop"))
    report.write(tmp_path, "kills", result("kills"))
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert text.count("### kills") == text.count("### stop") == 1
    assert "Something (60 times, one every 3 s): 3 sim workers" in text
    assert "it broke off" in text and "skipped: no disk to fill" in text and "**Not passed.**" in text
    assert set(json.loads((tmp_path / "reliability.json").read_text())) == {"kills", "stop"}
    page.write_text("nothing")
    with pytest.raises(ValueError, match="markers"):
        report.write(tmp_path, "kills", result("kills"))
