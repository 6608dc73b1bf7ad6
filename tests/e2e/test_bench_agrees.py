"""`clusterctl bench` beside `vllm bench serve`: the same prompts, the same target, the same figures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Cluster, clusterctl, environment, free_port
from worker.demo import model_path

pytestmark = [pytest.mark.vllm, pytest.mark.alone, pytest.mark.timeout(300)]

REQUESTS, TOKENS = 24, 12

#: Ours by theirs. Percentiles of both are numpy's.
FIGURES = {
    "requests_per_s": "request_throughput", "output_tokens_per_s": "output_throughput",
    "total_tokens_per_s": "total_token_throughput", "duration_s": "duration",
    **{
        f"{name}_ms.{figure}": f"{figure}_{name}_ms"
        for name in ("ttft", "tpot", "itl", "e2el") for figure in ("mean", "median", "p95", "p99")
    },
}  # fmt: skip


class Vllm:
    """`vllm bench serve`, imported once."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, 0
        self._log = (folder / "vllm.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("vllm_bench.py"))], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._log, text=True,
            env=environment(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_LOGGING_LEVEL="ERROR"),
        )
        self._expect("ready")

    def _expect(self, word: str) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line == word, (self._folder / "vllm.log").read_text()[-4000:]

    def run(self, url: str, *args: str) -> dict[str, Any]:
        self._number += 1
        name = f"vllm{self._number}.json"
        self._ask(
            "", "--base-url", url, "--served-model-name", "demo", "--percentile-metrics", "ttft,tpot,itl,e2el",
            "--metric-percentiles", "95,99", "--disable-tqdm", "--save-result", "--result-dir", str(self._folder),
            "--result-filename", name, *args,
        )
        return dict(json.loads((self._folder / name).read_text()))

    def prompts(self) -> Path:
        """Those that each run sends."""
        path = self._folder / "prompts.jsonl"
        self._ask(str(path))
        return path

    def _ask(self, file: str, *args: str) -> None:
        prompts = [
            "--dataset-name", "random", "--random-input-len", "24", "--random-output-len", str(TOKENS), "--num-prompts",
            str(REQUESTS), "--seed", "1",
        ]  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([file, "--model", str(model_path()), *prompts, *args]) + "\n")
        self.process.stdin.flush()
        self._expect("done")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Slow enough that 5 % are more than what a busy machine adds."""
    cluster = Cluster(tmp_path_factory.mktemp("bench"), free_port())
    result = cluster.up("--engine", "sim", "--instances", "1", "--", "--ttft-ms", "400", "--itl-ms", "25")
    assert result.returncode == 0, result.stderr
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    tool = Vllm(tmp_path_factory.mktemp("vllm"))
    yield tool
    tool.close()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            ["--endpoint", "completions", "--concurrency", "8"],
            ["--backend", "openai", "--endpoint", "/v1/completions", "--max-concurrency", "8"],
        ),
        (
            ["--endpoint", "chat", "--rate", "12"],
            ["--backend", "openai-chat", "--endpoint", "/v1/chat/completions", "--request-rate", "12"],
        ),
    ],
    ids=["closed loop of completions", "open loop of chats"],
)
def test_the_figures_are_those_of_vllm_bench_serve(
    target: Cluster, vllm: Vllm, tmp_path: Path, ours: list[str], theirs: list[str]
) -> None:
    """Two runs of each, by turns, and up to two more where the machine was too uneven for two. Agreed: the means are
    within 5 %, or no further apart than two runs of the same."""
    mine: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    prompts, apart = vllm.prompts(), ["no run"]
    while len(mine) < 2 or (apart and len(mine) < 4):
        one = _ours(target.url, tmp_path / str(len(mine)), "--prompts-file", str(prompts), "--ignore-eos", *ours)
        other = vllm.run(target.url, "--ignore-eos", *theirs)
        assert (one["completed"], one["failed"]) == (other["completed"], other["failed"]) == (REQUESTS, 0)
        assert one["output_tokens"] == other["total_output_tokens"] == REQUESTS * TOKENS
        assert one["prompt_tokens"] == other["total_input_tokens"]
        mine.append(one)
        others.append(other)
        seen = {
            name: ([_figure(m, name) for m in mine], [other[their_name] for other in others])
            for name, their_name in FIGURES.items()
        }
        apart = [f"{name}: ours {one}, theirs {two}" for name, (one, two) in seen.items() if not _agree(one, two)]
    assert not apart, apart


def _ours(url: str, out: Path, *args: str) -> dict[str, Any]:
    result = clusterctl("bench", "--url", url, "--model", "demo", "--out", str(out), "--plot", "none", *args)
    assert result.returncode == 0, result.stderr
    (file,) = out.glob("*.json")
    return dict(json.loads(file.read_text())["total"])


def _figure(found: dict[str, Any], name: str) -> float:
    key, _, figure = name.partition(".")
    return float(found[key][figure] if figure else found[key])


def _agree(ours: list[float], theirs: list[float]) -> bool:
    """The means differ by at most 5 %, or by at most what two runs of either differ by."""
    mean, their_mean = sum(ours) / len(ours), sum(theirs) / len(theirs)
    spread = max(max(ours) - min(ours), max(theirs) - min(theirs))
    return abs(mean - their_mean) <= max(0.05 * their_mean, spread)
