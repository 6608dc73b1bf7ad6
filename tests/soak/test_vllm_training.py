"""From nothing to an answer with a model of 135 million parameters, whose own answers are of use."""

from __future__ import annotations

from pathlib import Path

import pytest

from fromnothing import cleared, walk
from harness import Cluster, free_port
from worker.engines.llamacpp import ENGINE, SMOLLM2

pytestmark = [pytest.mark.soak, pytest.mark.vllm, pytest.mark.timeout(1800)]

_TRAINED = (
    "--rank", "8", "--epochs", "20", "--batch-size", "8", "--grad-accum", "1", "--lr", "0.002", "--dropout", "0",
    "--no-background",
)  # fmt: skip


def test_from_a_data_set_to_an_answer_of_smollm2(tmp_path: Path) -> None:
    from demo import smollm2  # here: it imports torch, which every collection of tests would wait for

    folder = tmp_path / "smol"
    smollm2.make(Path(ENGINE.locate(SMOLLM2, "--model")), folder)
    cluster = Cluster(tmp_path / "cluster", free_port())
    try:
        flags = ("--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "8")
        done = cluster.up("--model", str(folder), "--instances", "1", "--", *flags, timeout=400)
        assert done.returncode == 0, done.stderr
        cluster.wait_ready(1, 400)
        (base,) = (card["id"] for card in cluster.ask("GET", "/v1/models").json()["data"])
        with cleared(cluster):
            walk(cluster, tmp_path, base, _TRAINED, 900)
    finally:
        cluster.close()
