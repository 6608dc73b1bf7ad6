"""Policies on excerpts of recorded traffic: short forms of what `python -m sim` prints."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import sim
from cluster.cli.lifecycle.sizing import plan_command
from lb.routing.strategies.registry import STRATEGIES
from sim.__main__ import main
from sim.capacity import arrivals, capacities
from sim.comparison import POLICIES, SETTLED, sustained
from sim.moves import MovingRun
from sim.policies.informed import KNOWING
from sim.scenarios import Workload, sweep
from sim.simulation import Setting, run
from sim.traces import read, with_adapters
from worker.sim.engine.costs import H100_8B

EXCERPTS = Path(sim.__path__[0]) / "excerpts"
AZURE = Workload(read(EXCERPTS / "azure_2023_conversation.csv"), count=60)
MOONCAKE = Workload(read(EXCERPTS / "mooncake_conversation.jsonl"), count=60)
SMALL = Setting(H100_8B, workers=3, slots=3, host_adapters=12)


def test_traces_are_read_as_they_are_published() -> None:
    first, second = AZURE.rows[:2]
    assert (first.at, first.prompt, first.output) == (0.0, 374, 44)
    assert second.at > 0
    assert len(AZURE.rows) == 600
    conversation = MOONCAKE.rows[0]
    assert (conversation.prompt, len(conversation.blocks)) == (6758, 14)


def test_adapters_are_popular_by_rank_and_stay_with_their_conversation() -> None:
    drawn = with_adapters(AZURE.rows * 20, 50, 1.0, seed=1)
    assert drawn.count(0) / drawn.count(4) == pytest.approx(5, rel=0.2)
    of: dict[int, set[int]] = {}
    for row, adapter in zip(MOONCAKE.rows, MOONCAKE.drawn, strict=True):
        if len(row.blocks) > 2:
            of.setdefault(row.blocks[1], set()).add(adapter)
    assert all(len(adapters) == 1 for adapters in of.values())


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("workload", [AZURE, MOONCAKE], ids=["azure", "mooncake"])
def test_every_policy_answers_every_request_and_the_same_way_each_time(name: str, workload: Workload) -> None:
    one, again = (run(workload.at(4.0), POLICIES[name], SMALL) for _ in range(2))
    assert one.requests == len(workload.rows)
    assert all(math.isfinite(seconds) for seconds in (*one.ttft, *one.tpot))
    assert (one.ttft, one.swaps) == (again.ttft, again.swaps)


def test_adaptive_carries_more_than_the_peers_where_adapters_outnumber_slots() -> None:
    speed = {name: sustained(AZURE, POLICIES[name], SMALL, 0.9).speed for name in ("least connections", "adaptive")}
    assert speed["adaptive"] > 1.3 * speed["least connections"]


def test_with_slots_to_spare_it_is_level() -> None:
    setting = replace(SMALL, slots=64, host_adapters=64)
    least, ours = (
        run(AZURE.at(8.0), STRATEGIES[name], setting).percentile(0.5) for name in ("least_connections", "adaptive")
    )
    assert ours < 1.1 * least


@pytest.mark.parametrize("stale", [0.0, 0.5])
def test_several_balancers_carry_what_one_does(stale: float) -> None:
    """They tell each other of adapters and prompts: half a second late costs some of it."""
    alone = run(AZURE.at(4.0), POLICIES["adaptive"], SMALL)
    several = run(AZURE.at(4.0), POLICIES["adaptive"], replace(SMALL, balancers=4, stale=stale))
    assert several.goodput() > alone.goodput() - (0.15 if stale else 0.03)


@pytest.mark.parametrize("name", KNOWING)
def test_what_a_policy_is_told_changes_nothing_of_what_is_asked(name: str) -> None:
    result = run(MOONCAKE.at(4.0), KNOWING[name], SMALL)
    assert all(math.isfinite(seconds) for seconds in (*result.ttft, *result.tpot))
    assert result.goodput() > run(MOONCAKE.at(4.0), POLICIES["adaptive"], SMALL).goodput() - 0.1


def test_moved_streams_end_and_have_their_first_token_once() -> None:
    """With one slot there are many; each answer is whole, so none is faster than its tokens."""
    moves = MovingRun(POLICIES["adaptive"], replace(SMALL, slots=1))
    result = moves.drive(AZURE.at(1.0))
    assert moves.moved > 0
    assert all(math.isfinite(seconds) and seconds > 0 for seconds in result.ttft)
    least = H100_8B.step
    assert all(pace >= least or row.output == 1 for pace, row in zip(result.tpot, AZURE.rows, strict=True))


def test_requests_that_go_past_the_balancer_are_answered_too() -> None:
    result = run(AZURE.at(4.0), POLICIES["adaptive"], replace(SMALL, past=0.3))
    assert result.requests == len(AZURE.rows)
    assert all(math.isfinite(seconds) for seconds in result.ttft)


def test_what_the_sweep_varies_differs() -> None:
    found = sweep(AZURE.rows)
    assert len({each.vary for each in found}) == len(found) > 15
    assert len({repr((each.workload, each.setting)) for each in found}) == len(found)


@pytest.mark.long
def test_the_commands_print_their_tables() -> None:
    trace = str(EXCERPTS / "azure_2023_conversation.csv")
    told = CliRunner().invoke(
        main, ["compare", trace, "--workers", "2", "--slots", "2", "--adapters", "20"], catch_exceptions=False
    )
    rows = [line for line in told.output.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[1:]] == [*POLICIES, SETTLED]
    assert rows[-2].split("|")[3].strip() == "1.00"
    told = CliRunner().invoke(
        main, ["many", trace, "--requests", "2000", "--workers", "20", "--adapters", "20"], catch_exceptions=False
    )
    assert told.output.startswith("2000 requests, 20 workers")
    told = CliRunner().invoke(main, ["spare", trace, "--speed", "4"], catch_exceptions=False)
    good = [float(line.split("|")[4].strip(" %")) for line in told.output.splitlines()[2:]]
    assert len(good) == 10 and min(good) > 90


def test_a_plan_has_as_many_workers_as_it_takes_and_no_more() -> None:
    workload = Workload(arrivals(AZURE.rows, 12.0, 400, seed=1), count=40, ranks=(16,))
    setting = Setting(H100_8B)
    assert workload.rows[-1].at == pytest.approx(400 / 12.0, rel=0.2)
    for each in capacities(workload, setting, (2, 8), 0.95):
        assert each.workers is not None and each.result is not None and each.result.goodput() >= 0.95
        fewer = replace(setting, slots=each.slots, host_adapters=each.held, workers=each.workers - 1)
        assert each.workers == 1 or run(workload.at(1.0), POLICIES["adaptive"], fewer).goodput() < 0.95
        assert each.gpu_bytes == each.slots * 16 * H100_8B.adapter_bytes_rank


@pytest.mark.processes
def test_the_command_of_the_cluster_plans_by_simulation(capfd: pytest.CaptureFixture[str]) -> None:
    told = CliRunner().invoke(plan_command, ["--rps", "5", "--adapters", "30"], standalone_mode=False)
    assert told.exception is None, told.output
    rows = [line.split("|") for line in capfd.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[1].strip() for row in rows] == ["slots", "4", "8", "16", "32"]
    workers = [int(row[2]) for row in rows[1:]]
    assert workers == sorted(workers, reverse=True) and workers[-1] >= 1
